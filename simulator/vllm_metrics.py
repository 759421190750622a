"""What vLLM's ``/metrics`` page is made of, as data. Pure.

Names, types, help texts, labels and bucket bounds are those of a page recorded from vLLM 0.32; a test compares. What
older versions lack or name otherwise was read in the packages of 0.11, 0.16 and 0.20.
"""

from __future__ import annotations

from collections.abc import Mapping

VERSIONS = ("0.11", "0.16", "0.20", "0.32")
"""Pages that can be shown, oldest first."""
NEWEST = VERSIONS[-1]
TTFT_BOUNDS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0,
               80.0, 160.0, 640.0, 2560.0)  # fmt: skip
TOKEN_BOUNDS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0,
                80.0)  # fmt: skip
LATENCY_BOUNDS = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
                  480.0, 960.0, 1920.0, 7680.0)  # fmt: skip
STEP_BOUNDS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
N_BOUNDS = (1, 2, 5, 10, 20)
PREEMPTION_BOUNDS = (1, 2, 3, 4, 5, 10, 20)


def length_bounds(max_model_len: int) -> tuple[float, ...]:
    """1, 2, 5, 10, 20, 50 ... up to the longest request.

    >>> length_bounds(60)
    (1.0, 2.0, 5.0, 10.0, 20.0, 50.0)
    """
    steps = [float(digit * 10**power) for power in range(len(str(max_model_len))) for digit in (1, 2, 5)]
    return tuple(step for step in steps if step <= max(1, max_model_len))


