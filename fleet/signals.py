"""The metric catalogue: every series that the project reads or writes, once. Pure.

All PromQL (:mod:`fleet.promql`), the scraper and the generated rules take their names from here; a test fails on a
series outside it. Engine names differ by engine and version: ``name`` is what vLLM 0.32 exports, ``aliases`` are the
same quantity elsewhere, tried in order.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Kind(enum.StrEnum):
    """Prometheus types."""

    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"


class Layer(enum.IntEnum):
    """The four layers of the console and the alerts."""

    BUSINESS = 1
    APPLICATION = 2
    RESOURCES = 3
    INFRASTRUCTURE = 4


class Origin(enum.StrEnum):
    """Who exports the series."""

    ENGINE = "engine"
    ROUTER = "router"
    WVA = "wva"
    PREDICTOR = "predictor"
    ALERTS = "alerts"
    SIMULATOR = "simulator"
    DCGM = "dcgm"
    NODE = "node_exporter"
    KUBE_STATE = "kube_state_metrics"
    PROMETHEUS = "prometheus"


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """One series (a counter's name carries ``_total``; a histogram's is the base name)."""

    name: str
    kind: Kind
    unit: str
    layer: Layer
    origin: Origin
    meaning: str
    labels: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The name and then its aliases, in the order they are tried."""
        return (self.name, *self.aliases)


def _engine(name: str, kind: Kind, unit: str, meaning: str, *, labels: tuple[str, ...] = (), layer: Layer = Layer.APPLICATION,
            aliases: tuple[str, ...] = ()) -> Signal:  # fmt: skip
    return Signal(name=name, kind=kind, unit=unit, layer=layer, origin=Origin.ENGINE, meaning=meaning,
                  labels=("model_name", "engine", *labels), aliases=aliases)  # fmt: skip


G, C, H = Kind.GAUGE, Kind.COUNTER, Kind.HISTOGRAM

