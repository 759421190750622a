"""Both forms of configuration: what they become, and what they refuse."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.errors import ConfigError
from fleet.types import Role
from router.config import parse_profile
from router.config_file import load_profile
from router.config_words import BUILT_IN, OTHERWISE
from router.filters import (
    FILTERS,
    AdapterRoom,
    MemoryPressure,
    ModelCompatibility,
    QueueDepth,
    RoleFilter,
    Session,
    Utilisation,
)
from router.pickers import PICKERS, MaxScore, TopKRandom, UniformRandom, WeightedRandom
from router.prefix import auto_block
from router.profile import DEFAULT, PROFILES, AdaptiveWeights
from router.scorers import (
    SCORERS,
    BothLatencies,
    KvUtilisation,
    LoadAware,
    LoraAware,
    PredictedLatency,
    PrefixAware,
    Queue,
    RunningRequests,
)
from router.traffic import START_PROMPT_TOKENS

DOCUMENTS = """
filters:
  - {type: queue-depth, parameters: {maxQueueLength: 40}}
  - {type: memory-pressure, parameters: {maxKVUtilization: 0.9, checkInterval: 5s}}
scorers:
  - {type: prefix-aware, weight: 100, parameters: {hashBlockSize: 5, cacheIndexerURL: "http://indexer:9090"}}
  - {type: load-aware, weight: 50, parameters: {queueWeightFactor: 0.6, activeRequestsWeight: 0.4}}
  - {type: predicted-latency, weight: 30, parameters: {targetMetric: tpot, percentile: 0.5}}
selection: {topK: 2}
kvcacheIndexer: {enabled: true}
"""

UPSTREAM = """
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: single-profile-handler
- type: decode-filter
- type: approx-prefix-cache-producer
  parameters: {maxPrefixTokensToMatch: 4096, lruCapacityPerServer: 1000, blockSizeTokens: 32}
- type: prefix-cache-scorer
- name: queues
  type: queue-scorer
- type: kv-cache-utilization-scorer
- type: running-requests-size-scorer
- type: latency-scorer
  parameters: {ttftWeight: 0.5, tpotWeight: 0.5}
- type: weighted-random-picker
  parameters: {maxNumOfEndpoints: 1}
schedulingProfiles:
- name: mixed
  plugins:
  - pluginRef: decode-filter
  - {pluginRef: prefix-cache-scorer, weight: 3}
  - {pluginRef: queues, weight: 2.5}
  - pluginRef: kv-cache-utilization-scorer
  - pluginRef: running-requests-size-scorer
  - pluginRef: latency-scorer
  - pluginRef: weighted-random-picker
