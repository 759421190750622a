"""Asks a Prometheus (or Thanos, Mimir) for the whole fleet with a fixed number of instant queries."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from typing import Any
from urllib.parse import urlsplit

import msgspec
import requests
from prometheus_api_client import PrometheusConnect
from prometheus_api_client.exceptions import PrometheusApiClientException
from requests.adapters import BaseAdapter
from urllib3.util.retry import Retry

from fleet.errors import ConfigError, SourceError
from fleet.signals import KV_UTILISATION, ROUTER_REQUESTS, RUNNING, Signal
from fleet.sources import queries, rates
from fleet.sources.base import EngineReading, RouterQueue
from fleet.sources.exposition import Point
from fleet.sources.traffic import ENGINES, ROUTER, Vocabulary, model_traffic, preferred
from fleet.types import EngineSample, ModelTraffic, Replica

Values = Mapping[str, float]
"""One value per Prometheus ``instance``."""

_PORTS = {"http": 80, "https": 443}


@lru_cache(maxsize=65_536)
def instance_of(url: str) -> str:
    """The ``instance`` label under which Prometheus knows an engine.

    >>> instance_of("http://10.0.0.1:8000"), instance_of("http://gpu1")
    ('10.0.0.1:8000', 'gpu1:80')
    """
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return host if parts.port else f"{host}:{_PORTS.get(parts.scheme, 80)}"


def checked_url(url: str) -> str:
    """``url`` without its trailing slash.

    Raises: ConfigError when it is no http(s) URL with a host and a usable port.
    """
    try:
        parts = urlsplit(url)
        usable = parts.scheme in _PORTS and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError(f"{url!r} is no URL", where="--prometheus-url", limit="http://host:port or https://...",
                          next_step="Write for example http://127.0.0.1:9090.")  # fmt: skip
    return url.rstrip("/")


class Labels(msgspec.Struct, gc=False):
    """Of a series: those that queries here keep. Typed, for a large fleet's answers are tens of megabytes."""

    instance: str = ""
    name: str = msgspec.field(name="__name__", default="")
    model_name: str = ""
    target_model_name: str = ""
    le: str = ""
    streaming: str = ""
    engine: str = ""
    num_gpu_blocks: str = ""
    block_size: str = ""
    pod: str = ""
    exported_pod: str = ""

    @property
    def model(self) -> str:
        """The model that the series speaks of; empty where it does not say."""
        return self.target_model_name or self.model_name


class Entry(msgspec.Struct, gc=False):
    """One series of an instant vector."""

    metric: Labels
    value: tuple[float, str]
    """Time of the query, and the value as Prometheus writes it."""

    @property
    def number(self) -> float:
        """The value; NaN where it is none."""
        try:
            return float(self.value[1])
        except ValueError:
            return math.nan


class NoVectorError(ValueError):
    """An answer, but of another kind than instant vectors."""


class _Data(msgspec.Struct, gc=False):
    result: list[Entry]


class _Answer(msgspec.Struct, gc=False):
    data: _Data


class Session(requests.Session):
    """Reads answers as typed records in place of the standard library's dictionaries."""

    def request(self, *args: Any, **kwargs: Any) -> requests.Response:
        """As :meth:`requests.Session.request`."""
        response = super().request(*args, **kwargs)
        setattr(response, "json", partial(_json, response))  # noqa: B010 - an assignment would be to a method
        return response


_DECODER = msgspec.json.Decoder(_Answer)


def _json(response: requests.Response) -> Any:
    """Raises: ValueError when the body is no instant vector, as the method it stands for when it is no JSON."""
    try:
        return {"data": {"result": _DECODER.decode(response.content).data.result}}
    except msgspec.DecodeError as error:
        raise (NoVectorError if "$.data.result[" in str(error) else ValueError)(str(error)) from error


