"""The ``VariantAutoscaling`` resource (``llmd.ai/v1alpha1``, short name ``va``): its one definition. Pure."""

from __future__ import annotations

from typing import Any

GROUP, VERSION, KIND, PLURAL = "llmd.ai", "v1alpha1", "VariantAutoscaling", "variantautoscalings"
API_VERSION = f"{GROUP}/{VERSION}"
TARGET_KINDS = {"Deployment": "apps/v1", "LeaderWorkerSet": "leaderworkerset.x-k8s.io/v1"}
"""Scale targets by kind, with the API version that an empty ``apiVersion`` stands for."""

Schema = dict[str, Any]

CONDITION_TYPES = ("TargetResolved", "MetricsAvailable", "OptimizationReady")
REASON_PATTERN = "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"


def crd() -> Schema:
    """The CustomResourceDefinition, ready for ``kubectl apply``."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": KIND, "listKind": f"{KIND}List", "plural": PLURAL, "singular": KIND.lower(),
                "shortNames": ["va"],
            },
            "scope": "Namespaced",
            "versions": [{
                "name": VERSION, "served": True, "storage": True, "schema": {"openAPIV3Schema": _root()},
                "subresources": {"status": {}}, "additionalPrinterColumns": _columns(),
            }],
        },
    }  # fmt: skip


def _columns() -> list[Schema]:
    def column(name: str, path: str, kind: str = "string", **more: Any) -> Schema:
        return {"name": name, "type": kind, "jsonPath": path, **more}

    return [
        column("Target", ".spec.scaleTargetRef.name"),
        column("Model", ".spec.modelID"),
        column("Min", ".spec.minReplicas", "integer"),
        column("Max", ".spec.maxReplicas", "integer"),
        column("Current", ".status.currentReplicas", "integer"),
        column("Optimized", ".status.desiredOptimizedAlloc.numReplicas", "integer"),
        column("Reason", ".status.lastDecision.reason"),
        column("MetricsReady", ".status.conditions[?(@.type=='MetricsAvailable')].status"),
        column("Cost", ".spec.variantCost", priority=1),
        column("Why", ".status.lastDecision.detail", priority=1),
        column("Age", ".metadata.creationTimestamp", "date"),
    ]


def _root() -> Schema:
    return {
        "type": "object",
        "description": "How one variant of a model is scaled, and what was last decided for it.",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": _spec(),
            "status": _status(),
        },
    }


def _spec() -> Schema:
    return {
        "type": "object",
        "description": "What to scale, and within which bounds.",
        "required": ["modelID", "scaleTargetRef"],
        "properties": {
            "scaleTargetRef": _target(),
            "modelID": _text("Model that the variant serves, as clients name it.", minLength=1, maxLength=512),
            "accelerator": _text("GPU product, such as h100_sxm; unset: from the pod template.", minLength=2,
                                 maxLength=128),
            "role": _text("Unset: the pod template's label llm-d.ai/role, else both.",
                          enum=["prefill", "decode", "both"]),
            "saturationThreshold": _ratio("Scale up above this saturation.", 0.8),
            "scaleDownThreshold": _ratio("Scale down below this saturation.", 0.3),
            "variantCost": _text("US dollars for one replica and hour.", default="10.0",
                                 pattern=r"^\d+(\.\d+)?$", maxLength=32),
            "minReplicas": _count("Replicas at least; 0 allows scaling to zero.", default=1),
            "maxReplicas": _count("Replicas at most.", default=10, minimum=1),
            "retentionSeconds": {"type": "number", "minimum": 1, "maximum": 31536000, "description":
                                 "With minReplicas 0: seconds without a request until the model goes to zero; "
                                 "unset: WVA_RETENTION_S."},
            "priority": {"type": "number", "minimum": 0.001, "maximum": 1000, "default": 1,
                         "description": "Of the model when GPUs are short: twice the priority, twice the share."},
            "enginePort": {"type": "integer", "format": "int32", "minimum": 1, "maximum": 65535,
                           "description": "Port of the engine; unset: the pod's port named http, else its first."},
            "startupSeconds": {"type": "number", "minimum": 0, "maximum": 86400,
                               "description": "Time from request to ready; unset: measured from the pods' starts."},
            "slo": _slo(),
        },
        "x-kubernetes-validations": [
            {"rule": "self.minReplicas <= self.maxReplicas", "message": "minReplicas is above maxReplicas",
             "fieldPath": ".minReplicas"},
            {"rule": "self.scaleDownThreshold < self.saturationThreshold",
             "message": "scaleDownThreshold is not below saturationThreshold", "fieldPath": ".scaleDownThreshold"},
        ],
    }  # fmt: skip


def _target() -> Schema:
    return {
        "type": "object",
        "description": "The workload whose replicas are scaled, in the same namespace.",
        "required": ["kind", "name"],
        "x-kubernetes-map-type": "atomic",
        "properties": {
            "apiVersion": _text("Unset: the kind's own.", maxLength=128),
            "kind": _text("Kind of the workload.", enum=list(TARGET_KINDS)),
            "name": _text("Its name.", minLength=1, maxLength=253),
        },
    }


def _slo() -> Schema:
    seconds: Schema = {"type": "number", "minimum": 0.000001, "maximum": 86400}
    return {
        "type": "object",
        "description": "Latency targets of this variant, in place of its model's in the SLO file.",
        "minProperties": 1,
        "properties": {
            "ttftSeconds": {**seconds, "description": "Time to the first token."},
            "tpotSeconds": {**seconds, "description": "Time per output token after the first."},
        },
    }


def _status() -> Schema:
    return {
        "type": "object",
        "description": "Written by wva, and only when something in it changes.",
        "properties": {
            "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0},
            "currentReplicas": _count("Replicas ready."),
            "desiredOptimizedAlloc": {
                "type": "object",
                "required": ["accelerator", "numReplicas"],
                "properties": {
                    "accelerator": _text("GPU product of the variant.", minLength=2, maxLength=128),
                    "numReplicas": _count("Replicas that it should have."),
                    "lastRunTime": _time("Pass that last changed this status."),
                },
            },
            "actuation": {
                "type": "object",
                "required": ["applied"],
                "properties": {"applied": {"type": "boolean", "description": "numReplicas was asked for."}},
            },
            "lastDecision": _decision(),
            "conditions": _conditions(),
        },
    }  # fmt: skip


def _decision() -> Schema:
    return {
        "type": "object",
        "required": ["direction", "reason"],
        "properties": {
            "direction": _text("Which way.", enum=["up", "down", "hold"]),
            "reason": _text("One word of wva's closed set.", maxLength=64),
            "detail": _text("The sentence with the numbers.", maxLength=2048),
            "time": _time("When it was made."),
        },
    }


def _conditions() -> Schema:
    return {
        "type": "array",
        "maxItems": 16,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["type", "status", "reason", "message", "lastTransitionTime"],
            "properties": {
                "type": _text(f"{', '.join(CONDITION_TYPES)}.", minLength=1, maxLength=316),
                "status": _text("Whether it holds.", enum=["True", "False", "Unknown"]),
                "reason": _text("Why, in one word.", minLength=1, maxLength=1024, pattern=REASON_PATTERN),
                "message": _text("Why, in a sentence.", maxLength=32768),
                "lastTransitionTime": _time("When status last changed."),
                "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0},
            },
        },
    }  # fmt: skip


def _text(description: str, **rules: Any) -> Schema:
    return {"type": "string", "description": description, **rules}


def _time(description: str) -> Schema:
    return {"type": "string", "format": "date-time", "description": description}


def _ratio(description: str, default: float) -> Schema:
    return {"type": "number", "description": description, "minimum": 0, "maximum": 1, "default": default}


def _count(description: str, **rules: Any) -> Schema:
    return {"type": "integer", "format": "int32", "description": description, "minimum": 0, "maximum": 1_000_000,
            **rules}  # fmt: skip