WAITING = _engine(
    "vllm:num_requests_waiting",
    G,
    "requests",
    "Requests waiting for the engine's scheduler.",
    aliases=("sglang:num_queue_reqs", "kserve_vllm:num_requests_waiting", "ray_vllm_num_requests_waiting"),
)
WAITING_BY_REASON = _engine(
    "vllm:num_requests_waiting_by_reason",
    G,
    "requests",
    "Waiting requests by reason (capacity, deferred).",
    labels=("reason",),
)
RUNNING = _engine(
    "vllm:num_requests_running",
    G,
    "requests",
    "Requests in the running batch.",
    aliases=("sglang:num_running_reqs", "kserve_vllm:num_requests_running", "ray_vllm_num_requests_running"),
)
KV_UTILISATION = _engine(
    "vllm:kv_cache_usage_perc",
    G,
    "ratio",
    "KV-cache blocks in use, 0..1 despite its name.",
    aliases=(
        "vllm:gpu_cache_usage_perc",
        "sglang:token_usage",
        "kserve_vllm:kv_cache_usage_perc",
        "ray_vllm_kv_cache_usage_perc",
    ),
)
LORA_INFO = Signal(
    name="vllm:lora_requests_info",
    kind=G,
    unit="s",
    layer=Layer.APPLICATION,
    origin=Origin.ENGINE,
    meaning="LoRA adapters of running and of waiting requests, in labels; the value is when that was so (Unix time).",
    labels=("max_lora", "running_lora_adapters", "waiting_lora_adapters"),
    aliases=("kserve_vllm:lora_requests_info", "ray_vllm_lora_requests_info"),
)
CACHE_CONFIG = Signal(
    name="vllm:cache_config_info",
    kind=G,
    unit="info",
    layer=Layer.APPLICATION,
    origin=Origin.ENGINE,
    meaning="KV-cache configuration as labels (block_size, num_gpu_blocks); no model_name.",
    labels=("engine", "block_size", "num_gpu_blocks"),
)
PROMPT_TOKENS = _engine(
    "vllm:prompt_tokens_total",
    C,
    "tokens",
    "Prompt tokens, cached ones included.",
    aliases=("sglang:prompt_tokens_total", "kserve_vllm:prompt_tokens_total", "ray_vllm_prompt_tokens_total"),
)
GENERATION_TOKENS = _engine(
    "vllm:generation_tokens_total",
    C,
    "tokens",
    "Generated tokens.",
    layer=Layer.BUSINESS,
    aliases=(
        "sglang:generation_tokens_total",
        "kserve_vllm:generation_tokens_total",
        "ray_vllm_generation_tokens_total",
    ),
)
PREFIX_HITS = _engine(
    "vllm:prefix_cache_hits_total",
    C,
    "tokens",
    "Prompt tokens found in the prefix cache.",
    aliases=(
        "sglang:cached_tokens_total",
        "kserve_vllm:prefix_cache_hits_total",
        "ray_vllm_prefix_cache_hits_total",
    ),
)
PREFIX_QUERIES = _engine(
    "vllm:prefix_cache_queries_total",
    C,
    "tokens",
    "Prompt tokens looked up in the prefix cache.",
    aliases=("kserve_vllm:prefix_cache_queries_total", "ray_vllm_prefix_cache_queries_total"),
)
PREEMPTIONS = _engine(
    "vllm:num_preemptions_total",
    C,
    "requests",
    "Requests preempted and computed again.",
    aliases=(
        "sglang:num_retracted_requests_total",
        "kserve_vllm:num_preemptions_total",
        "ray_vllm_num_preemptions_total",
    ),
)
FINISHED = _engine(
    "vllm:request_success_total",
    C,
    "requests",
    "Finished requests, aborts and errors too: no success SLI.",
    labels=("finished_reason",),
    aliases=("sglang:num_requests_total", "kserve_vllm:request_success_total", "ray_vllm_request_success_total"),
)
ENGINE_TTFT = _engine(
    "vllm:time_to_first_token_seconds",
    H,
    "s",
    "Time to first token from the engine's arrival.",
    layer=Layer.BUSINESS,
    aliases=(
        "sglang:time_to_first_token_seconds",
        "kserve_vllm:time_to_first_token_seconds",
        "ray_vllm_time_to_first_token_seconds",
    ),
)
ENGINE_ITL = _engine(
    "vllm:inter_token_latency_seconds",
    H,
    "s",
    "Time between tokens, per step.",
    layer=Layer.BUSINESS,
    aliases=("vllm:time_per_output_token_seconds", "sglang:inter_token_latency_seconds"),
)
ENGINE_TPOT = _engine(
    "vllm:request_time_per_output_token_seconds",
    H,
    "s",
    "Mean time per output token, per request.",
    layer=Layer.BUSINESS,
    aliases=(
        "kserve_vllm:request_time_per_output_token_seconds",
        "ray_vllm_request_time_per_output_token_seconds",
    ),
)
ENGINE_E2E = _engine(
    "vllm:e2e_request_latency_seconds",
    H,
    "s",
    "Whole request in the engine.",
    layer=Layer.BUSINESS,
    aliases=(
        "sglang:e2e_request_latency_seconds",
        "kserve_vllm:e2e_request_latency_seconds",
        "ray_vllm_e2e_request_latency_seconds",
    ),
)
ENGINE_QUEUE_TIME = _engine("vllm:request_queue_time_seconds", H, "s", "Time in the engine's queue.")
ENGINE_PREFILL_TIME = _engine("vllm:request_prefill_time_seconds", H, "s", "Time in prefill.")
ENGINE_DECODE_TIME = _engine("vllm:request_decode_time_seconds", H, "s", "Time in decode.")
ENGINE_INFERENCE_TIME = _engine("vllm:request_inference_time_seconds", H, "s", "Time running (prefill and decode).")
ENGINE_PROMPT_LENGTH = _engine("vllm:request_prompt_tokens", H, "tokens", "Prompt length by request.")
ENGINE_OUTPUT_LENGTH = _engine("vllm:request_generation_tokens", H, "tokens", "Output length by request.")
ENGINE_MAX_TOKENS = _engine("vllm:request_params_max_tokens", H, "tokens", "max_tokens asked for.")
STEP_TOKENS = _engine(
    "vllm:iteration_tokens_total", H, "tokens", "Tokens per engine step (a histogram despite _total)."
)
ADMISSION_REJECTIONS = Signal(
    name="vllm:admission_rejections_total",
    kind=C,
    unit="requests",
    layer=Layer.APPLICATION,
    origin=Origin.ENGINE,
    meaning="Requests refused at the engine's door (vLLM 0.32; off by default), by reason.",
    labels=("model_name", "reason"),
    aliases=("kserve_vllm:admission_rejections_total", "ray_vllm_admission_rejections_total"),
)
NIXL_FAILED = _engine("vllm:nixl_num_failed_transfers_total", C, "transfers", "KV transfers that failed.",
                      aliases=("kserve_vllm:nixl_num_failed_transfers_total",
                               "ray_vllm_nixl_num_failed_transfers_total"))  # fmt: skip
