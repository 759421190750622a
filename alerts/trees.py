"""The decision trees of an on-call person, as data. Pure.

Limits come from the architecture's documents; "before" is the same figure over the half hour before the last five
minutes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from alerts.diagnosis import Fact, Leaf, Node, Question, Tree

_FACTS: Final = (
    Fact(name="ttft_p95_s", text="TTFT P95", unit="s"),
    Fact(name="ttft_p95_before_s", text="TTFT P95 before", unit="s"),
    Fact(name="tpot_p95_s", text="TPOT P95", unit="s"),
    Fact(name="hit_ratio", text="prefix hit rate", unit="ratio"),
    Fact(name="hit_ratio_before", text="prefix hit rate before", unit="ratio"),
    Fact(name="queue_mean", text="requests waiting, mean of an endpoint", unit="requests"),
    Fact(name="queue_max", text="requests waiting on the fullest endpoint", unit="requests"),
    Fact(name="queue_imbalance", text="longest queue over the shortest plus one", unit=""),
    Fact(name="queue_growth", text="requests gained in the queue, mean of an endpoint", unit="requests"),
    Fact(name="queue_total", text="requests waiting, all endpoints", unit="requests"),
    Fact(name="kv_max", text="KV-cache use of the fullest endpoint", unit="ratio"),
    Fact(name="gpu_active", text="GPU activity", unit="ratio"),
    Fact(name="network_share", text="share of the line rate in use", unit="ratio"),
    Fact(name="output_tps", text="output throughput", unit="tokens/s"),
    Fact(name="output_tps_before", text="output throughput before", unit="tokens/s"),
    Fact(name="request_rps", text="arrivals", unit="requests/s"),
    Fact(name="request_rps_before", text="arrivals before", unit="requests/s"),
    Fact(name="input_tokens", text="prompt length, mean", unit="tokens"),
    Fact(name="input_tokens_before", text="prompt length before, mean", unit="tokens"),
    Fact(name="hash_block_size", text="hashBlockSize", unit="tokens"),
    Fact(name="indexer_up", text="cache index answers", unit="(1 yes, 0 no)"),
    Fact(name="kv_event_gaps", text="gaps in KV events within 10 minutes", unit="gaps"),
    Fact(name="kv_events_lost", text="batches of KV events given up within 10 minutes", unit="batches"),
    Fact(name="kv_event_lag_s", text="from an engine's sending of KV events to their use", unit="s"),
    Fact(name="index_lookup_s", text="time of an index look-up", unit="s"),
    Fact(name="metrics_read_s", text="time to read the engines' metrics", unit="s"),
    Fact(name="router_cpu", text="CPU of the router, share of its limit", unit="ratio"),
    Fact(name="prefix_to_load_weight", text="weight of prefix-aware over that of load-aware", unit=""),
    Fact(name="error_ratio", text="requests that failed", unit="ratio"),
    Fact(name="rejected_ratio", text="requests that the router refused", unit="ratio"),
    Fact(name="one_endpoint_error_share", text="failures that one endpoint caused", unit="ratio"),
    Fact(name="replicas_ready", text="replicas ready", unit="replicas"),
    Fact(name="replicas_desired", text="replicas wanted", unit="replicas"),
    Fact(name="saturation", text="saturation of the fullest variant", unit="ratio"),
    Fact(name="at_max", text="variants held at their maximum", unit="variants"),
    Fact(name="held_blind", text="variants held for want of fresh metrics", unit="variants"),
    Fact(name="decision_age_s", text="age of the newest decision", unit="s"),
    Fact(name="requests_recorded", text="finished requests in the history", unit="requests"),
    Fact(name="prediction_error", text="relative error of predicted TTFT, mean", unit="ratio"),
    Fact(name="tpot_imbalance", text="TPOT of the slowest endpoint over the fastest's", unit=""),
    Fact(name="xid_changes", text="new XID errors within 10 minutes", unit="errors"),
    Fact(name="crash_looping", text="containers that crash in a loop", unit="containers"),
    Fact(name="routers_down", text="routers that do not answer", unit="routers"),
    Fact(name="targets_down", text="other parts that do not answer their scrape", unit="targets"),
    Fact(name="fit_failures", text="fits that failed within half an hour", unit="fits"),
    Fact(name="unschedulable", text="pods that cannot be placed", unit="pods"),
    Fact(name="out_of_memory", text="containers killed for memory", unit="containers"),
)
EVIDENCE: Mapping[str, Fact] = {fact.name: fact for fact in _FACTS}
"""Everything a tree may ask for, by name."""


def _ask(text: str, fact: str, op: str, limit: float, *, yes: Node, no: Node, other: str = "") -> Question:
    return Question(text=text, fact=fact, op=op, limit=limit, other=other, yes=yes, no=no)


_HIT_FELL: Final = Leaf(
    cause="the prefix hit rate fell",
    advice="check the scheduler (did its weights or the endpoints change?) and raise the weight of prefix-aware",
    command="fleet alerts diagnose --tree hit_rate_low",
)
_OVER_CAPACITY: Final = Leaf(
    cause="more arrives than the replicas take",
    advice="scale up (raise max_replicas if wva is held there), or lower max_num_seqs, or shed low priorities",
    command="fleet history show decisions",
)
_ONE_POD: Final = Leaf(
    cause="one endpoint is overloaded while others have room",
    advice="spread the load: top-3 pick on, prefix-aware to load-aware nearer to 70/50 than to 100/10",
    command="fleet alerts diagnose --tree load_uneven",
)
_ONE_SLOW: Final = Leaf(
    cause="one engine is slow",
    advice="compare engines by TPOT; look at its GPU (clocks, temperature, XID), take it out of rotation",
    command="fleet history show requests",
)


def _unless_one_is_slow(otherwise: Node) -> Question:
    """First of all where speed matters: one slow engine has a queue and a full cache as consequences."""
    return _ask("Does one endpoint take twice as long for a token as another?", "tpot_imbalance", ">", 2,
                yes=_ONE_SLOW, no=otherwise)  # fmt: skip


_TTFT: Final = _ask(
    "Did the prefix hit rate fall by a fifth or more?", "hit_ratio", "<", 0.8, other="hit_ratio_before", yes=_HIT_FELL,
    no=_unless_one_is_slow(_ask(
        "Does one endpoint hold most of the queue (ten times the emptiest)?", "queue_imbalance", ">", 10, yes=_ONE_POD,
        no=_ask(
            "Did the queue grow by more than one request an endpoint?", "queue_growth", ">", 1, yes=_OVER_CAPACITY,
            no=_ask(
                "Are prompts half again as long as before?", "input_tokens", ">", 1.5, other="input_tokens_before",
                yes=Leaf(cause="prompts grew longer", advice="chunked prefill, or prefill/decode disaggregation"),
                no=_ask(
                    "Do requests wait all the time (more than two an endpoint)?", "queue_mean", ">", 2,
                    yes=_OVER_CAPACITY,
                    no=_ask(
                        "Is GPU activity low (under 40 %)?", "gpu_active", "<", 0.4,
                        yes=Leaf(cause="the GPUs wait for something else",
                                 advice="look at the network and at the P/D transfer: bandwidth, NIXL, retries"),
                        no=Leaf(cause="a hot model or one slow endpoint",
                                advice="compare endpoints by TTFT; take the slow one out, give the hot model replicas",
                                command="fleet history show requests"),
                    ),
                ),
            ),
        ),
    )),
)  # fmt: skip

_THROUGHPUT: Final = _ask(
    "Did arrivals fall as much (by a fifth or more), with no queue?", "request_rps", "<", 0.8,
    other="request_rps_before",
    yes=Leaf(cause="less is asked for", advice="no fault: throughput follows demand; wva scales down by itself"),
    no=_unless_one_is_slow(_ask(
        "Is the KV cache more than 95 % full?", "kv_max", ">", 0.95,
        yes=Leaf(cause="the KV cache is full: requests wait or are preempted",
                 advice="offload KV to the CPU, lower max_num_seqs, or add a replica"),
        no=_ask(
            "Is the network full (over 90 % of the line rate)?", "network_share", ">", 0.9,
            yes=Leaf(cause="prefill and decode contend for the network",
                     advice="change the ratio of prefill to decode replicas (xPyD), or add bandwidth"),
            no=_ask(
                "Do more than 200 requests wait?", "queue_total", ">", 200,
                yes=Leaf(cause="over capacity", advice="scale up, or shed low priorities"),
                no=_ask(
                    "Are the GPUs less than half active?", "gpu_active", "<", 0.5,
                    yes=Leaf(cause="batches are too small", advice="raise max_num_batched_tokens (and max_num_seqs)"),
                    no=_ask("Do requests wait (more than two an endpoint)?", "queue_mean", ">", 2, yes=_OVER_CAPACITY,
                            no=Leaf(cause="none of the usual causes", advice="compare engines: one slow GPU (clocks, "
                                    "temperature, XID), a new model version, other output lengths")),
                ),
            ),
        ),
    )),
)  # fmt: skip

_HIT_RATE: Final = _ask(
    "Did prompts change length by a half or more?", "input_tokens", ">", 1.5, other="input_tokens_before",
    yes=Leaf(cause="the workload changed", advice="expected; for prompts that share little set load 100, prefix 0"),
    no=_ask(
        "Does the cache index fail to answer?", "indexer_up", "<", 1,
        yes=Leaf(cause="the cache index is not healthy", advice="check ZeroMQ between engines and index, restart it"),
        no=_ask("Were KV events given up?", "kv_events_lost", ">", 0,
        yes=Leaf(cause="the cache index missed events", advice="see the tree on KV events",
                 command="fleet alerts diagnose --tree kv_events"),
        no=_ask(
            "Is hashBlockSize under 5?", "hash_block_size", "<", 5,
            yes=Leaf(cause="hashBlockSize is too small", advice="raise it (5 to 10): larger blocks, fewer look-ups"),
            no=_ask(
                "Is hashBlockSize over 64?", "hash_block_size", ">", 64,
                yes=Leaf(cause="hashBlockSize is too large", advice="lower it: short common prefixes match no block"),
                no=_ask(
                    "Was the hit rate fine before (over 30 %)?", "hit_ratio_before", ">", 0.3,
                    yes=Leaf(cause="something emptied or bypassed the caches",
                             advice="restarts, scale-ups with empty caches, or a change of the scorers' weights"),
                    no=Leaf(cause="prefixes are not cached, or the prompts share none",
                            advice="check that vLLM runs with prefix caching and publishes KV events; else it is the "
                            "workload: set load 100, prefix 0"),
                ),
            ),
        )),
    ),
)  # fmt: skip

_KV_EVENTS: Final = _ask(
    "Are events used more than a second after they were sent?", "kv_event_lag_s", ">", 1,
    yes=Leaf(cause="the reader of KV events cannot keep up", advice="more CPU for the router, or the index in a "
             "process of its own (fleet router indexer)"),
    no=_ask(
        "Were batches given up?", "kv_events_lost", ">", 0,
        yes=Leaf(cause="what was missed cannot be played back", advice="name a replay_endpoint in the engines' "
                 "--kv-events-config, allow its port, raise buffer_steps; after a restart of an engine, nothing"),
        no=_ask("Were there gaps?", "kv_event_gaps", ">", 0,
                yes=Leaf(cause="messages are lost on the way and played back", advice="check the network between "
                         "engines and router; raise hwm in --kv-events-config"),
                no=Leaf(cause="KV events arrive whole", advice="look at the time of the alert (--at)")),
    ),
)  # fmt: skip

_SCHEDULING: Final = _ask(
    "Does an index look-up take more than 10 ms?", "index_lookup_s", ">", 0.01,
    yes=Leaf(cause="the cache index is slow", advice="give it memory, check its structure and its size"),
    no=_ask(
        "Does reading the engines' metrics take more than a second?", "metrics_read_s", ">", 1,
        yes=Leaf(cause="the metric source is slow", advice="more resources for Prometheus, or ask it less often"),
        no=_ask(
            "Does the router use more than 80 % of its CPU?", "router_cpu", ">", 0.8,
            yes=Leaf(cause="the router is starved", advice="more CPU, or another replica of it"),
            no=_ask(
                "Are prompts half again as long as before?", "input_tokens", ">", 1.5, other="input_tokens_before",
                yes=Leaf(cause="longer prompts to hash", advice="fewer blocks to match, or larger hashBlockSize"),
                no=Leaf(cause="the network between router, index and engines",
                        advice="check CNI and node affinity; keep them in one zone"),
            ),
        ),
    ),
)  # fmt: skip

_UNEVEN: Final = _ask(
    "Is the fullest queue ten times the emptiest?", "queue_imbalance", ">", 10,
    yes=_ask(
        "Is prefix-aware weighted more than twice load-aware?", "prefix_to_load_weight", ">", 2,
        yes=Leaf(cause="the prefix weight is too strong", advice="70/50 instead of 100/10"),
        no=_ask(
            "Is the hit rate high (over 70 %)?", "hit_ratio", ">", 0.7,
            yes=Leaf(cause="that endpoint really has the cache", advice="scale up: a second copy of the hot prefix"),
            no=Leaf(cause="top-K may be off, or the router's view is old",
                    advice="pick among the top 3; check RouterScrapesOld"),
        ),
    ),
    no=Leaf(cause="the load is even", advice="look at the other trees"),
)  # fmt: skip

_MEMORY: Final = _ask(
    "Is the KV cache more than 95 % full?", "kv_max", ">", 0.95,
    yes=_ask(
        "Do requests wait as well?", "queue_total", ">", 0,
        yes=Leaf(cause="more context than the cache holds", advice="add a replica; fewer sequences (max_num_seqs 128); "
                 "tiered offload where requests return"),
        no=Leaf(cause="the cache is just enough", advice="leave a reserve (gpu_memory_utilization 0.85)"),
    ),
    no=_ask(
        "Were containers killed for memory?", "out_of_memory", ">", 0,
        yes=Leaf(cause="the container's own memory", advice="raise its limit; lower gpu_memory_utilization (0.85)"),
        no=Leaf(cause="pressure has passed", advice="look at the time of the alert (--at)"),
    ),
)  # fmt: skip

_ERRORS: Final = _ask(
    "Does hardly any request fail (at most one in a thousand)?", "error_ratio", "<=", 0.001,
    yes=Leaf(cause="nothing fails now", advice="look at the time of the alert (--at)"),
    no=_ask(
        "Does the router refuse more than half of what fails?", "rejected_ratio", ">", 0.5, other="error_ratio",
        yes=Leaf(cause="no endpoint is left to pick", advice="add replicas; check filters and readiness",
                 command="fleet alerts diagnose --tree routing_failed"),
        no=_ask(
            "Does one endpoint cause most failures (over 60 %)?", "one_endpoint_error_share", ">", 0.6,
            yes=Leaf(cause="one engine fails", advice="take it out of rotation, read its log, restart it",
                     command="fleet history show requests"),
            no=_ask("Is TTFT over 5 s as well?", "ttft_p95_s", ">", 5,
                    yes=Leaf(cause="requests time out under load", advice="scale up or shed; see the TTFT tree"),
                    no=Leaf(cause="failures are spread over the engines", advice="read the codes: a bad release, a "
                            "network fault, or a dependency they share")),
        ),
    ),
)  # fmt: skip

_ROUTING: Final = _ask(
    "Does a router not answer?", "routers_down", ">", 0,
    yes=Leaf(cause="a router is down", advice="read its log (plugin configuration, memory), restart it; run two"),
    no=_ask(
    "Is no replica ready?", "replicas_ready", "<", 1,
    yes=Leaf(cause="no engine runs", advice="see the deployment tree; 503 until one is ready",
             command="fleet alerts diagnose --tree deployment"),
    no=_ask(
        "Is the KV cache of the fullest endpoint over 95 %?", "kv_max", ">", 0.95,
        yes=Leaf(cause="the memory filter drops endpoints", advice="add replicas; raise maxKVUtilization with care"),
        no=_ask("Is the longest queue over 50 (maxQueueLength)?", "queue_max", ">", 50,
                yes=Leaf(cause="the queue filter drops endpoints", advice="add replicas; maxQueueLength to 80 % of "
                         "max_num_seqs"),
                no=Leaf(cause="requests match no route or model", advice="check the model name, and the header match "
                        "of the HTTPRoute")),
    )),
)  # fmt: skip

_STALLED: Final = _ask(
    "Did a GPU report a new XID error?", "xid_changes", ">", 0,
    yes=Leaf(cause="a GPU reported an error (XID)", advice="look its number up: from the hardware, cordon the node and "
             "drain it; from the program, restart the engine"),
    no=_ask("Do requests wait or run?", "queue_total", ">", 0,
    yes=_ask("Does the model make no tokens at all?", "output_tps", "<=", 0,
             yes=Leaf(cause="the engine hangs", advice="take it out of rotation; read its log (NCCL, CUDA); restart"),
             no=Leaf(cause="one worker or one engine is lost", advice="compare engines by tokens per second; restart "
                     "the one at zero")),
    no=Leaf(cause="no work is left", advice="it recovered, or the router avoids it: check readiness")),
)  # fmt: skip

_SCALING: Final = _ask(
    "Is the newest decision older than two minutes?", "decision_age_s", ">", 120,
    yes=Leaf(cause="the controller does not decide", advice="read its log; restart it"),
    no=_ask(
        "Is a variant held for want of fresh metrics?", "held_blind", ">", 0,
        yes=Leaf(cause="wva is blind and holds", advice="repair the scrape of its engines (TargetDown)"),
        no=_ask(
            "Is a variant held at its maximum?", "at_max", ">", 0,
            yes=Leaf(cause="max_replicas is reached", advice="raise it, add a variant, or shed"),
            no=_ask(
                "Are more replicas wanted than ready?", "replicas_desired", ">", 1, other="replicas_ready",
                yes=_ask("Are pods unschedulable?", "unschedulable", ">", 0,
                         yes=Leaf(cause="no GPU is free", advice="add nodes, or another variant"),
                         no=Leaf(cause="replicas are starting, or nobody acts on the decision",
                                 advice="check HPA or platform, then start-up time",
                                 command="fleet history show events")),
                no=Leaf(cause="scaling follows its rules", advice="read the reasons; adjust thresholds or windows",
                        command="fleet history show decisions"),
            ),
        ),
    ),
)  # fmt: skip

_PREDICTOR: Final = _ask(
    "Did fits fail?", "fit_failures", ">", 0,
    yes=Leaf(cause="fits fail", advice="read the predictor's log for the reason; repair the history it reads"),
    no=_ask(
    "Are fewer than 100 finished requests recorded?", "requests_recorded", "<", 100,
    yes=Leaf(cause="too little to learn from", advice="send traffic; check that router and predictor share a history"),
    no=_ask(
        "Is predicted TTFT more than 50 % off?", "prediction_error", ">", 0.5,
        yes=Leaf(cause="the world changed since the fit", advice="let it refit; lower the weight of predicted-latency",
                 command="fleet predictor train"),
        no=Leaf(cause="predictions fit", advice="read the predictor's log"),
    )),
)  # fmt: skip

_DEPLOYMENT: Final = _ask(
    "Does a container crash in a loop?", "crash_looping", ">", 0,
    yes=Leaf(cause="a container crashes at start", advice="read its last log: of a router, the plugin configuration; "
             "of an engine, memory (lower gpu_memory_utilization) or the model's files"),
    no=_ask(
    "Were containers killed for memory?", "out_of_memory", ">", 0,
    yes=Leaf(cause="out of memory", advice="lower gpu_memory_utilization or the batch size"),
    no=_ask(
        "Are pods unschedulable?", "unschedulable", ">", 0,
        yes=Leaf(cause="no node takes the pod", advice="GPUs of that kind, taints, quota"),
        no=_ask(
            "Is no replica ready?", "replicas_ready", "<", 1,
            yes=Leaf(cause="all replicas are gone or still loading", advice="read the log of the last start"),
            no=_ask(
                "Does a part not answer its scrape?", "targets_down", ">", 0,
                yes=Leaf(cause="a part does not answer its scrape", advice="is its process alive, and does /metrics "
                         "answer from its own host? Then a network policy or an overloaded process"),
                no=Leaf(cause="a part is not reachable", advice="routing fails: the header match of the HTTPRoute; low "
                        "hit rate: prefix scorer off"),
            ),
        ),
    )),
)  # fmt: skip

_QUEUE_LIMIT: Final = _ask(
    "Is the mean queue over 40 (80 % of the default maxQueueLength)?", "queue_mean", ">", 40,
    yes=Leaf(cause="maxQueueLength is too high for this load", advice="lower it; verify TTFT P95 and throughput after"),
    no=_ask("Is TTFT P95 twice what it was?", "ttft_p95_s", ">", 2, other="ttft_p95_before_s",
            yes=Leaf(cause="TTFT jitters", advice="raise maxQueueLength; verify TTFT P95 and throughput after"),
            no=Leaf(cause="maxQueueLength fits", advice="leave it")),
)  # fmt: skip

_TREES: Final = (
    Tree(name="ttft_high", title="TTFT is suddenly high", root=_TTFT),
    Tree(name="throughput_low", title="Throughput falls", root=_THROUGHPUT),
    Tree(name="out_of_memory", title="Memory is short", root=_MEMORY),
    Tree(name="hit_rate_low", title="The prefix hit rate is low", root=_HIT_RATE),
    Tree(name="kv_events", title="KV events are missing", root=_KV_EVENTS),
    Tree(name="scheduling_slow", title="Scheduling is slow", root=_SCHEDULING),
    Tree(name="load_uneven", title="The load is uneven", root=_UNEVEN),
    Tree(name="errors_high", title="Requests fail", root=_ERRORS),
    Tree(name="routing_failed", title="Requests are refused", root=_ROUTING),
    Tree(name="engine_stalled", title="An engine makes no tokens", root=_STALLED),
    Tree(name="not_scaling", title="Scaling does not do what it should", root=_SCALING),
    Tree(name="predictor_off", title="Predictions are missing or wrong", root=_PREDICTOR),
    Tree(name="deployment", title="A part does not run", root=_DEPLOYMENT),
    Tree(name="queue_limit", title="Is maxQueueLength right?", root=_QUEUE_LIMIT),
)
TREES: Mapping[str, Tree] = {tree.name: tree for tree in _TREES}
"""All trees by name."""