"""


def scorers(profile):
    return [(entry.name, entry.weight, entry.scorer) for entry in profile.scorers]


def filters(profile):
    return [entry.filter for entry in profile.filters]


def test_the_short_form_of_the_documents():
    profile = parse_profile(DOCUMENTS)
    assert filters(profile) == [
        ModelCompatibility(),
        QueueDepth(max_queue_length=40),
        MemoryPressure(max_kv_utilization=0.9),
    ]
    assert scorers(profile) == [
        ("prefix-aware", 100, PrefixAware(block_tokens=5)),
        ("load-aware", 50, LoadAware(queue_weight=0.6, active_weight=0.4)),
        ("predicted-latency", 30, PredictedLatency(target_metric="tpot")),
    ]
    assert profile.picker == TopKRandom(top_k=2)
    assert profile.prefix.block_tokens == 5


def test_what_has_no_effect_is_said_with_its_line():
    notes = parse_profile(DOCUMENTS, "fleet.yaml").notes
    assert sorted(note.split(" has no effect: ")[0] for note in notes) == [
        "fleet.yaml line 10: kvcacheIndexer",
        "fleet.yaml line 4: checkInterval of memory-pressure",
        "fleet.yaml line 6: cacheIndexerURL of prefix-aware",
    ]


def test_upstreams_form():
    profile = parse_profile(UPSTREAM)
    assert profile.name == "mixed"
    assert filters(profile) == [ModelCompatibility(), RoleFilter(role=Role.DECODE)]
    assert scorers(profile) == [
        ("prefix-cache-scorer", 3, PrefixAware()),
        ("queues", 2.5, Queue()),
        ("kv-cache-utilization-scorer", 1, KvUtilisation()),
        ("running-requests-size-scorer", 1, RunningRequests()),
        ("latency-scorer", 1, BothLatencies(ttft_weight=0.5, tpot_weight=0.5)),
    ]
    assert profile.picker == WeightedRandom()
    assert (profile.prefix.block_tokens, profile.prefix.hashed_blocks, profile.prefix.capacity_blocks) == (
        32,
        128,
        1000,
    )


@pytest.mark.parametrize(
    ("text", "picker"),
    [
        pytest.param("selection: {}", TopKRandom(), id="top three where nothing is said"),
        pytest.param("filters: []", TopKRandom(), id="top three without a selection"),
        pytest.param("selection: {topK: 3, margin: 0.1}", TopKRandom(margin=0.1), id="a margin"),
        pytest.param("selection: {type: max-score}", MaxScore(), id="another picker"),
        pytest.param("plugins: [{type: queue-scorer}]", MaxScore(), id="upstream's default"),
        pytest.param("plugins: [{type: random-picker}]", UniformRandom(), id="upstream's random"),
    ],
)
def test_pickers(text, picker):
    assert parse_profile(text).picker == picker


def test_what_a_short_form_leaves_out_is_as_documented():
    profile = parse_profile("selection: {topK: 1}")
    assert (profile.filters, profile.scorers) == (PROFILES["documents"].filters, PROFILES["documents"].scorers)
    assert profile.stale_after_s == 10.0
    assert parse_profile("staleAfterSeconds: 2.5").stale_after_s == 2.5


def test_a_built_in_profile_by_name_alone_or_as_a_base():
    assert parse_profile("profile: default") == DEFAULT
    mine = parse_profile("{profile: default, scorers: [{type: queue}]}")
    assert (mine.picker, [name for name, _, _ in scorers(mine)]) == (DEFAULT.picker, ["queue"])


def test_a_model_filter_is_always_there_once():
    assert filters(parse_profile("filters: []")) == [ModelCompatibility()]
    assert filters(parse_profile("filters: [{type: queue-depth}, {type: model}]")) == [
        QueueDepth(),
        ModelCompatibility(),
    ]


def test_the_guides_form_without_profiles_uses_all_plugins():
    profile = parse_profile(
        "plugins: [{type: low-queue-filter}, {type: kv-cache-scorer},"
        " {type: prefix-cache-scorer, parameters: {hashBlockSize: 64, maxPrefixBlocksToMatch: 256}}]"
    )
    assert [entry.name for entry in profile.filters] == ["model-compatibility", "low-queue-filter"]
    assert [(name, weight) for name, weight, _ in scorers(profile)] == [
        ("kv-cache-scorer", 1),
        ("prefix-cache-scorer", 1),
    ]
    assert profile.prefix.hashed_blocks == 256


@pytest.mark.parametrize("version", ["llm-d.ai/v1alpha1", "llm-d.ai/v1", "inference.networking.x-k8s.io/v1alpha1"])
def test_versions(version):
    assert parse_profile(f"apiVersion: {version}\nkind: EndpointPickerConfig\nplugins: []").scorers == ()


def test_declared_but_unused_and_weighed_in_vain_are_noted():
    profile = parse_profile(
        """