class PrometheusSource:
    """Engine readings through PromQL; engines are joined by ``instance`` = host:port of the replica's URL.

    Args:
        url: base URL of the Prometheus API.
        window_s: rates are over this long; give it at least two, better four, of Prometheus's scrape intervals.
        timeout_s: for each query.
        adapter: carries the queries in place of HTTP, for recorded answers.
    Raises: ConfigError when the URL is malformed.
    """

    def __init__(
        self, url: str, *, window_s: float = 30.0, timeout_s: float = 5.0, adapter: BaseAdapter | None = None
    ) -> None:  # fmt: skip
        self.name = checked_url(url)
        self._window_s = window_s
        # No retries: the loop comes again in seconds, and back-off inside a pass would only make it late.
        self._session = Session()
        self._client = PrometheusConnect(self.name, retry=Retry(total=0, read=False), timeout=timeout_s,
                                         session=self._session)  # fmt: skip
        if adapter is not None:
            self._session.mount(self.name, adapter)

    def check(self) -> None:
        """Raises: SourceError when no Prometheus answers at the URL."""
        self._query("vector(1)")

    def read(self, replicas: Sequence[Replica], *, now_s: float) -> Mapping[str, EngineReading]:
        """See :class:`fleet.sources.base.MetricSource`."""
        ages = self._ages()
        fields = self._fields()
        busy = self._gpus()
        rate = {name: self._values(queries.rate(signal, self._window_s)) for name, signal in queries.RATES.items()}
        found = {}
        for replica in replicas:
            instance = instance_of(replica.url)
            if instance in ages:
                values: dict[str, Any] = {
                    name: by_instance[instance] for name, by_instance in fields.items() if instance in by_instance
                }
                sample = EngineSample(at_s=now_s - ages[instance], **values)
                found[replica.url] = _reading(
                    sample, {name: rate[name].get(instance) for name in rate}, busy.get(replica.name)
                )
        return found

    def router_queue(self) -> RouterQueue:
        """Requests that wait at the router, by model, with ages; empty where no router is scraped.

        Raises: SourceError when Prometheus does not answer.
        """
        waiting: dict[str, float] = {}
        for entry in self._query(queries.router_queue()):
            model = entry.metric.model  # one value of several that means nothing spoils their sum
            waiting[model] = waiting.get(model, 0.0) + (entry.number if _usable(entry.number) else math.nan)
        ages: dict[str, float] = {}
        for entry in self._query(queries.router_queue_sampled_at()):
            if _usable(at_s := entry.number):
                ages[entry.metric.model] = max(entry.value[0] - at_s, ages.get(entry.metric.model, 0.0))
        return RouterQueue(waiting={model: n for model, n in waiting.items() if _usable(n)}, ages_s=ages)

    def traffic(self) -> Mapping[str, ModelTraffic]:
        """Each model's requests as the routers count them, else as its engines do; read before Prometheus's clock.

        Raises: SourceError when Prometheus does not answer.
        """
        router = self._traffic(queries.router_traffic(), ROUTER, ROUTER_REQUESTS, "router")
        return preferred(router, self._traffic(queries.engine_traffic(), ENGINES, RUNNING, "engines"))

    def _traffic(self, query: str, words: Vocabulary, heard: Signal, source: str) -> dict[str, ModelTraffic]:
        """``at_s`` is the time of the model's newest sample: an old one is old data, whenever it is asked for.

        It is by Prometheus's clock, and so is ``asked_s``: the difference is an age whatever that clock shows.
        """
        points = [Point(one.name, entry.number, {"model_name": one.model, "le": one.le, "streaming": one.streaming})
                  for entry in self._query(query) if (one := entry.metric)]  # fmt: skip
        at_s: dict[str, float] = {}
        asked_s = None
        for entry in self._query(queries.traffic_sampled_at(heard)):
            if _usable(entry.number):
                at_s[entry.metric.model] = max(entry.number, at_s.get(entry.metric.model, 0.0))
                asked_s = entry.value[0]
        return model_traffic(points, words, at_s=at_s, source=source, asked_s=asked_s)

    def _ages(self) -> Values:
        """Seconds between each engine's newest sample and the query, both by Prometheus's clock.

        An engine that an answer names twice is as old as the older of the two.
        """
        found: dict[str, float] = {}
        for entry in self._query(queries.sampled_at()):
            if _usable(at_s := entry.number):
                name = entry.metric.instance
                found[name] = max(entry.value[0] - at_s, found.get(name, 0.0))
        return found

    def _gpus(self) -> dict[str, float | None]:
        """Activity by pod; ``None`` for a name that several pods have (in different namespaces)."""
        found: dict[str, float | None] = {}
        for entry in self._query(queries.gpu_active()):
            one, value = entry.metric, entry.number
            if (name := one.exported_pod or one.pod) and _usable(value):
                found[name] = None if name in found else min(value, 1.0)
        return found

    def _fields(self) -> dict[str, Values]:
        """Fields of :class:`EngineSample`, each by instance."""
        raw = self._named(queries.raw())
        fields = {field: _first(raw, signal) for field, signal in queries.RAW.items()}
        utilisation = _first(self._named(queries.kv_utilisation()), KV_UTILISATION)
        fields["kv_utilisation"] = {instance: min(value, 1.0) for instance, value in utilisation.items()}
        fields["kv_capacity_tokens"] = self._capacity()
        return fields

    def _capacity(self) -> Values:
        """Tokens by instance, of all its ranks; a rank that is told of twice (two scrape jobs) counts once."""
        ranks: dict[tuple[str, str], float] = {}
        for entry in self._query(queries.cache_config()):
            one = entry.metric
            try:
                tokens = float(one.num_gpu_blocks) * float(one.block_size)
            except ValueError:
                continue
            if math.isfinite(tokens) and tokens > 0:
                ranks[one.instance, one.engine] = tokens
        total: dict[str, float] = {}
        for (instance, _), tokens in ranks.items():
            total[instance] = total.get(instance, 0.0) + tokens
        return total

    def _values(self, query: str) -> Values:
        return {entry.metric.instance: value for entry in self._query(query) if _usable(value := entry.number)}

    def _named(self, query: str) -> Mapping[str, Values]:
        """Values by metric name and instance; of a series that an answer gives twice, the larger: the fuller engine."""
        found: dict[str, dict[str, float]] = {}
        for entry in self._query(query):
            if _usable(value := entry.number):
                one = entry.metric
                if (held := found.get(one.name)) is None:
                    held = found[one.name] = {}
                held[one.instance] = max(value, held.get(one.instance, value))
        return found

    def _query(self, query: str) -> list[Entry]:
        try:
            answer = self._client.custom_query(query)
        except (requests.RequestException, PrometheusApiClientException, ValueError, KeyError, TypeError) as error:
            problem, step = _problem(error)
            raise SourceError(problem, where=f"Prometheus {self.name}", next_step=step) from error
        if not isinstance(answer, list):
            raise SourceError("gives no Prometheus answer", where=f"Prometheus {self.name}", next_step=_CHECK_URL)
        return answer