NIXL_EXPIRED = _engine("vllm:nixl_num_kv_expired_reqs_total", C, "requests", "Requests whose remote KV expired.",
                       aliases=("kserve_vllm:nixl_num_kv_expired_reqs_total",
                                "ray_vllm_nixl_num_kv_expired_reqs_total"))  # fmt: skip
ENGINE_HTTP = Signal(
    name="http_requests_total",
    kind=C,
    unit="requests",
    layer=Layer.BUSINESS,
    origin=Origin.ENGINE,
    meaning="HTTP requests of the engine's API server.",
    labels=("handler", "method", "status"),
)

ROUTER_LABELS = ("model_name", "target_model_name")
ROUTER_REQUESTS = Signal(
    name="llm_d_epp_request_total",
    kind=C,
    unit="requests",
    layer=Layer.BUSINESS,
    origin=Origin.ROUTER,
    meaning="Requests received by the router.",
    labels=ROUTER_LABELS,
    aliases=("inference_objective_request_total",),
)
ROUTER_ERRORS = Signal(
    name="llm_d_epp_request_error_total",
    kind=C,
    unit="requests",
    layer=Layer.BUSINESS,
    origin=Origin.ROUTER,
    meaning="Requests that ended in an error, by code.",
    labels=(*ROUTER_LABELS, "error_code"),
    aliases=("inference_objective_request_error_total",),
)
ROUTER_TTFT = Signal(
    name="llm_d_epp_request_ttft_seconds",
    kind=H,
    unit="s",
    layer=Layer.BUSINESS,
    origin=Origin.ROUTER,
    meaning="Time to first token as the client saw it; 0.2 is a bound.",
    labels=(*ROUTER_LABELS, "streaming"),
)
ROUTER_TPOT = Signal(
    name="llm_d_epp_request_streaming_tpot_seconds",
    kind=H,
    unit="s",
    layer=Layer.BUSINESS,
    origin=Origin.ROUTER,
    meaning="Mean time per output token of streamed requests.",
    labels=ROUTER_LABELS,
)
ROUTER_DURATION = Signal(
    name="llm_d_epp_request_duration_seconds",
    kind=H,
    unit="s",
    layer=Layer.BUSINESS,
    origin=Origin.ROUTER,
    meaning="Whole request as the client saw it.",
    labels=ROUTER_LABELS,
)
ROUTER_RUNNING = Signal(
    name="llm_d_epp_request_running",
    kind=G,
    unit="requests",
    layer=Layer.APPLICATION,
    origin=Origin.ROUTER,
    meaning="Requests in flight through the router.",
    labels=("model_name",),
)
ROUTER_INPUT_TOKENS = Signal(
    name="llm_d_epp_request_input_tokens",
    kind=H,
    unit="tokens",
    layer=Layer.APPLICATION,
    origin=Origin.ROUTER,
    meaning="Prompt length by request.",
    labels=ROUTER_LABELS,
)
ROUTER_PROMPT_TOKENS = Signal(
    name="fleet_router_prompt_tokens_total",
    kind=C,
    unit="tokens",
    layer=Layer.APPLICATION,
    origin=Origin.ROUTER,
    meaning="Prompt tokens of the requests received, counted when they come.",
    labels=ROUTER_LABELS,
)
ROUTER_OUTPUT_TOKENS = Signal(
    name="llm_d_epp_request_output_tokens",
    kind=H,
    unit="tokens",
    layer=Layer.APPLICATION,
    origin=Origin.ROUTER,
    meaning="Output length by request.",
    labels=ROUTER_LABELS,
)
ROUTER_SCHEDULER = Signal(
    name="llm_d_epp_scheduler_e2e_duration_seconds",
    kind=H,
    unit="s",
    layer=Layer.APPLICATION,
    origin=Origin.ROUTER,
    meaning="Time to choose an endpoint.",
    aliases=("inference_extension_scheduler_e2e_duration_seconds",),
)
ROUTER_READY = Signal(
    name="llm_d_epp_ready_endpoints",
    kind=G,
    unit="endpoints",
    layer=Layer.APPLICATION,
    origin=Origin.ROUTER,
    meaning="Endpoints the router may pick.",
    labels=("name",),
    aliases=("inference_pool_ready_pods",),
)
ROUTER_ENDPOINT_QUEUE = Signal(
    name="llm_d_epp_per_endpoint_queue_size",
    kind=G,
    unit="requests",
    layer=Layer.APPLICATION,
    origin=Origin.ROUTER,
    meaning="Requests waiting at an endpoint as last scraped.",
    labels=("name", "model_server_endpoint"),
)
ROUTER_PREFIX_HIT_RATIO = Signal(
    name="llm_d_epp_prefix_indexer_hit_ratio",
    kind=H,
    unit="ratio",
    layer=Layer.APPLICATION,
    origin=Origin.ROUTER,
    meaning="Matched share of the prompt at the endpoint picked.",
)
ROUTER_PREDICTED_TTFT = Signal(
    name="llm_d_epp_request_predicted_ttft_seconds",
    kind=H,
    unit="s",
    layer=Layer.APPLICATION,
    origin=Origin.ROUTER,
    meaning="TTFT predicted for the endpoint picked.",
    labels=ROUTER_LABELS,
)
ROUTER_FLOW_QUEUE = Signal(
    name="llm_d_epp_flow_control_queue_size",
    kind=G,
    unit="requests",
    layer=Layer.APPLICATION,
    origin=Origin.ROUTER,
    meaning="Requests held at the router.",
    labels=("target_model_name",),
    aliases=("inference_extension_flow_control_queue_size",),
)
ROUTER_FLOW_WAIT = Signal(
    name="llm_d_epp_flow_control_request_queue_duration_seconds",
    kind=H,
    unit="s",
    layer=Layer.APPLICATION,
    origin=Origin.ROUTER,
    meaning="Time that requests were held at the router.",
)
ROUTER_FLOW_OUTCOMES = Signal(
    name="llm_d_epp_flow_control_requests_total",
    kind=C,
    unit="requests",
    layer=Layer.APPLICATION,
    origin=Origin.ROUTER,
    meaning="Requests that were held at the router, by what became of them.",
    labels=("outcome",),
)
ROUTER_SHED = Signal(
    name="fleet_router_shed_total",
    kind=C,
    unit="requests",
    layer=Layer.APPLICATION,
    origin=Origin.ROUTER,
    meaning="Requests refused for want of an endpoint, by reason.",
    labels=("model_name", "reason"),
)
ROUTER_RECORDED = Signal(
    name="fleet_router_history_rows_total",
    kind=C,
    unit="requests",
    layer=Layer.APPLICATION,
    origin=Origin.ROUTER,
    meaning="Finished requests and the history: written, sampled out above ROUTER_RECORD_RPS, or dropped (the writer too "
    "slow, the row refused).",
    labels=("outcome",),
)
ROUTER_SLO_CHANCE = Signal(
    name="fleet_router_slo_chance_ratio",
    kind=H,
    unit="ratio",
    layer=Layer.APPLICATION,
    origin=Origin.ROUTER,
    meaning="Best predicted chance of meeting the latency target that a request names, where admission asks for it.",
    labels=(),
)
ROUTER_SLO_WAITING = Signal(
    name="fleet_router_slo_waiting_requests",
    kind=G,
    unit="requests",
    layer=Layer.APPLICATION,
    origin=Origin.ROUTER,
    meaning="Of the requests held at the router, those that wait for an engine that meets their latency targets.",
    labels=("target_model_name",),
)
ROUTER_SLO_TARGET = Signal(
    name="fleet_router_slo_target_seconds",
    kind=G,
    unit="seconds",
    layer=Layer.APPLICATION,
    origin=Origin.ROUTER,
    meaning="Latency target of requests that name none themselves, as the SLO file gives it: latency is ttft or tpot.",
    labels=("model_name", "latency"),
)
ROUTER_SPANS = Signal(
    name="fleet_router_spans_total",
    kind=C,
    unit="spans",
    layer=Layer.APPLICATION,
    origin=Origin.ROUTER,
    meaning="OpenTelemetry spans: sent, lost (the collector did not take them), or dropped (too many waited for it).",
    labels=("outcome",),
)
ROUTER_SPLITS = Signal(
    name="llm_d_epp_disagg_decision_total",
    kind=C,
    unit="requests",
    layer=Layer.APPLICATION,
    origin=Origin.ROUTER,
    meaning="Where prompts are computed: decode, prefill-decode, fallback after a prefill that failed, or decode-first: the "
    "decode engine was asked first and had enough cached.",
    labels=("model_name", "decision_type"),
)