plugins: [{type: queue-scorer}, {type: decode-filter}]
schedulingProfiles:
- plugins: [{pluginRef: decode-filter, weight: 2}]
featureGates: [flowControl]
"""
    )
    assert profile.scorers == ()
    assert {note.split(": ")[1] for note in profile.notes} == {
        "featureGates has no effect",
        "weight of decode-filter has no effect",
        "queue-scorer has no effect",
    }


@pytest.mark.parametrize(
    ("text", "error"),
    [
        pytest.param("", "router.yaml: the document is empty", id="empty"),
        pytest.param("just words", "line 1: the document must be a mapping", id="no mapping"),
        pytest.param("a: [", "line 1: not YAML", id="no YAML"),
        pytest.param("filters:\n\t- x", "line 2: not YAML", id="a tab"),
        pytest.param("\x00", "not YAML", id="binary"),
        pytest.param("filters: &x [*x]", "nests without end", id="an endless alias"),
        pytest.param("[" * 3000, "nests without end", id="very deep"),
        pytest.param("filters: []\nfilters: []", "line 2: 'filters' is given twice", id="a repeated key"),
        pytest.param("\nscorer: []", "line 2: .*Did you mean 'scorers'", id="a misspelt section"),
        pytest.param("profile: documets", "line 1: .*Did you mean 'documents'", id="a misspelt profile"),
        pytest.param("filters: 3", "filters must be a list, not 3", id="no list"),
        pytest.param("filters: [{parameters: {}}]", "a filter has no type", id="no type"),
        pytest.param("filters:\n- {type: queue-dept}", "line 2: .*Did you mean 'queue-depth'", id="a misspelt filter"),
        pytest.param("scorers: [{type: queue-depth}]", "unknown scorer 'queue-depth'", id="a filter as scorer"),
        pytest.param(
            "scorers:\n- type: load-aware\n  parameters:\n    queueWeigthFactor: 1",
            "line 4: .*Did you mean 'queueWeightFactor'",
            id="a misspelt parameter",
        ),
        pytest.param("scorers: [{type: queue, parameters: {x: 1}}]", "It takes no parameters", id="no parameters"),
        pytest.param("scorers: [{type: queue, wieght: 1}]", "Did you mean 'weight'", id="a misspelt weight"),
        pytest.param(
            "scorers:\n- type: queue\n  weight: -3", "line 3: weight of queue is -3 .*limit: 0", id="negative"
        ),
        pytest.param("scorers: [{type: queue, weight: .nan}]", "weight of queue is nan", id="not a number"),
        pytest.param("scorers: [{type: queue, weight: .inf}]", "weight of queue is inf", id="endless"),
        pytest.param("scorers: [{type: queue, weight: true}]", "weight of queue is True", id="a flag as weight"),
        pytest.param("scorers: [{type: queue, weight: '1'}]", "weight of queue is '1'", id="text as weight"),
        pytest.param("scorers: [{type: queue}, {type: queue}]", "'queue' is listed twice", id="a scorer twice"),
        pytest.param("selection: {topK: 0}", "topK of selection is 0 .*from 1", id="top none"),
        pytest.param("selection: {topK: 2.5}", "topK of selection is 2.5 .*a whole number", id="top two and a half"),
        pytest.param("selection: {margin: 2}", "margin of selection is 2 .*0 to 1", id="a margin above all"),
        pytest.param("selection: {topk: 3}", "Did you mean 'topK'", id="wrong case"),
        pytest.param("selection: {type: max-scores}", "Did you mean 'max-score'", id="a misspelt picker"),
        pytest.param("staleAfterSeconds: 0", "staleAfterSeconds is 0 .*above 0", id="stale at once"),
        pytest.param(
            "scorers: [{type: predicted-latency, parameters: {targetMetric: e2e}}]", "ttft or tpot", id="a wrong choice"
        ),
        pytest.param(
            "scorers: [{type: predicted-latency, parameters: {percentile: 1.0}}]", "to 0.99", id="a percentile of all"
        ),
        pytest.param(
            "scorers: [{type: prefix-aware, parameters: {hashBlockSize: automatic}}]", "or auto", id="no size"
        ),
        pytest.param("adaptiveWeights: {hihgHitRate: 0.5}", "Did you mean 'highHitRate'", id="a misspelt rate"),
        pytest.param("adaptiveWeights: {lowHitRate: 0.9}", "0.9 is above", id="rates the wrong way round"),
        pytest.param("adaptiveWeights: {lowHitRate: 9}", "lowHitRate is 9 .*0 to 1", id="a rate above all"),
        pytest.param(
            "scorers: [{type: queue}]\nadaptiveWeights: true", "line 2: .*a prefix and a load", id="nothing to adapt"
        ),
        pytest.param(
            "filters: [{type: utilisation, parameters: {conditions: [{metric: queue, maxValue: 3}]}}]",
            "a metric among active-requests",
            id="an unknown metric",
        ),
        pytest.param(
            "filters: [{type: label, parameters: {matchLabels: [a]}}]", "a mapping of words", id="labels as a list"
        ),
        pytest.param("kind: Endpoints", "kind is 'Endpoints' .*EndpointPickerConfig", id="another kind"),
        pytest.param("apiVersion: v1", "apiVersion is 'v1' .*llm-d.ai/v1alpha1", id="another version"),
        pytest.param("plugins: [{type: queue-scorrer}]", "Did you mean 'queue-scorer'", id="a misspelt plugin"),
        pytest.param("plugins: [{name: x}]", "a plugin has no type", id="a plugin without a type"),
        pytest.param("plugins: []\nflowCtrl: {}", "line 2: .*Did you mean 'flowControl'", id="a misspelt section"),
        pytest.param(
            "plugins: [{type: decode-filter, parameters: {role: both}}]", "no parameter 'role'", id="a fixed parameter"
        ),
        pytest.param(
            "plugins: [{type: queue-scorer}]\nschedulingProfiles: [{plugins: [{pluginRef: queue-scorrer}]}]",
            "line 2: .*Did you mean 'queue-scorer'",
            id="a misspelt reference",
        ),
        pytest.param(
            "plugins: []\nschedulingProfiles: [{}, {}]", "2 scheduling profiles .*exactly 1", id="two profiles"
        ),
        pytest.param(
            "plugins: [{type: random-picker}, {type: max-score-picker}]", "two pickers", id="a picker too many"
        ),
    ],
)
def test_refused_with_place_and_remedy(text, error):
    with pytest.raises(ConfigError, match=error) as raised:
        parse_profile(text)
    assert "\n" not in str(raised.value)
    assert raised.value.next_step


PREFILL_DECODE = """
apiVersion: inference.networking.x-k8s.io/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: prefill-header-handler
- type: prefix-cache-scorer
  parameters: {hashBlockSize: 5, maxPrefixBlocksToMatch: 256, lruCapacityPerServer: 31250}
