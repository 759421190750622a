"""Objects of upstream's autoscaler as its versions 0.5 to 0.9 shipped them, and a set-up of KEDA alone."""

from __future__ import annotations

V05 = """
apiVersion: llmd.ai/v1alpha1
kind: VariantAutoscaling
metadata:
  name: llama-h100
  namespace: models
  uid: 0b3c
  resourceVersion: "7"
  labels:
    inference.optimization/acceleratorName: H100
    wva.llmd.ai/controller-instance: blue
    team: search
  annotations:
    kubectl.kubernetes.io/last-applied-configuration: "{}"
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: llama-h100}
  modelID: meta/Llama-3.1-8B
  variantCost: "80.0"
status:
  desiredOptimizedAlloc: {accelerator: H100, numReplicas: 3, lastRunTime: 2026-01-01T00:00:00Z}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: llama-h100-hpa, namespace: models}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: llama-h100}
  minReplicas: 2
  maxReplicas: 8
  metrics:
    - type: External
      external:
        metric:
          name: wva_desired_replicas
          selector: {matchLabels: {variant_name: llama-h100, exported_namespace: models, accelerator_type: H100}}
        target: {type: Value, value: "1"}
    - type: Resource
      resource: {name: cpu, target: {type: Utilization, averageUtilization: 90}}
  behavior:
    scaleDown: {stabilizationWindowSeconds: 240, policies: [{type: Pods, value: 1, periodSeconds: 60}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: workload-variant-autoscaler-variantautoscaling-config, namespace: wva-system}
data:
  PROMETHEUS_BASE_URL: https://prometheus.monitoring.svc:9090
  GLOBAL_OPT_INTERVAL: 60s
  PROMETHEUS_METRICS_CACHE_STALE_THRESHOLD: 2m
  COORDINATOR_INTERVAL: 15s
  WVA_SCALE_TO_ZERO: "false"
---
apiVersion: v1
kind: ConfigMap
metadata: {name: service-classes-config, namespace: wva-system}
data:
  premium.yaml: |
    name: Premium
    priority: 1
    data:
      - {model: default/default, slo-tpot: 24, slo-ttft: 500}
      - {model: meta/Llama-3.1-8B, slo-tpot: 40, slo-ttft: 1500}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: accelerator-unit-costs, namespace: wva-system}
data:
  H100: '{"device": "NVIDIA-H100-80GB-HBM3", "cost": "80.00"}'
---
apiVersion: v1
kind: ConfigMap
metadata: {name: kube-root-ca.crt, namespace: models}
data: {ca.crt: x}
"""

V09 = """
apiVersion: v1
kind: List
items:
- apiVersion: keda.sh/v1alpha1
  kind: ScaledObject
  metadata:
    name: qwen-scaler
    namespace: models
    annotations:
      llm-d.ai/managed: "true"
      llm-d.ai/model-id: Qwen/Qwen3-32B
      llm-d.ai/variant-cost: "7.98"
  spec:
    scaleTargetRef: {apiVersion: leaderworkerset.x-k8s.io/v1, kind: LeaderWorkerSet, name: qwen}
    pollingInterval: 5
    cooldownPeriod: 30
    minReplicaCount: 0
    maxReplicaCount: 6
    triggers:
    - type: prometheus
      name: wva-desired-replicas
      metricType: Value
      authenticationRef: {name: prom-auth}
      metadata:
        serverAddress: https://thanos:9091
        query: wva_desired_replicas{variant_name="qwen",exported_namespace="models"}
        threshold: "1"
        unsafeSsl: "true"
        authModes: bearer
    - type: cron
      metadata: {timezone: UTC, start: 0 8 * * *, end: 0 18 * * *, desiredReplicas: "2"}
- apiVersion: autoscaling/v2
  kind: HorizontalPodAutoscaler
  metadata:
    name: keda-hpa-qwen-scaler
    namespace: models
    labels: {scaledobject.keda.sh/name: qwen-scaler}
  spec: {scaleTargetRef: {kind: LeaderWorkerSet, name: qwen}, maxReplicas: 6}
- apiVersion: v1
  kind: ConfigMap
  metadata: {name: wva-saturation-scaling-config, namespace: wva-system}
  data:
    default: |
      analyzers: [{name: saturation, score: 1.0}]
      scaleUpThreshold: 0.9
      scaleDownBoundary: 0.6
      queueLengthThreshold: 8
      enableLimiter: true
      limiters:
        - {type: gpu-inventory}
        - {type: quota, name: team, scope: namespace, namespaceQuotas: {models: {H100: 8}}}
    "Qwen/Qwen3-32B#models": |
      priority: 3
      kvCacheThreshold: 0.7
      scaleToZero: {enabled: true}
- apiVersion: v1
  kind: ConfigMap
  metadata: {name: wva-model-scale-to-zero-config, namespace: wva-system}
  data:
    qwen: |
      model_id: Qwen/Qwen3-32B
      namespace: models
      enable_scale_to_zero: true
      retention_period: 20m
- apiVersion: v1
  kind: ConfigMap
  metadata: {name: wva-queueing-model-config, namespace: wva-system}
  data:
    default: |
      sloMultiplier: 3.0
    qwen: |
      model_id: Qwen/Qwen3-32B
      namespace: models
      targetTTFT: 800
      targetITL: 60
- apiVersion: v1
  kind: Namespace
  metadata: {name: models, labels: {wva.llmd.ai/config-enabled: "true"}}
"""

KEDA = """
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: {name: llama, namespace: chat}
spec:
  scaleTargetRef: {name: llama}
  minReplicaCount: 1
  maxReplicaCount: 5
  fallback: {failureThreshold: 3, replicas: 4}
  advanced:
    scalingModifiers: {formula: "queue + ttft", target: "1"}
  triggers:
    - type: prometheus
      name: queue
      metadata:
        serverAddress: http://prometheus:9090
        query: sum(vllm:num_requests_waiting{model_name="llama"})
        threshold: "5"
    - type: prometheus
      name: ttft
      metadata:
        serverAddress: http://prometheus:9090
        query: |-
          histogram_quantile(0.9, sum by (le) (rate(vllm:time_to_first_token_seconds_bucket{model_name="llama"}[1m])))
        threshold: "1.5"
---
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: {name: worker, namespace: chat}
spec:
  scaleTargetRef: {name: worker}
  triggers:
    - type: kafka
      metadata: {topic: jobs}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: mistral, namespace: chat}
spec:
  selector: {matchLabels: {app: mistral}}
  template:
    metadata: {labels: {app: mistral}}
    spec:
      containers:
        - name: vllm
          image: vllm/vllm-openai
          command: [vllm, serve, mistralai/Mistral-7B]
          args: ["--served-model-name=mistral-7b"]
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: mistral, namespace: chat}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: mistral}
  maxReplicas: 4
  metrics:
    - type: Pods
      pods:
        metric: {name: vllm_num_requests_waiting}
        target: {type: AverageValue, averageValue: "3"}
"""
