"""Traces through OpenTelemetry's SDK: a thread of its own sends spans; a collector that is gone only loses them."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.propagators.textmap import DefaultGetter
from opentelemetry.sdk.environment_variables import OTEL_BSP_MAX_QUEUE_SIZE, OTEL_SDK_DISABLED
from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from fleet import __version__
from fleet.errors import ConfigError
from fleet.history import RequestOutcome
from router.dataplane.replies import Refusal
from router.recorder import Facts
from router.settings import TRACES_BY_ENVIRONMENT, RouterSettings
from router.ticket import Ticket
from router.tracing import spans
from router.tracing.hooks import finished

log = logging.getLogger(__name__)

_SCOPE: Final = "llm-fleet.router"
_SERVICE: Final = "llm-fleet-router"
_MOST: Final = 2048
"""Spans that wait for the collector, at most, where the environment names no other number (OpenTelemetry's default)."""
_REASON_CHARS: Final = 200
_LONGEST_STATE: Final = 4096
_FLUSH_S: Final = 5.0
"""At a stop, spans may leave for this long."""
_LOOK_S: Final = 0.02
_URL: Final = re.compile(r"https?://[^/\s]+(/\S*)?$")
_PROPAGATOR: Final = TraceContextTextMapPropagator()
_GETTER: Final = DefaultGetter()
_NOWHERE: Final = Context()


class RequestTrace:
    """The span of one request (:class:`router.tracing.hooks.Trace`)."""

    __slots__ = ("_end", "_refused", "span")

    def __init__(self, span: Span, end: Callable[[Span, int], None]) -> None:
        self.span, self._end, self._refused = span, end, ""

    def waited(self, wait_s: float) -> None:
        """See :class:`router.tracing.hooks.Trace`."""
        self.span.set_attribute("fleet.queue_wait_s", wait_s)
        self.span.add_event("fleet.left_queue", {"fleet.queue_wait_s": wait_s})

    def failed(self, url: str, reason: str) -> None:
        """See :class:`router.tracing.hooks.Trace`."""
        host, port = spans.address(url)
        said: dict[str, spans.Value] = {spans.ADDRESS: host, spans.PORT: port, "fleet.reason": reason[:_REASON_CHARS]}
        self.span.add_event("fleet.engine_failed", said)

    def refused(self, refusal: Refusal) -> None:
        """See :class:`router.tracing.hooks.Trace`."""
        self._refused = refusal.code or str(refusal.status)

    def finish(self, ticket: Ticket, seen: Facts) -> None:
        """The request is over."""
        span, start_s = self.span, ticket.started_at_s
        span.set_attributes(spans.answered(ticket, seen))
        if seen.ttft_s is not None:
            span.add_event("fleet.first_chunk", timestamp=_ns(start_s + seen.ttft_s))
        if ticket.outcome not in (RequestOutcome.OK, RequestOutcome.ABORTED):
            _fail(span, self._refused or str(ticket.status))
        self._end(span, _ns(start_s + seen.e2e_s))


def _ns(at_s: float) -> int:
    return int(at_s * 1e9)


def _fail(span: Span, error: str) -> None:
    span.set_attribute(spans.ERROR, error)
    span.set_status(Status(StatusCode.ERROR))


class Counting(SpanExporter):
    """Counts what a collector took, and what it did not."""

    def __init__(self, inner: SpanExporter) -> None:
        self._inner = inner
        self.sent = self.lost = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """See :class:`opentelemetry.sdk.trace.export.SpanExporter`."""
        result = SpanExportResult.FAILURE
        try:
            result = self._inner.export(spans)
        finally:
            if result is SpanExportResult.SUCCESS:
                self.sent += len(spans)
            else:
                self.lost += len(spans)
        return result

    def shutdown(self) -> None:
        """See :class:`opentelemetry.sdk.trace.export.SpanExporter`."""
        self._inner.shutdown()


class OtlpTracing:
    """Makes spans and sends them (:class:`router.tracing.hooks.Tracing`); also told of every request that is over.

    Args:
        exporter: takes spans, on a thread of its own.
        ratio: share of requests traced whose client did not decide; ``None``: as the ``OTEL_*`` variables say.
        most: spans that wait for the exporter at most; further ones are dropped, and counted.
    """

    def __init__(self, exporter: SpanExporter, *, ratio: float | None = None, most: int = _MOST) -> None:
        self._exporter, self._most = Counting(exporter), most
        sampler = None if ratio is None else ParentBased(TraceIdRatioBased(ratio))
        self._provider = TracerProvider(sampler=sampler, resource=_resource(), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter, max_queue_size=most,
                                                             max_export_batch_size=min(512, most)))  # fmt: skip
        self._tracer = self._provider.get_tracer(_SCOPE, __version__)
        self._ended = self._dropped = 0

    def counts(self) -> Mapping[str, int]:
        """Spans so far, by what became of them."""
        return {"sent": self._exporter.sent, "lost": self._exporter.lost, "dropped": self._dropped}

    def begin(self, ticket: Ticket, *, path: bytes, parents: Sequence[str], state: str) -> str:
        """See :class:`router.tracing.hooks.Tracing`."""
        name, context = spans.operation(path), _context(parents, state)
        span = self._tracer.start_span(
            f"{name} {ticket.model}",
            context=context,
            kind=SpanKind.CLIENT,
            attributes=spans.asked(ticket, name),
            start_time=_ns(ticket.started_at_s),
        )
        if span.is_recording():
            ticket.trace = RequestTrace(span, self._finish)
        made = span.get_span_context()
        return f"00-{made.trace_id:032x}-{made.span_id:016x}-{made.trace_flags & 1:02x}"

    def turned_down(self, refusal: Refusal, *, path: bytes, parents: Sequence[str], state: str) -> None:
        """See :class:`router.tracing.hooks.Tracing`."""
        name = spans.operation(path)
        known: dict[str, spans.Value] = {
            spans.OPERATION: name, spans.PROVIDER: spans.OPENAI, spans.STATUS: refusal.status,
            "fleet.outcome": str(RequestOutcome.REJECTED),
        }  # fmt: skip
        span = self._tracer.start_span(name, context=_context(parents, state), kind=SpanKind.CLIENT, attributes=known)
        if span.is_recording():
            _fail(span, refusal.code or str(refusal.status))
            self._finish(span, time.time_ns())

    def __call__(self, ticket: Ticket, seen: Facts) -> None:
        """A request is over."""
        trace = finished(ticket)
        if trace is not None:
            trace.finish(ticket, seen)

    def _finish(self, span: Span, end_ns: int) -> None:
        """Hand a span to the thread that sends, unless too many wait there."""
        if self._ended - self._exporter.sent - self._exporter.lost >= self._most:
            self._dropped += 1
            return
        self._ended += 1
        span.end(end_ns)

    async def close(self) -> None:
        """Send what waits, for a few seconds at most."""
        thread = threading.Thread(target=self._provider.shutdown, name="traces-flush", daemon=True)
        thread.start()
        end_s = time.monotonic() + _FLUSH_S
        while thread.is_alive() and time.monotonic() < end_s:  # noqa: ASYNC110 - a thread has no event for us
            await asyncio.sleep(_LOOK_S)
        if thread.is_alive():
            self._exporter.shutdown()  # ends its waiting between two attempts
        counts = self.counts()
        if missing := self._ended - counts["sent"] + counts["dropped"]:
            log.warning("%d spans did not reach the collector", missing)