- type: prefill-filter
- type: decode-filter
- type: max-score-picker
- type: pd-profile-handler
  parameters: {threshold: 10, hashBlockSize: 5}
schedulingProfiles:
- name: prefill
  plugins:
  - pluginRef: prefill-filter
  - pluginRef: max-score-picker
  - {pluginRef: prefix-cache-scorer, weight: 50}
- name: decode
  plugins:
  - pluginRef: decode-filter
  - pluginRef: max-score-picker
  - {pluginRef: prefix-cache-scorer, weight: 50}
"""


def test_profiles_for_prefill_and_decode_stand_beside_each_other():
    profile = parse_profile(PREFILL_DECODE)
    assert (profile.name, filters(profile)) == ("decode", [ModelCompatibility(), RoleFilter(role=Role.DECODE)])
    prefill = profile.others["prefill"]
    assert filters(prefill) == [ModelCompatibility(), RoleFilter(role=Role.PREFILL)]
    assert prefill.prefix == profile.prefix == PrefixAware(block_tokens=5, max_blocks=256)


def test_a_precise_configuration_is_read_with_notes():
    profile = parse_profile(
        """
plugins:
- type: token-producer
- type: precise-prefix-cache-scorer
  parameters: {tokenProcessorConfig: {blockSize: 64}, kvEventsConfig: {topicFilter: "kv@"}}