GAUGES = {
    "num_requests_running": "Number of requests in model execution batches.",
    "num_requests_waiting": "Number of requests waiting to be processed.",
    "num_requests_waiting_by_reason": (
        "Number of waiting requests by reason. Reason labels: 'capacity' = waiting for scheduling capacity; 'deferred' "
        "= deferred by transient constraints (LoRA budget, KV transfer, blocked status). Sum of all reasons equals "
        "vllm:num_requests_waiting."
    ),
    "engine_sleep_state": (
        "Engine sleep state; awake = 0 means engine is sleeping; awake = 1 means engine is awake; weights_offloaded = "
        "1 means sleep level 1; discard_all = 1 means sleep level 2."
    ),
    "kv_cache_usage_perc": "KV-cache usage. 1 means 100 percent usage.",
}
_FLOPS = "Estimated number of {} per GPU (for Model Flops Utilization calculations)."
_EXTERNAL = "External prefix cache {} from KV connector cross-instance cache sharing, in terms of number of {} tokens."
_MULTIMODAL = "Multi-modal cache {}, in terms of number of {} items."
COUNTERS = {
    "estimated_flops_per_gpu_total": _FLOPS.format("floating point operations"),
    "estimated_read_bytes_per_gpu_total": _FLOPS.format("bytes read from memory"),
    "estimated_write_bytes_per_gpu_total": _FLOPS.format("bytes written to memory"),
    "prefix_cache_queries_total": "Prefix cache queries, in terms of number of queried tokens.",
    "prefix_cache_hits_total": "Prefix cache hits, in terms of number of cached tokens.",
    "external_prefix_cache_queries_total": _EXTERNAL.format("queries", "queried"),
    "external_prefix_cache_hits_total": _EXTERNAL.format("hits", "cached"),
    "mm_cache_queries_total": _MULTIMODAL.format("queries", "queried"),
    "mm_cache_hits_total": _MULTIMODAL.format("hits", "cached"),
    "num_preemptions_total": "Cumulative number of preemption from the engine.",
    "prompt_tokens_total": "Number of prefill tokens processed.",
    "prompt_tokens_by_source_total": "Number of prompt tokens by source.",
    "prompt_tokens_cached_total": "Number of cached prompt tokens (local + external).",
    "prompt_tokens_cached_by_source_total": (
        "Prefix-cache hit tokens by the cache tier that supplied them: device (local HBM), host (offloaded to DRAM), "
        "disk, p2p (transferred from another vLLM instance) or external_unspecified. Counted at admission; sums to "
        "vllm:prefix_cache_hits + vllm:external_prefix_cache_hits."
    ),
    "generation_tokens_total": "Number of generation tokens processed.",
    "request_success_total": "Count of successfully processed requests.",
    "admission_rejections_total": "Number of admission attempts rejected by a queue limit, by reason.",
}
"""Counters of features that the simulator does not have (external and multi-modal cache, flops, admission limits)
stay 0, as on a real engine that does not use them."""
SPLITS: dict[str, tuple[str, tuple[str, ...]]] = {
    "num_requests_waiting_by_reason": ("reason", ("capacity", "deferred")),
    "engine_sleep_state": ("sleep_state", ("awake", "weights_offloaded", "discard_all")),
    "prompt_tokens_by_source_total": ("source", ("local_compute", "local_cache_hit", "external_kv_transfer")),
    "prompt_tokens_cached_by_source_total": ("source", ("device", "host", "p2p", "disk", "external_unspecified")),
    "request_success_total": ("finished_reason", ("stop", "length", "abort", "error", "repetition")),
    "admission_rejections_total": ("reason", ("max_num_queued_reqs", "max_num_queued_tokens")),
}
"""Extra label and its values."""
SINCE = {
    "engine_sleep_state": "0.16", "external_prefix_cache_queries_total": "0.16",
    "external_prefix_cache_hits_total": "0.16", "mm_cache_queries_total": "0.16", "mm_cache_hits_total": "0.16",
    "prompt_tokens_by_source_total": "0.16", "prompt_tokens_cached_total": "0.16",
    "request_prefill_kv_computed_tokens": "0.16", "num_requests_waiting_by_reason": "0.20",
    "estimated_flops_per_gpu_total": "0.20", "estimated_read_bytes_per_gpu_total": "0.20",
    "estimated_write_bytes_per_gpu_total": "0.20", "prompt_tokens_cached_by_source_total": "0.32",
    "admission_rejections_total": "0.32", "request_num_preemptions": "0.32",
}  # fmt: skip
"""Version that first has a family; the others are in all."""
REASONS_SINCE = {"error": "0.16", "repetition": "0.20"}
"""Values of ``finished_reason`` that older versions lack."""
OLD_NAMES: Mapping[str, tuple[str, str, str, bool]] = {
    "time_per_output_token_seconds": (
        "0.11", "inter_token_latency_seconds",
        "Histogram of time per output token in seconds.DEPRECATED: Use vllm:inter_token_latency_seconds instead.",
        False),
    "gpu_cache_usage_perc": (
        "0.11", "kv_cache_usage_perc",
        "GPU KV-cache usage. 1 means 100 percent usage.DEPRECATED: Use vllm:kv_cache_usage_perc instead.", True),
    "gpu_prefix_cache_queries_total": (
        "0.11", "prefix_cache_queries_total",
        "GPU prefix cache queries, in terms of number of queriedtokens. DEPRECATED: Use vllm:prefix_cache_queries "
        "instead.", True),
    "gpu_prefix_cache_hits_total": (
        "0.11", "prefix_cache_hits_total",
        "GPU prefix cache hits, in terms of number of cached tokens. DEPRECATED: Use vllm:prefix_cache_hits instead.",
        True),
}  # fmt: skip
"""Former names: the only version that has them, today's name, the help text, and whether they are hidden there
(vLLM's ``--show-hidden-metrics-for-version``)."""
RECOMPUTED = ("prompt_tokens_recomputed_total", "Number of cached tokens recomputed for forward pass.")
"""A counter that 0.16 alone has."""
NIXL_COUNTERS = {
    "nixl_num_failed_transfers_total": (
        "Number of failed NIXL KV Cache transfers, including handshake and notification failures. NOTE: KV expiry is "
        "tracked separately in vllm:nixl_num_kv_expired_reqs."
    ),
    "nixl_num_failed_notifications_total": (
        "Number of failed NIXL KV Cache notifications. Retained for compatibility; these failures are also included in "
        "vllm:nixl_num_failed_transfers."
    ),
    "nixl_num_kv_expired_reqs_total": (
        "Number of requests that had their KV expire. NOTE: This metric is tracked on the P instance."
    ),
}
"""On the page of an engine with a KV connector."""
NIXL_HISTOGRAMS: dict[str, tuple[str, tuple[float, ...]]] = {
    "nixl_xfer_time_seconds": (
        "Histogram of transfer duration for NIXL KV Cache transfers.",
        (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 5.0)),
    "nixl_bytes_transferred": (
        "Histogram of bytes transferred per NIXL KV Cache transfers.",
        tuple(float(2 ** (10 + power)) for power in range(1, 25, 2))),
}  # fmt: skip
LORA_INFO = ("lora_requests_info", "Running stats on lora requests.")