def _index(name: str, kind: Kind, unit: str, meaning: str, labels: tuple[str, ...] = ()) -> Signal:
    return Signal(name=name, kind=kind, unit=unit, layer=Layer.APPLICATION, origin=Origin.ROUTER, meaning=meaning,
                  labels=labels)  # fmt: skip


KV_INDEX_BLOCKS = _index("fleet_router_kv_index_blocks", G, "blocks", "Distinct blocks in the KV-cache index.")
KV_INDEX_BYTES = _index("fleet_router_kv_index_bytes", G, "bytes", "Memory that the KV-cache index holds.")
KV_INDEX_STORED = _index("llm_d_epp_kv_cache_index_admissions_total", C, "blocks", "Blocks entered into the index.")
KV_INDEX_REMOVED = _index("llm_d_epp_kv_cache_index_evictions_total", C, "blocks", "Blocks removed from the index.")
KV_INDEX_LOOKUPS = _index("llm_d_epp_kv_cache_index_lookup_requests_total", C, "requests", "Look-ups in the index.")
KV_INDEX_HITS = _index("llm_d_epp_kv_cache_index_lookup_hits_total", C, "requests", "Look-ups that some pod matches.")
KV_INDEX_LEFT_OUT = _index("fleet_router_kv_index_left_out_total", C, "blocks",
                           "Blocks not entered, by reason: unresolved parent, or no room.", ("reason",))  # fmt: skip