- type: lora-affinity-scorer
- type: slo-headroom-tier-filter
schedulingProfiles:
- plugins: [{pluginRef: precise-prefix-cache-scorer, weight: 3}, {pluginRef: lora-affinity-scorer}]
flowControl: {maxRequests: 10}
saturationDetector: {pluginRef: x}
"""
    )
    assert scorers(profile) == [
        ("precise-prefix-cache-scorer", 3, PrefixAware()),
        ("lora-affinity-scorer", 1, LoraAware(room=0.8)),
    ]
    told = {note.split(": ")[1].removesuffix(" has no effect") for note in profile.notes}
    assert told == {
        "tokenProcessorConfig of precise-prefix-cache-scorer", "kvEventsConfig of precise-prefix-cache-scorer",
        "slo-headroom-tier-filter", "flowControl", "saturationDetector",
    }  # fmt: skip


@pytest.mark.parametrize("name", sorted({*BUILT_IN, *OTHERWISE, *FILTERS, *SCORERS, *PICKERS}))
def test_every_word_of_upstream_that_is_known_is_read(name):
    profile = parse_profile(f"plugins: [{{type: {name}}}]")
    assert bool(profile.notes) == (name in OTHERWISE)


def test_the_new_filters_take_their_parameters():
    profile = parse_profile(
        """
filters:
- {type: queue-depth, parameters: {maxNumSeqs: 256}}
- {type: utilisation, parameters: {conditions: [{metric: running-requests, maxValue: 20}], fallbackOnEmpty: true}}
- {type: label, parameters: {label: gpu, validValues: [h100, h200], matchLabels: {app: vllm}, allowsNoLabel: true}}
- {type: prefix-affinity, parameters: {affinityThreshold: 0.5, maxTTFTPenaltyMs: 1000}}
- {type: session}
- {type: lora}
"""
    )
    queue, utilisation, label, affinity, session, lora = filters(profile)[1:]
    assert queue.limit == 204
    assert utilisation == Utilisation(conditions=(("running-requests", 20.0),), fallback_on_empty=True)
    assert (label.label, label.valid_values, dict(label.match_labels)) == ("gpu", ("h100", "h200"), {"app": "vllm"})
    assert (affinity.affinity, affinity.max_ttft_penalty_ms) == (0.5, 1000.0)
    assert (session, lora) == (Session(), AdapterRoom())


def test_weights_that_move_with_the_hit_rate():
    assert parse_profile("profile: adaptive").adaptive == AdaptiveWeights()
    assert parse_profile("profile: adaptive\nadaptiveWeights: false").adaptive is None
    mine = parse_profile(
        "scorers: [{type: prefix-cache-scorer}, {type: load-aware-scorer}]\nadaptiveWeights: {highHitRate: 0.5}"
    )
    assert mine.adaptive == AdaptiveWeights(prefix="prefix-cache-scorer", load="load-aware-scorer", high=0.5)


def test_the_block_size_by_the_sizing_rule():
    profile = parse_profile("scorers: [{type: prefix-aware, parameters: {hashBlockSize: auto}}]")
    assert profile.prefix.block_tokens == auto_block(START_PROMPT_TOKENS) == 10


def test_aliases_cannot_fill_the_memory():
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]" for level in range(1, 12)]
    with pytest.raises(ConfigError, match="too large"):
        parse_profile("\n".join(lines))


@given(st.text(max_size=60) | st.sampled_from([DOCUMENTS, UPSTREAM]), st.integers(0, 400), st.text(max_size=3))
def test_garbage_gives_a_profile_or_one_clear_line(text, place, noise):
    try:
        parse_profile(text[:place] + noise + text[place:])
    except ConfigError as error:
        assert "\n" not in str(error)


def test_without_a_file_the_default():
    assert load_profile(None) is DEFAULT


def test_a_file_is_named_in_its_errors(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("selection: {topK: 1}\n")
    assert load_profile(path).picker == TopKRandom(top_k=1)
    path.write_text("selektion: 1")
    with pytest.raises(ConfigError, match=r"mine\.yaml line 1: .*selection"):
        load_profile(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(None, "No such file", id="a missing file"),
        pytest.param(b"\xff\xfe", "not UTF-8", id="a binary file"),
    ],
)
def test_an_unreadable_file_is_one_line(tmp_path, content, reason):
    path = tmp_path / "mine.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"mine.yaml: .*{reason}"):
        load_profile(path)