def has(name: str, version: str) -> bool:
    """Whether ``version`` has a family of today's name."""
    return VERSIONS.index(SINCE.get(name, VERSIONS[0])) <= VERSIONS.index(version)


NO_ENGINE_LABEL = frozenset({"admission_rejections_total"})
LENGTH_HISTOGRAMS = {
    "request_prompt_tokens": "Number of prefill tokens processed.",
    "request_generation_tokens": "Number of generation tokens processed.",
    "request_max_num_generation_tokens": "Histogram of maximum number of requested generation tokens.",
    "request_params_max_tokens": "Histogram of the max_tokens request parameter.",
    "request_prefill_kv_computed_tokens": (
        "Histogram of new KV tokens computed during prefill (excluding cached tokens)."
    ),
}
_PHASE = "Histogram of time spent in {} phase for request."
HISTOGRAMS: dict[str, tuple[str, tuple[float, ...]]] = {
    "iteration_tokens_total": ("Histogram of number of tokens per engine_step.", STEP_BOUNDS),
    "request_params_n": ("Histogram of the n request parameter.", N_BOUNDS),
    "time_to_first_token_seconds": ("Histogram of time to first token in seconds.", TTFT_BOUNDS),
    "inter_token_latency_seconds": ("Histogram of inter-token latency in seconds.", TOKEN_BOUNDS),
    "request_time_per_output_token_seconds": (
        "Histogram of time_per_output_token_seconds per request.", TOKEN_BOUNDS),
    "e2e_request_latency_seconds": ("Histogram of e2e request latency in seconds.", LATENCY_BOUNDS),
    "request_queue_time_seconds": (_PHASE.format("WAITING"), LATENCY_BOUNDS),
    "request_inference_time_seconds": (_PHASE.format("RUNNING"), LATENCY_BOUNDS),
    "request_prefill_time_seconds": (_PHASE.format("PREFILL"), LATENCY_BOUNDS),
    "request_decode_time_seconds": (_PHASE.format("DECODE"), LATENCY_BOUNDS),
    "request_num_preemptions": ("Histogram of the number of times a request was preempted.", PREEMPTION_BOUNDS),
}  # fmt: skip


def cache_config(*, blocks: int, block_tokens: int, max_model_len: int, bytes_per_token: int) -> dict[str, str]:
    """Labels of ``vllm:cache_config_info``."""
    absent = ("cache_hit_alignment_tokens", "hash_block_size", "kv_cache_layout", "kv_offloading_size",
              "mamba_block_size", "mamba_page_size_padded", "num_cpu_blocks", "num_gpu_blocks_override",
              "prefix_match_unit", "skip_page_size_padded", "sliding_window")  # fmt: skip
    unused = ("enable_mamba_shared_prefix_checkpoint", "is_attention_free", "kv_sharing_fast_prefill",
              "use_kda_recoverssm", "use_replayssm", "user_specified_block_size")  # fmt: skip
    tokens = blocks * block_tokens
    return {
        **dict.fromkeys(absent, "None"), **dict.fromkeys(unused, "False"),
        "_block_size_resolved": "True", "block_size": str(block_tokens), "cache_dtype": "auto",
        "effective_attention_block_size": str(block_tokens), "enable_prefix_caching": "True", "engine": "0",
        "gpu_memory_utilization": "0.92", "kv_cache_dtype_skip_layers": "[]",
        "kv_cache_max_concurrency": str(tokens / max_model_len), "kv_cache_memory_bytes": str(tokens * bytes_per_token),
        "kv_cache_size_tokens": str(tokens), "kv_offloading_backend": "native", "mamba_cache_dtype": "auto",
        "mamba_cache_mode": "none", "mamba_ssm_cache_dtype": "float32", "num_gpu_blocks": str(blocks),
        "prefix_cache_retention_interval": "0", "prefix_caching_hash_algo": "xxhash", "replayssm_buffer_len": "16",
        "swa_bounded_replay": "True",
    }  # fmt: skip
