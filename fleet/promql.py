"""PromQL from the catalogue, so that no query names a series that the project does not know. Pure.

>>> from fleet import signals as s
>>> rate(s.GENERATION_TOKENS, "1m", model_name="llama")
'rate(vllm:generation_tokens_total{model_name="llama"}[1m])'
>>> sum_by(rate(s.GENERATION_TOKENS, "5m"), "model_name")
'sum by (model_name) (rate(vllm:generation_tokens_total[5m]))'
>>> quantile(0.95, s.ENGINE_TTFT, "5m", "model_name")
'histogram_quantile(0.95, sum by (model_name, le) (rate(vllm:time_to_first_token_seconds_bucket[5m])))'
"""

from __future__ import annotations

from dataclasses import replace

from fleet.signals import Kind, Signal


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _matcher(label: str, value: str) -> str:
    for prefix, operator in (("!~", "!~"), ("!=", "!="), ("~", "=~")):
        if value.startswith(prefix):
            return f'{label}{operator}"{_escape(value[len(prefix) :])}"'
    return f'{label}="{_escape(value)}"'


def selector(signal: Signal, *, suffix: str = "", **matchers: str) -> str:
    """``name{label="value"}``; ``~`` before a value means a regular expression, ``!=`` and ``!~`` the opposites."""
    body = ",".join(_matcher(label, value) for label, value in matchers.items())
    return f"{signal.name}{suffix}{{{body}}}" if body else f"{signal.name}{suffix}"


def any_selector(signals: tuple[Signal, ...], *, suffix: str = "", aliases: bool = True) -> str:
    """One selector for several series and all their aliases: a constant number of queries, whatever the fleet.

    >>> from fleet import signals as s
    >>> any_selector((s.RUNNING, s.PREEMPTIONS), aliases=False)
    '{__name__=~"vllm:num_requests_running|vllm:num_preemptions_total"}'
    """
    names = [name + suffix for signal in signals for name in (signal.names if aliases else (signal.name,))]
    return '{__name__=~"' + "|".join(names) + '"}'


def rate(signal: Signal, window: str, *, suffix: str = "", **matchers: str) -> str:
    """Per-second rate of a counter, or of a histogram's ``suffix`` series.

    Raises:
        ValueError: for a gauge: its rate means nothing.
    """
    if signal.kind is Kind.GAUGE:
        raise ValueError(f"{signal.name} is a gauge; rate() of it means nothing")
    return f"rate({selector(signal, suffix=suffix, **matchers)}[{window}])"


def sum_by(expression: str, *labels: str) -> str:
    """``sum by (labels) (expression)``; without labels the plain sum."""
    return f"sum by ({', '.join(labels)}) ({expression})" if labels else f"sum({expression})"


def max_by(expression: str, *labels: str) -> str:
    """``max by (labels) (expression)``; without labels the plain maximum."""
    return f"max by ({', '.join(labels)}) ({expression})" if labels else f"max({expression})"


def min_by(expression: str, *labels: str) -> str:
    """``min by (labels) (expression)``; without labels the plain minimum."""
    return f"min by ({', '.join(labels)}) ({expression})" if labels else f"min({expression})"


def spellings(signal: Signal) -> tuple[Signal, ...]:
    """The signal under its name and under each alias, in the order they are tried.

    >>> from fleet import signals as s
    >>> [each.name for each in spellings(s.ROUTER_READY)]
    ['llm_d_epp_ready_endpoints', 'inference_pool_ready_pods']
    """
    return tuple(replace(signal, name=name, aliases=()) for name in signal.names)


def first_of(*expressions: str) -> str:
    """``a or b or ...``: per label set, the first that has a value."""
    return " or ".join(expressions)


def quantile(q: float, signal: Signal, window: str, *labels: str, **matchers: str) -> str:
    """Quantile of a histogram over ``window``, by ``labels``."""
    buckets = rate(signal, window, suffix="_bucket", **matchers)
    return f"histogram_quantile({q:g}, {sum_by(buckets, *labels, 'le')})"


def mean(signal: Signal, window: str, *labels: str, **matchers: str) -> str:
    """Mean of a histogram's observations over ``window``, by ``labels``."""
    total = sum_by(rate(signal, window, suffix="_sum", **matchers), *labels)
    count = sum_by(rate(signal, window, suffix="_count", **matchers), *labels)
    return f"{total} / {count}"
