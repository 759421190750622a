"""What the router can be told; environment prefix ``ROUTER_``."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from fleet.settings import Settings
from router.shared import MAX_WORKERS

KIB, MIB = 1 << 10, 1 << 20
TRACES_BY_ENVIRONMENT: Final = "environment"
"""The standard variables say where spans go."""


class RouterSettings(Settings):
    """Addresses, limits and times of the router. Limits protect its memory; times are seconds."""

    model_config = SettingsConfigDict(env_prefix="ROUTER_", frozen=True, extra="forbid")

    host: str = "127.0.0.1"
    """Address to listen on; the default is loopback: nothing is reachable from outside."""
    port: int = Field(default=8080, ge=0, le=65535)
    """Where clients connect; 0 takes any free port."""
    admin_port: int = Field(default=8081, ge=0, le=65535)
    """Health, metrics, debug: never the port that clients reach."""
    platform: str = ""
    """URL of the platform API whose ``GET /fleet`` names the engines."""
    engines: str = ""
    """Fixed engine URLs, separated by commas, where there is no platform."""
    discover: str = ""
    """Where else the engines are: ``file:PATH``, ``dns://HOST:PORT``, ``kube-service://NAMESPACE/NAME[:PORT]`` or
    ``kube-pool://NAMESPACE/NAME``."""
    workers: int = Field(default=1, ge=1, le=MAX_WORKERS)
    """Processes that share the port, a core each. They know each other's requests in flight and prompts placed; flow
    control and tenants' limits are split evenly between them."""
    config: Path | None = None
    """Scheduling profile; unset: the built-in default."""
    seed: int | None = None
    """Seed of the picker's randomness; unset: from the system."""

    scrape_s: float = Field(default=1.0, gt=0)
    """Time between two scrapes of an engine."""
    poll_s: float = Field(default=0.5, gt=0)
    """Time between two looks at the platform: how long a new or a stopping replica can go unnoticed."""
    models_s: float = Field(default=30.0, gt=0)
    """Time between two reads of an engine's ``/v1/models``."""
    eject_s: float = Field(default=2.0, gt=0)
    """An engine that refuses connections gets no request for this long, and then until a scrape succeeds."""

    header_bytes: int = Field(default=32 * KIB, ge=1 * KIB)
    """Request line and headers (431 above; uvicorn and nginx allow 64 and 32 KiB)."""
    header_count: int = Field(default=100, ge=8)
    """Header lines (431 above)."""
    body_bytes: int = Field(default=16 * MIB, ge=1 * KIB)
    """Request body (413 above): about four million tokens of text."""
    buffered_bytes: int = Field(default=1024 * MIB, ge=1 * MIB)
    """Bodies of all requests held at once (503 above)."""
    pipelined: int = Field(default=64, ge=1)
    """Requests one client may send ahead of their answers."""
    connections: int = Field(default=16_384, ge=1)
    """Client connections held at once; further ones are closed at once."""
    header_s: float = Field(default=10.0, gt=0)
    """From a request's first byte to the end of its headers (408 above)."""
    body_s: float = Field(default=60.0, gt=0)
    """From there to the end of its body (408 above)."""
    idle_s: float = Field(default=75.0, gt=0)
    """A client connection without a request is closed after this long."""
    stall_s: float = Field(default=120.0, gt=0)
    """A client that takes none of its answer for this long is dropped."""

    connect_s: float = Field(default=2.0, gt=0)
    """To open a connection to an engine."""
    response_s: float = Field(default=600.0, gt=0)
    """Longest silence of an engine, before its answer or inside it (504 above): generations may be long."""
    pool_idle: int = Field(default=256, ge=0)
    """Idle connections kept to one engine; 0 keeps none."""
    pool_idle_s: float = Field(default=4.0, gt=0)
    """They are closed after this long: vLLM's server closes them after 5 s, and losing that race costs a retry."""
    pool_age_s: float = Field(default=300.0, gt=0)
    """No connection is used again after this age, so that load spreads when addresses change."""
    retries: int = Field(default=2, ge=0)
    """Other engines tried when one fails before it has answered a byte; 0 tries none."""
    retry_ratio: float = Field(default=0.2, ge=0, le=1)
    """Budget: retries earned by each request, so that a fleet in trouble is not flooded."""
    retry_burst: int = Field(default=100, ge=0)
    """Retries that may be saved up: the requests in flight at an engine that dies."""

    flow_queue_depth: int = Field(default=32, ge=0)
    """An engine with so many requests waiting is full; when all are, requests wait here; 0 never holds for a queue."""
    flow_in_flight: int = Field(default=0, ge=0)
    """An engine with so many requests queued and running is full; 0: no such limit."""
    flow_stale_s: float = Field(default=10.0, gt=0)
    """A scrape older than this does not make an engine full."""
    flow_wait_s: float = Field(default=60.0, gt=0)
    """A request waits here for room at most so long (429 then; upstream's default)."""
    flow_no_engine_s: float = Field(default=60.0, ge=0)
    """For the first engine of a model that the platform can start (503 then); 0 refuses at once."""
    flow_requests: int = Field(default=5000, ge=1)
    """Requests waiting for one model at most (429 beyond; upstream's default)."""
    flow_bytes: int = Field(default=1000 * MIB, ge=1 * MIB)
    """Bytes of their bodies at most."""

    slo_admission: float | None = Field(default=None, ge=0, le=1)
    """A request that names a latency target (``x-llm-d-slo-ttft-ms``, ``x-llm-d-slo-tpot-ms``) goes to no engine while
    the latency model gives it no better chance than this at any: it waits (``slo_wait_s``), and where that is in vain
    it is refused (429, ``rejected-slo-unattainable``). Below 0.1 a request is mostly in vain. 0 refuses none and only
    tells the chance; unset: not asked."""
    slo_wait_s: float = Field(default=0.0, ge=0)
    """Such a request waits at most so long for an engine that meets its targets, and never longer than its TTFT target
    leaves beside what an idle engine takes (60: as long as that allows). 0 refuses at once: of requests that are all
    alike, more are served in time so; waiting gives the urgent ones precedence."""
    slo_defaults: Literal["off", "place", "admit"] = "place"
    """What targets of the SLO file (``FLEET_SLO_FILE``) and of tenants (``slo`` in their file) are to requests that
    name none: ``place`` has them placed as if they named these, but refuses none; ``admit`` counts them in
    ``slo_admission`` too; ``off``: nothing."""
    tenants: Path | None = None
    """Tenants with their keys, rates and priorities; unset: anyone may ask, and credentials are passed on."""
    models: Path | None = None
    """Aliases and traffic splits: what clients' names of models stand for; unset: the names are the models'."""
    engine_api_key: SecretStr = SecretStr("")
    """Key shown to engines (vLLM's ``--api-key``); empty: none, and the client's own where there are no tenants."""

    breaker_failures: int = Field(default=5, ge=0)
    """Requests in a row that an engine lost or answered with 5xx before it is left out for a while (a success in
    between begins anew, so a long generation is no failure); 0 never leaves it out for that."""
    retry_jitter_s: float = Field(default=0.05, ge=0)
    """A second and later retry waits up to so long, at random, times its number: retries do not come all at once."""

    tls_cert: Path | None = None
    """Certificate chain (PEM) of the client port; unset: plain HTTP."""
    tls_key: Path | None = None
    """Its key (PEM); unset: in the same file."""
    access_log: Path | None = None
    """A line of JSON for every request, without text or credentials: a file, or ``-`` for standard output."""

    traces_endpoint: str = ""
    """Where OpenTelemetry spans of requests go, OTLP over HTTP with its path (``http://COLLECTOR:4318/v1/traces``), or
    ``environment``: where ``OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`` or ``OTEL_EXPORTER_OTLP_ENDPOINT`` says. Empty: no
    traces. Takes the extra ``otel``."""
    traces_ratio: float | None = Field(default=None, ge=0, le=1)
    """Share of requests traced of clients that did not decide it themselves; unset: as ``OTEL_TRACES_SAMPLER`` and
    ``OTEL_TRACES_SAMPLER_ARG`` say, else all."""

    drain_s: float = Field(default=10.0, ge=0)
    """At a stop, requests in flight may finish for this long."""
    decisions: int = Field(default=256, ge=1)
    """Recent picks kept for ``/debug/decisions``."""
    explain: bool = False
    """Answer ``x-fleet-explain`` with ``x-fleet-decision``: it names engines, so clients must be trusted."""
    record_workload: Path | None = None
    """Record live traffic to this file, without its text, for ``fleet bench routing --workload`` and ``fleet sim
    replay``; unset: no recording."""
    kv_events: str = ""
    """Engines' KV events, for precise prefix matching: ``auto`` (each engine's ``/kv_event_sources`` says where),
    ``tcp://*:PORT`` (engines connect here) or ``connect:PORT[,REPLAY_PORT]``. Empty: prefixes are guessed from what was
    sent where."""
    kv_backend: SecretStr = SecretStr("")
    """Redis or Valkey that several routers share (``redis://HOST:PORT/DATABASE``): one that starts knows the engines'
    caches at once, and all know what each just sent. Empty: each hears the events alone."""
    tokenizer: str = ""
    """``tokenizer.json`` for plain prompts (package ``tokenizers``); without it engines' ``/tokenize`` are asked."""
    tokenize_s: float = Field(default=0.25, gt=0)
    """How long an engine may take for that; above it the request goes on with a guess."""
    disaggregation: str = ""
    """How KV moves from prefill to decode engines: ``nixl``, ``mooncake``, ``shared-storage``, ``sglang`` or
    ``sidecar``. Empty: each request is served whole."""
    bootstrap_port: int = Field(default=8998, ge=1, le=65_535)
    """Port of prefill engines' bootstrap servers (Mooncake, SGLang; 8998 is the default of both)."""
    cache_hit_threshold: float = Field(default=0.0, ge=0.0, le=1.0)
    """``shared-storage``: the decode engine is asked first, to answer if this share of the prompt is in its cache or
    the store (LMCache's ``cache_hit_threshold``, which not every vLLM has); only else is the prompt computed
    elsewhere. 0: it is not asked."""
    pd_decider: str = "uncached:1024"
    """When a prompt is computed elsewhere: ``always``, ``uncached:TOKENS`` or ``prompt:TOKENS``."""
    kv_bytes_per_token: float = Field(default=131_072.0, gt=0)
    """KV cache of one token, for the cost of a transfer (128 KiB: Llama-3.1-8B in 16 bits)."""
    kv_link_gbps: float = Field(default=100.0, gt=0)
    """Link between two engines, Gb/s."""
    predictor_url: str = ""
    """Base URL of ``fleet predictor serve``, to fetch its model from; empty: the predictor's file in ``FLEET_HOME``."""
    predictor_poll_s: float = Field(default=2.0, gt=0)
    """Time between two looks there (fits come every 5 s; a look without news takes a few hundred bytes)."""
    record_rps: float = Field(default=500.0, gt=0)
    """Requests recorded in the history each second at most: above it a sample, so that the disk never sets the pace."""