KV_BACKEND_UP = _index("fleet_router_kv_backend_up", G, "flag",
                       "1: the KV index's shared store answers; 0: this router goes on alone.")  # fmt: skip
KV_BACKEND_ERRORS = _index("fleet_router_kv_backend_errors_total", C, "errors",
                           "Exchanges with the KV index's shared store that failed.")  # fmt: skip
KV_BACKEND_BLOCKS = _index("fleet_router_kv_backend_blocks_total", C, "blocks",
                           "Blocks written to the shared store, loaded from it, and there but unconfirmed by the engine.",
                           ("direction",))  # fmt: skip
KV_EVENTS = _index("fleet_router_kv_events_total", C, "events", "KV events applied.")
KV_EVENT_GAPS = _index("fleet_router_kv_event_gaps_total", C, "gaps", "Gaps seen in engines' KV events.")
KV_EVENTS_LOST = _index("fleet_router_kv_event_batches_lost_total", C, "batches", "KV event batches given up.")
KV_EVENT_LAG = _index("fleet_router_kv_event_lag_seconds", G, "s", "From an engine's sending of events to their use.")
KV_PROMPTS = _index("fleet_router_prompt_tokens_origin_total", C, "requests",
                    "Requests by where their token ids came from.", ("origin",))  # fmt: skip
ROUTER_MODEL_FAILURES = _index("fleet_router_model_fetch_failures_total", C, "looks",
                               "Looks at the predictor's service that brought no sound model.")  # fmt: skip
ROUTER_MODEL_CHECKED = _index("fleet_router_model_checked_timestamp_seconds", G, "s",
                              "When the router last knew that its model is the predictor's newest (Unix time).")  # fmt: skip
ROUTER_SCRAPE_AGE = Signal(
    name="fleet_router_endpoint_scrape_age_seconds",
    kind=G,
    unit="s",
    layer=Layer.APPLICATION,
    origin=Origin.ROUTER,
    meaning="Age of the newest scrape of an endpoint.",
    labels=("model_server_endpoint",),
)

