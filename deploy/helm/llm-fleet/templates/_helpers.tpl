{{- define "fleet.name" -}}
{{- printf "%s-%s" .root.Release.Name .part | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "fleet.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}{{ .repository }}@{{ .digest }}{{- else -}}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{- end -}}
{{- end -}}
{{- end -}}

{{- define "fleet.selector" -}}
app.kubernetes.io/name: fleet-{{ .part }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- end -}}

{{- define "fleet.labels" -}}
{{ include "fleet.selector" . }}
app.kubernetes.io/part-of: llm-fleet
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end -}}

{{/* What every pod of ours shares. Service links are off: Kubernetes would set ROUTER_PORT and its like, which are not ours. */}}
{{- define "fleet.pod" -}}
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  seccompProfile: {type: RuntimeDefault}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.nodeSelector }}
nodeSelector: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.tolerations }}
tolerations: {{ toYaml . | nindent 2 }}
{{- end }}
volumes:
  - name: home
    emptyDir: {sizeLimit: 2Gi}
  - name: slos
    configMap: {name: {{ include "fleet.name" (dict "root" .root "part" "slos") }}}
{{- range .volumes }}
  - {{ toYaml . | nindent 4 | trim }}
{{- end }}
{{- end -}}

{{- define "fleet.restricted" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end -}}

{{- define "fleet.env" -}}
- {name: HOME, value: /var/lib/fleet}
- {name: TMPDIR, value: /var/lib/fleet}
- {name: FLEET_HOME, value: /var/lib/fleet}
- {name: FLEET_SLO_FILE, value: /etc/fleet/slos.yaml}
- {name: FLEET_HISTORY_KEEP_S, value: {{ .root.Values.history.keepSeconds | quote }}}
{{- if include "fleet.historySecret" .root }}
- name: FLEET_HISTORY_URL
  valueFrom: {secretKeyRef: {name: {{ include "fleet.historySecret" .root }}, key: url}}
{{- end }}
{{- range $name, $value := .settings }}
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- end -}}

{{- define "fleet.mounts" -}}
- {name: home, mountPath: /var/lib/fleet}
- {name: slos, mountPath: /etc/fleet, readOnly: true}
{{- end -}}

{{- define "fleet.historySecret" -}}
{{- if .Values.history.existingSecret -}}{{ .Values.history.existingSecret }}
{{- else if .Values.history.bundled.enabled -}}{{ include "fleet.name" (dict "root" . "part" "history") }}{{- end -}}
{{- end -}}

{{- define "fleet.kvSecret" -}}
{{- if .Values.kvIndex.existingSecret -}}{{ .Values.kvIndex.existingSecret }}
{{- else if .Values.kvIndex.bundled.enabled -}}{{ include "fleet.name" (dict "root" . "part" "kvindex") }}{{- end -}}
{{- end -}}

{{- define "fleet.url" -}}
http://{{ include "fleet.name" . }}.{{ .root.Release.Namespace }}.svc:{{ .port }}
{{- end -}}

{{/* One Service and, where there may be more than one pod, a disruption budget. */}}
{{- define "fleet.service" -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ include "fleet.name" . }}
  namespace: {{ .root.Release.Namespace }}
  labels: {{ include "fleet.labels" . | nindent 4 }}
spec:
  selector: {{ include "fleet.selector" . | nindent 4 }}
  ports: {{ toYaml .ports | nindent 4 }}
{{- if gt (int .replicas) 1 }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ include "fleet.name" . }}
  namespace: {{ .root.Release.Namespace }}
  labels: {{ include "fleet.labels" . | nindent 4 }}
spec:
  maxUnavailable: 1
  selector:
    matchLabels: {{ include "fleet.selector" . | nindent 6 }}
{{- end }}
{{- end -}}

{{- define "fleet.account" -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ include "fleet.name" . }}
  namespace: {{ .root.Release.Namespace }}
  labels: {{ include "fleet.labels" . | nindent 4 }}
{{- with .root.Values.serviceAccount.annotations }}
  annotations: {{ toYaml . | nindent 4 }}
{{- end }}
automountServiceAccountToken: {{ .token }}
{{- end -}}