def _context(parents: Sequence[str], state: str) -> Context:
    """The client's trace, if it names one in the right form."""
    if len(parents) != 1:
        return _NOWHERE
    carrier = {"traceparent": parents[0]}
    if state and len(state) <= _LONGEST_STATE:
        carrier["tracestate"] = state
    return _PROPAGATOR.extract(carrier, context=_NOWHERE, getter=_GETTER)


def _resource() -> Resource:
    """Who sends: what the standard variables say, else the router."""
    named = OTELResourceDetector().detect().attributes
    return Resource.create({} if named.get(SERVICE_NAME) else {SERVICE_NAME: _SERVICE})


def make(settings: RouterSettings) -> OtlpTracing | None:
    """Tracing as the settings and the ``OTEL_*`` variables say; ``None`` where ``OTEL_SDK_DISABLED`` forbids it.

    Raises: ConfigError for an address or variables that cannot be used.
    """
    if os.environ.get(OTEL_SDK_DISABLED, "").strip().lower() == "true":
        return None
    endpoint = settings.traces_endpoint
    if endpoint != TRACES_BY_ENVIRONMENT and not _URL.match(endpoint):
        raise ConfigError(f"{endpoint!r} is no address of a collector", where="--traces-endpoint",
                          limit=f"http:// or https://HOST[:PORT]/PATH, or {TRACES_BY_ENVIRONMENT}",
                          next_step="Give it as http://COLLECTOR:4318/v1/traces.")  # fmt: skip
    try:
        most = int(os.environ.get(OTEL_BSP_MAX_QUEUE_SIZE) or _MOST)
        exporter = OTLPSpanExporter(endpoint=None if endpoint == TRACES_BY_ENVIRONMENT else endpoint)
        return OtlpTracing(exporter, ratio=settings.traces_ratio, most=most)
    except ValueError as error:
        raise ConfigError(f"traces cannot be set up: {error}", where="ROUTER_TRACES_ENDPOINT, OTEL_*",
                          next_step="Correct the variable that is named.") from error  # fmt: skip
