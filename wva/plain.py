"""A decision in plain words, for whoever is on call: what changed, why, what is expected, what it waits for. Pure.

The words are made from the reason and the recorded inputs, not from the controller's own sentence, which stays beside
them with every number. What was not recorded is left out: rows of older versions lack some of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from fleet.types import Reason


def sentence(row: Mapping[Any, Any]) -> str:
    """A decision as a person would tell it.

    Args:
        row: of the table ``decisions``; ``reason``, ``current``, ``desired``, ``saturation``, ``signals`` and, for a
            reason that is not known, ``detail`` are read.

    >>> sentence({"reason": "forecast", "current": 3, "desired": 4, "saturation": 0.9, "signals": {"requested": 3,
    ...     "demand_rps": 12.0, "forecast_p90_rps": 14.1, "lead_s": 8.3, "capacity_rps": 4.1}})
    'Added 1 replica (3 → 4): up to 14.1 requests/s expected within 8 s, 12 now; one replica carries 4.1.'
    """
    facts = _Facts(row)
    words = _WHY.get(str(row["reason"]))
    why = words(facts) if words else str(row.get("detail") or row["reason"])
    return f"{facts.change}: {why}.{_late(facts)}"


def number(value: float, digits: int = 3) -> str:
    """Significant digits without an exponent.

    >>> number(1234.5), number(12.04), number(0.00312), number(100.0, 2), number(0.0)
    ('1230', '12', '0.00312', '100', '0')
    """
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    places = digits - 1 - math.floor(math.log10(abs(value)))
    text = f"{round(value, places):.{max(places, 0)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def replicas(count: float) -> str:
    """A count of replicas.

    >>> replicas(1), replicas(4.0)
    ('1 replica', '4 replicas')
    """
    return f"{count:.0f} replica" + ("" if count == 1 else "s")


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _percent(share: float) -> str:
    return "under 0.1 %" if 0 < share < 0.001 else f"{number(100 * share, 2)} %"


@dataclass(frozen=True, slots=True)
class _Facts:
    """A row, read carefully."""

    row: Mapping[Any, Any]

    def known(self, name: str) -> float | None:
        """A recorded input; None: it was not recorded or not known."""
        signals = self.row.get("signals")
        return _finite(signals.get(name)) if isinstance(signals, Mapping) else None

    @property
    def before(self) -> int:
        """Replicas that the platform had been asked for; where that was not recorded, those ready."""
        asked = self.known("requested")
        return int(self.row["current"] if asked is None else asked)

    @property
    def step(self) -> int:
        """Replicas more (or, negative, fewer) than before."""
        return int(self.row["desired"]) - self.before

    @property
    def change(self) -> str:
        """What the decision did."""
        after = int(self.row["desired"])
        if self.step:
            verb = "Added" if self.step > 0 else "Removed"
            return f"{verb} {replicas(abs(self.step))} ({self.before} → {after})"
        return f"Stays at {replicas(after)}" if after else "Stays without replicas"

    @property
    def load(self) -> str:
        """What comes and what is expected; empty where the analyzer tells neither."""
        now, high, lead = self.known("demand_rps"), self.known("forecast_p90_rps"), self.known("lead_s")
        parts = [] if now is None else [f"{number(now)} requests/s now"]
        if high is not None:
            parts.append(f"up to {number(high)} expected " + ("soon" if lead is None else f"within {_time(lead)}"))
        return ", ".join(parts)

    @property
    def carries(self) -> str:
        """What a replica bears, to put behind the load."""
        capacity = self.known("capacity_rps")
        return "" if capacity is None else f"; one replica carries {number(capacity)}"

    @property
    def saturation(self) -> float | None:
        """How busy the engines are: the model's where it passes the variant's threshold, else the variant's own."""
        own, model = _finite(self.row.get("saturation")), self.known("model_saturation")
        return model if own is None or (model is not None and model > own) else own

    @property
    def lowest(self) -> float | None:
        """The lower of the two, which is what speaks for fewer replicas."""
        found = [value for value in (_finite(self.row.get("saturation")), self.known("model_saturation"))
                 if value is not None]  # fmt: skip
        return min(found, default=None)

    @property
    def busy(self) -> str:
        """How full the engines are, in their own measures."""
        kv, waiting = self.known("kv_utilisation"), self.known("waiting_per_replica")
        parts = [] if kv is None else [f"KV cache {_percent(kv)} full"]
        parts += [] if waiting is None else [f"{number(waiting, 2)} requests waiting per replica"]
        return ", ".join(parts)