WVA_LABELS = ("variant_name", "namespace", "accelerator_type")


def _wva(name: str, kind: Kind, unit: str, meaning: str, labels: tuple[str, ...] = WVA_LABELS) -> Signal:
    return Signal(
        name=name,
        kind=kind,
        unit=unit,
        layer=Layer.INFRASTRUCTURE,
        origin=Origin.WVA,
        meaning=meaning,
        labels=labels,
    )


WVA_DESIRED = _wva("wva_desired_replicas", G, "replicas", "Replicas the variant should have; the HPA reads this.")
WVA_CURRENT = _wva("wva_current_replicas", G, "replicas", "Replicas ready.")
WVA_RATIO = _wva("wva_desired_ratio", G, "ratio", "Desired over current (desired when current is 0).")
WVA_SCALINGS = _wva(
    "wva_replica_scaling_total",
    C,
    "decisions",
    "Decisions that changed the desired replicas.",
    (*WVA_LABELS, "direction", "reason"),
)
WVA_SATURATION = _wva(
    "wva_saturation_utilization",
    G,
    "ratio",
    "Saturation of the variant, 0..1.",
    ("variant_name", "namespace", "model_name", "accelerator_type"),
)
WVA_FRESHNESS = _wva(
    "wva_metrics_freshness_status",
    G,
    "flag",
    "1 for the status that holds (fresh, stale, missing, unavailable).",
    ("variant_name", "status"),
)
WVA_PASS = _wva("wva_optimization_duration_seconds", H, "s", "Duration of one pass.", ("status",))
WVA_MODELS = _wva("wva_models_processed", G, "models", "Models seen in the last pass.", ())
WVA_ERRORS = _wva("wva_errors_total", C, "errors", "Errors by component.", ("component", "error_type"))
WVA_LAST_PASS = _wva(
    "fleet_wva_last_pass_timestamp_seconds",
    G,
    "s",
    "Unix time of the last pass that decided, or left it to a leader.",
    (),
)
WVA_SIGNAL_AGE = _wva(
    "fleet_wva_signal_age_seconds",
    G,
    "s",
    "Age of the oldest engine sample a decision used.",
    ("variant_name",),
)
WVA_COST = _wva(
    "fleet_wva_cost_dollars_per_hour",
    G,
    "USD/h",
    "Cost of the replicas that run or start.",
    ("variant_name",),
)

WVA_POD_MISS = _wva(
    "wva_pod_mapping_miss_total",
    C,
    "pods",
    "Pods that a variant's workload selects, but that do not belong to it: not counted as its replicas.",
    ("namespace", "reason"),
)
WVA_LEADER = _wva("fleet_wva_leader", G, "flag", "1 while this controller decides; 0 while another one leads.", ())
WVA_AT_MAX = _wva("fleet_wva_at_max", G, "flag", "1 while the variant wants more replicas than its maximum.")

PREDICTOR_SAMPLES = Signal(
    name="fleet_predictor_samples",
    kind=G,
    unit="samples",
    layer=Layer.APPLICATION,
    origin=Origin.PREDICTOR,
    meaning="Samples the served model was fitted on.",
    labels=("target",),
)
PREDICTOR_ERROR = Signal(
    name="fleet_predictor_error_ratio",
    kind=G,
    unit="ratio",
    layer=Layer.APPLICATION,
    origin=Origin.PREDICTOR,
    meaning="Mean absolute relative error on later requests (1.0 = 100 %).",
    labels=("target",),
)
PREDICTOR_HELD_OUT_ERROR = Signal(
    name="fleet_predictor_held_out_error_ratio",
    kind=G,
    unit="ratio",
    layer=Layer.APPLICATION,
    origin=Origin.PREDICTOR,
    meaning="Mean absolute relative error of the last fit on newer rows that it did not see (1.0 = 100 %).",
    labels=("target",),
)
PREDICTOR_COVERAGE = Signal(
    name="fleet_predictor_interval_coverage_ratio",
    kind=G,
    unit="ratio",
    layer=Layer.APPLICATION,
    origin=Origin.PREDICTOR,
    meaning="Share of held-out values inside their 90 % interval.",
    labels=("target",),
)
PREDICTOR_REJECTED = Signal(
    name="fleet_predictor_rejected_samples_total",
    kind=C,
    unit="samples",
    layer=Layer.APPLICATION,
    origin=Origin.PREDICTOR,
    meaning="Rows that were no training samples, by reason.",
    labels=("reason",),
)
PREDICTOR_LAST_FIT = Signal(
    name="fleet_predictor_last_fit_timestamp_seconds",
    kind=G,
    unit="s",
    layer=Layer.APPLICATION,
    origin=Origin.PREDICTOR,
    meaning="Unix time of the last good fit.",
)
PREDICTOR_COLD = Signal(
    name="fleet_predictor_cold",
    kind=G,
    unit="flag",
    layer=Layer.APPLICATION,
    origin=Origin.PREDICTOR,
    meaning="1 while there is no fitted model.",
)
PREDICTOR_RUNG = Signal(
    name="fleet_predictor_rung",
    kind=G,
    unit="flag",
    layer=Layer.APPLICATION,
    origin=Origin.PREDICTOR,
    meaning="1 for what predictions rest on now: boosted, physics, prior or heuristic.",
    labels=("rung",),
)