_CHECK_URL = "Check that the URL is a Prometheus API."


def _problem(error: Exception) -> tuple[str, str]:
    """What went wrong with a query, and what to do about it."""
    if isinstance(error, NoVectorError):
        return "gives no instant vector", _CHECK_URL
    if isinstance(error, requests.Timeout):
        return "does not answer in time", "Raise its resources, or check the network."
    if isinstance(error, PrometheusApiClientException):
        return f"refuses a query: {str(error)[:200]}", _CHECK_URL
    if isinstance(error, requests.RequestException) and not isinstance(error, ValueError):
        return f"cannot be reached ({type(error).__name__})", "Check the URL and that Prometheus runs."
    return f"gives no Prometheus answer ({type(error).__name__})", _CHECK_URL


def _usable(value: float) -> bool:
    """NaN, infinite and negative values are dropped, as the scraper does."""
    return math.isfinite(value) and value >= 0


def _first(named: Mapping[str, Values], signal: Signal) -> Values:
    """Per instance, the value under the first of the signal's names that has one."""
    merged: dict[str, float] = {}
    for name in reversed(signal.names):
        merged.update(named.get(name, {}))
    return merged


def _reading(sample: EngineSample, rate: Mapping[str, float | None], gpu_active: float | None) -> EngineReading:
    return EngineReading(
        sample=sample,
        gpu_active=gpu_active,
        generation_tps=rate["generation_tps"],
        prompt_tps=rate["prompt_tps"],
        request_rps=rate["request_rps"],
        prefix_hit_ratio=rates.hit_ratio(rate["prefix_hits"], rate["prefix_queries"], rate["prompt_tps"]),
    )
