"""Words of other routers' configuration that mean something else here, or nothing. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

SEVERAL_PROFILES: Final = frozenset({"disagg-profile-handler", "pd-profile-handler", "header-profile-handler"})
"""Upstream's plugins that work with more than one scheduling profile."""

BUILT_IN: Final = (
    *sorted(SEVERAL_PROFILES),
    "single-profile-handler", "single-profile", "data-parallel-profile-handler", "prefill-header-handler",
    "prefix-based-pd-decider", "always-disagg-pd-decider",
    "precise-prefix-cache-producer", "inflight-load-producer", "predicted-latency-producer", "session-id-producer",
    "token-producer", "tokenizer", "metrics-data-source", "core-metrics-extractor", "endpoint-notification-source",
    "openai-parser", "vllmhttp-parser", "passthrough-parser", "models-responder",
    "utilization-detector", "concurrency-detector",
    "fcfs-ordering-policy", "fcfs-ordering", "global-strict-fairness-policy", "global-strict-fairness",
    "round-robin-fairness-policy", "static-usage-limit-policy", "static-usage-limit",
)  # fmt: skip
"""Upstream's plugins for what this router always does; their parameters are noted as without effect."""

OTHERWISE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "slo-headroom-tier-filter": "latency-scorer scores the headroom; nothing is filtered by it",
        "topology-affinity-filter": "topology-affinity-scorer scores the distance; nothing is filtered by it",
        "endpoint-attribute-filter": "there are no such attributes here; label-selector-filter reads labels",
        "endpoint-attribute-scorer": "there are no such attributes here",
        "header-label-affinity": "no header of a client chooses an endpoint here",
        "mm-embeddings-cache-scorer": "the cache of embeddings is not followed",
        "mm-embeddings-cache-producer": "the cache of embeddings is not followed",
        "burst-prefix-cache-producer": "prompts are remembered at dispatch, so a burst meets what went before it",
        "p2p-source-producer": "engines find each other's blocks themselves",
        "encode-filter": "there are no engines for encoding alone here",
        "always-disagg-multimodal-decider": "there are no engines for encoding alone here",
        "latency-slo-admitter": "flow control admits requests here",
        "probabilistic-admitter": "flow control admits requests here",
        "anthropic-parser": "the OpenAI API is read",
        "vllmgrpc-parser": "the OpenAI API is read",
        "decision-tree-filter": "filters are applied in the order of the profile",
        "least-queue-filter": "queue-scorer ranks by the queue",
        "least-kv-cache-filter": "kv-cache-utilization-scorer ranks by the KV cache",
    }
)
"""Upstream's plugins that are not here, each with what is."""

SECTIONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "featureGates": "there are no gates here",
        "dataLayer": "the router's own settings say what is scraped and how often",
        "data": "the router's own settings say what is scraped and how often",
        "requestHandler": "the OpenAI API is always read",
        "parser": "the OpenAI API is always read",
        "flowControl": "the router's own settings say how requests wait",
        "saturationDetector": "the router's own settings say how requests wait",
        "kvcacheIndexer": "the router's own settings say how caches are followed",
    }
)
"""Sections of other routers' files that have no effect on scheduling."""