PREDICTOR_DRIFTS = Signal(
    name="fleet_predictor_drifts_total",
    kind=C,
    unit="changes",
    layer=Layer.APPLICATION,
    origin=Origin.PREDICTOR,
    meaning="Times that an endpoint became faster or slower and its scale was started anew.",
)

PREDICTOR_FIT_FAILURES = Signal(
    name="fleet_predictor_fit_failures_total",
    kind=C,
    unit="fits",
    layer=Layer.APPLICATION,
    origin=Origin.PREDICTOR,
    meaning="Fits that failed.",
)


def _dcgm(name: str, kind: Kind, unit: str, meaning: str) -> Signal:
    return Signal(
        name=name,
        kind=kind,
        unit=unit,
        layer=Layer.RESOURCES,
        origin=Origin.DCGM,
        meaning=meaning,
        labels=("gpu", "UUID", "modelName", "Hostname", "pod", "namespace"),
    )


GPU_ACTIVE = _dcgm("DCGM_FI_PROF_GR_ENGINE_ACTIVE", G, "ratio", "Graphics engine active, 0..1.")
GPU_TENSOR = _dcgm("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", G, "ratio", "Tensor pipe active, 0..1.")
GPU_DRAM = _dcgm("DCGM_FI_PROF_DRAM_ACTIVE", G, "ratio", "Memory interface active, 0..1.")
GPU_UTIL = _dcgm("DCGM_FI_DEV_GPU_UTIL", G, "percent", "GPU utilisation.")
GPU_FB_USED = _dcgm("DCGM_FI_DEV_FB_USED", G, "MiB", "Frame buffer used.")
GPU_FB_FREE = _dcgm("DCGM_FI_DEV_FB_FREE", G, "MiB", "Frame buffer free.")
GPU_POWER = _dcgm("DCGM_FI_DEV_POWER_USAGE", G, "W", "Power draw.")
GPU_TEMP = _dcgm("DCGM_FI_DEV_GPU_TEMP", G, "celsius", "Temperature.")
GPU_XID = _dcgm("DCGM_FI_DEV_XID_ERRORS", G, "xid", "Last XID error; sticky.")
GPU_ROW_REMAP = _dcgm("DCGM_FI_DEV_ROW_REMAP_FAILURE", G, "flag", "Row remapping failed.")
GPU_NVLINK = _dcgm("DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL", G, "MB/s", "NVLink traffic now; never rate() it.")

_NODE = ("instance", "device", "port")
IB_SENT = Signal(
    name="node_infiniband_port_data_transmitted_bytes_total",
    kind=C,
    unit="bytes",
    layer=Layer.RESOURCES,
    origin=Origin.NODE,
    meaning="Bytes sent on an InfiniBand port.",
    labels=_NODE,
)
IB_RATE = Signal(
    name="node_infiniband_rate_bytes_per_second",
    kind=G,
    unit="bytes/s",
    layer=Layer.RESOURCES,
    origin=Origin.NODE,
    meaning="Line rate of an InfiniBand port.",
    labels=_NODE,
)
IB_LINK_DOWN = Signal(
    name="node_infiniband_link_downed_total",
    kind=C,
    unit="events",
    layer=Layer.RESOURCES,
    origin=Origin.NODE,
    meaning="InfiniBand link-down events.",
    labels=_NODE,
)