def _finite(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def _behind(text: str, lead: str = ": ") -> str:
    return f"{lead}{text}" if text else ""


def _measured(facts: _Facts) -> str:
    """The load where the analyzer counts requests, else how full the engines are."""
    return facts.load + facts.carries if facts.load else facts.busy


def _against(saturation: float | None, limit: float | None) -> str:
    """Saturation beside its threshold, where both are known."""
    if saturation is None:
        return ""
    return f" (saturation {saturation:.2f}" + ("" if limit is None else f", limit {limit:.2f}") + ")"


_FRESH_S: Final = 5.0
"""No figure of this age is too old for anybody."""
_ELSEWHERE: Final = "an engine of another variant of its model"

# ---- why, reason by reason


def _saturated(facts: _Facts) -> str:
    saturation, limit = facts.saturation, facts.known("scale_up_above")
    if (
        saturation is not None and limit is not None and saturation <= limit
    ):  # upstream's rules have limits of their own
        return f"its engines run short of room{_against(saturation, None)}{_behind(facts.busy)}"
    return f"its engines are too busy{_against(saturation, limit)}{_behind(facts.busy)}"


def _demanded(facts: _Facts) -> str:
    return f"{_measured(facts) or 'the present load needs it'}{_misses(facts)}"


def _forecast(facts: _Facts) -> str:
    now, high, lead = facts.known("demand_rps"), facts.known("forecast_p90_rps"), facts.known("lead_s")
    if high is None:
        return f"more load is expected{_behind(_measured(facts))}{_misses(facts)}"
    when = "soon" if lead is None else f"within {_time(lead)}"
    beside = "" if now is None else f", {number(now)} now"
    return f"up to {number(high)} requests/s expected {when}{beside}{facts.carries}{_misses(facts)}"


def _misses(facts: _Facts) -> str:
    """What the change is expected to do for the latency targets, where that is worth a word."""
    without, then = facts.known("expected_misses_as_is"), facts.known("expected_misses")
    if facts.step <= 0 or without is None or then is None or without - then < 0.001:
        return ""
    return f"; {_percent(without)} of requests would miss a latency target without it, {_percent(then)} with it"


def _idle(facts: _Facts) -> str:
    if facts.load:
        return f"fewer are enough for {facts.load}{facts.carries}"
    little = f"its engines have little to do{_against(facts.lowest, facts.known('scale_down_below'))}"
    return f"{little}; the others can take over" if facts.row["desired"] else little


def _steady(facts: _Facts) -> str:
    if not facts.row["desired"]:
        return "none is needed"
    if facts.load:
        return f"enough for {facts.load}{facts.carries}"
    low, high, own = facts.known("scale_down_below"), facts.known("scale_up_above"), facts.saturation
    if low is None or high is None or own is None:
        return "its engines are neither too busy nor idle"
    where = f"between {low:.2f} and {high:.2f}" if low <= own <= high else f"limits {low:.2f} and {high:.2f}"
    return f"its engines are neither too busy nor idle (saturation {own:.2f}, {where})"


def _stabilising(facts: _Facts) -> str:
    """A wish that has not lasted; which way it goes is known where the numbers tell."""
    wish = {1: "more are wanted", -1: "fewer would do"}.get(_wanted(facts), "a change is wanted")
    return f"{wish}, and it waits until that has lasted long enough{_behind(_measured(facts))}"


def _wanted(facts: _Facts) -> int:
    needed = facts.known("needed")
    if needed is not None and facts.known("reference") == 1:
        return (math.ceil(needed - 1e-6) > facts.before) - (math.ceil(needed - 1e-6) < facts.before)
    high, low = facts.known("scale_up_above"), facts.known("scale_down_below")
    if facts.load or high is None or low is None or facts.saturation is None or facts.lowest is None:
        return 0
    return (facts.saturation > high) - (facts.lowest < low and facts.saturation <= high)


def _pending(facts: _Facts) -> str:
    starting = facts.known("pending")
    if starting:
        return (
            f"waits for {replicas(starting)} that still start{'s' if starting == 1 else ''}{_behind(_measured(facts))}"
        )
    return f"waits for replicas of its model that still start{_behind(_measured(facts))}"


def _at_max(facts: _Facts) -> str:
    return f"that is its maximum, and more are wanted{_behind(_measured(facts))}; raise the maximum or send less"


def _at_min(facts: _Facts) -> str:
    return f"that is its minimum, and it has little to do{_behind(_measured(facts))}"


def _below_min(facts: _Facts) -> str:
    least = facts.known("min_replicas")
    return "fewer than its minimum ran" if least is None else f"its minimum is {least:.0f}"


def _above_max(facts: _Facts) -> str:
    most = facts.known("max_replicas")
    return "more than its maximum ran" if most is None else f"its maximum is {most:.0f}"


def _stale(facts: _Facts) -> str:
    ages = [age for name in ("age_s", "router_age_s", "traffic_age_s") if (age := facts.known(name)) is not None]
    if ages and max(ages) < _FRESH_S and facts.known("stale") == 0 and facts.known("missing") == 0:
        return f"its own figures are fresh, but {_ELSEWHERE} is silent; it removes nothing while that lasts"
    oldest = f" (the oldest {_time(max(ages))} old)" if ages else ""
    return f"figures that it needs are missing or too old{oldest}; it removes nothing before fresh ones come"


def _no_signal(facts: _Facts) -> str:
    ready, fresh = facts.known("ready"), facts.known("fresh")
    if ready and fresh == 0:
        return f"none of {replicas(ready)} that should serve reports; it waits for their figures"
    if ready and fresh is not None and fresh < ready:
        return f"{ready - fresh:.0f} of {replicas(ready)} do not report; it removes nothing before they do"
    if stuck := facts.known("stuck"):
        which = f"{stuck:.0f} of {replicas(ready or stuck)} compute{'s' if stuck == 1 else ''}"
        return f"{which} no token for the requests it has; it removes nothing while that lasts, look at the engine"
    if fresh and facts.known("in_flight") is not None and facts.known("needed") is None:
        return "it has not watched the traffic for long enough yet"
    if facts.known("stuck") == 0 and facts.known("missing") == 0:
        return f"{_ELSEWHERE} is silent or hangs, or its GPUs contradict it; it removes nothing on doubt"
    return "what its engines and GPUs report is missing or contradicts itself; it removes nothing on doubt"


def _unused(facts: _Facts) -> str:
    if not facts.step:
        return "no request waits"
    quiet = facts.known("retention_s")
    return "no request came for a long time" if quiet is None else f"no request came for {_time(quiet)} or longer"


def _other_variant(_: _Facts) -> str:
    return "another variant of the same model takes the change at a lower cost"


def _no_headroom(facts: _Facts) -> str:
    return f"fewer would do, but the others could not take over its load yet{_behind(_measured(facts))}"


def _wake(_: _Facts) -> str:
    return "requests wait, and no replica of the model runs"


def _no_gpu(facts: _Facts) -> str:
    return f"more are wanted, but GPUs, quota or its share allow no more{_behind(_measured(facts))}"


def _flapping(facts: _Facts) -> str:
    return f"it went up and down too often of late and waits longer before it removes any{_behind(_measured(facts))}"


def _paused(_: _Facts) -> str:
    return "an operator holds it there (paused, or a dry run)"


def _late(facts: _Facts) -> str:
    """Replicas that should long be there are worth a word whatever was decided."""
    late = facts.known("overdue")
    return f" {replicas(late)} did not start in time." if late else ""


_WHY: Final[Mapping[str, Callable[[_Facts], str]]] = {
    Reason.SATURATED: _saturated, Reason.IDLE: _idle, Reason.STEADY: _steady, Reason.STABILISING: _stabilising,
    Reason.PENDING: _pending, Reason.AT_MAX: _at_max, Reason.AT_MIN: _at_min, Reason.BELOW_MIN: _below_min,
    Reason.ABOVE_MAX: _above_max, Reason.STALE: _stale, Reason.NO_SIGNAL: _no_signal,
    Reason.OTHER_VARIANT: _other_variant, Reason.NO_HEADROOM: _no_headroom, Reason.DEMAND: _demanded,
    Reason.FORECAST: _forecast, Reason.WAKE: _wake, Reason.UNUSED: _unused, Reason.NO_GPU: _no_gpu,
    Reason.FLAPPING: _flapping, Reason.PAUSED: _paused,
}  # fmt: skip