def _kube(name: str, kind: Kind, unit: str, meaning: str, *labels: str) -> Signal:
    return Signal(
        name=name,
        kind=kind,
        unit=unit,
        layer=Layer.INFRASTRUCTURE,
        origin=Origin.KUBE_STATE,
        meaning=meaning,
        labels=labels,
    )


POD_WAITING_REASON = _kube(
    "kube_pod_container_status_waiting_reason",
    G,
    "flag",
    "Why a container waits.",
    "namespace",
    "pod",
    "reason",
)
POD_UNSCHEDULABLE = _kube("kube_pod_status_unschedulable", G, "flag", "Pod cannot be placed.", "namespace", "pod")
POD_READY = _kube("kube_pod_status_ready", G, "flag", "Pod readiness.", "namespace", "pod", "condition")
POD_PHASE = _kube("kube_pod_status_phase", G, "flag", "Pod phase.", "namespace", "pod", "phase")
POD_RESTARTS = _kube(
    "kube_pod_container_status_restarts_total",
    C,
    "restarts",
    "Container restarts.",
    "namespace",
    "pod",
    "container",
)
NODE_CONDITION = _kube("kube_node_status_condition", G, "flag", "Node condition.", "node", "condition", "status")
NODE_ALLOCATABLE = _kube(
    "kube_node_status_allocatable", G, "units", "Allocatable resources of a node.", "node", "resource"
)
HPA_CURRENT = _kube(
    "kube_horizontalpodautoscaler_status_current_replicas",
    G,
    "replicas",
    "HPA current.",
    "namespace",
    "horizontalpodautoscaler",
)
HPA_DESIRED = _kube(
    "kube_horizontalpodautoscaler_status_desired_replicas",
    G,
    "replicas",
    "HPA desired.",
    "namespace",
    "horizontalpodautoscaler",
)
HPA_MAX = _kube(
    "kube_horizontalpodautoscaler_spec_max_replicas",
    G,
    "replicas",
    "HPA maximum.",
    "namespace",
    "horizontalpodautoscaler",
)

SIM_RESTARTS = Signal(
    name="sim_engine_restarts_total",
    kind=C,
    unit="restarts",
    layer=Layer.INFRASTRUCTURE,
    origin=Origin.SIMULATOR,
    meaning="Engine processes that the simulator's platform has restarted.",
    labels=("variant",),
)
SIM_REPLICAS = Signal(
    name="sim_replicas",
    kind=G,
    unit="replicas",
    layer=Layer.INFRASTRUCTURE,
    origin=Origin.SIMULATOR,
    meaning="Replicas of the simulator's platform by state.",
    labels=("variant", "state"),
)

UP = Signal(
    name="up",
    kind=G,
    unit="flag",
    layer=Layer.INFRASTRUCTURE,
    origin=Origin.PROMETHEUS,
    meaning="Scrape succeeded.",
    labels=("job", "instance"),
)
ALERTS_STATE = Signal(
    name="ALERTS",
    kind=G,
    unit="flag",
    layer=Layer.BUSINESS,
    origin=Origin.PROMETHEUS,
    meaning="Alerts pending and firing.",
    labels=("alertname", "alertstate", "severity"),
)

CATALOGUE: dict[str, Signal] = {value.name: value for value in tuple(globals().values()) if isinstance(value, Signal)}
"""Every signal by its main name."""

BY_ANY_NAME: dict[str, Signal] = {name: signal for signal in CATALOGUE.values() for name in signal.names}
"""Every signal by its name and by each alias."""


def base_name(series: str) -> str:
    """The catalogue's name of a series as exported: histogram suffixes dropped where the rest is a histogram.

    >>> base_name("vllm:time_to_first_token_seconds_bucket")
    'vllm:time_to_first_token_seconds'
    >>> base_name("vllm:iteration_tokens_total")
    'vllm:iteration_tokens_total'
    """
    for suffix in ("_bucket", "_sum", "_count"):
        stem = series.removesuffix(suffix)
        if stem != series and stem in BY_ANY_NAME and BY_ANY_NAME[stem].kind is Kind.HISTOGRAM:
            return stem
    return series
