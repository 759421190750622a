"""A made-up history that looks like a real evening: load rises and falls, two variants scale, an alert fires.

``build(url, now_s=...)`` writes it; everything derives from the seed. Run as a script it fills a file for looking at:
``python tests/dashboards/synthetic.py sqlite:////tmp/demo.sqlite3``.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from fleet.history import Event, History, RequestOutcome, RequestRecord, SignalSample
from fleet.types import Decision, Direction, Reason

_WHY = {
    Reason.SATURATED: "One more replica", Reason.IDLE: "One replica fewer", Reason.STEADY: "Nothing to do",
    Reason.PENDING: "Waiting for replicas that start", Reason.STABILISING: "Idle, but not for long enough",
    Reason.AT_MAX: "At the maximum",
}  # fmt: skip
MODEL = "meta-llama/Llama-3.1-8B-Instruct"
PASS_S = 3.0


@dataclass
class Kind:
    """A variant and how its replicas behave."""

    name: str
    accelerator: str
    rps: float
    """What one replica carries."""
    base_ttft_s: float
    base_tpot_s: float
    limits: tuple[int, int]
    cost: float
    port: int
    share: float = 1.0
    """How much more or less than its part it gets."""
    ready: int = 1
    wanted: int = 1
    ready_at: list[float] = field(default_factory=list)
    quiet_since: float = -math.inf


def _kinds() -> list[Kind]:
    return [
        Kind("llama-8b-h100", "h100_sxm", 6.5, 0.045, 0.011, (1, 2), 3.99, 9100, 0.93),
        Kind("llama-8b-a100", "a100_sxm", 3.6, 0.085, 0.021, (1, 3), 2.79, 9110, 1.08),
    ]


def load_rps(share: float) -> float:
    """Arrivals per second at a share (0..1) of the evening: calm, a rise, a crest with a burst, calm again."""
    crest = math.exp(-(((share - 0.52) / 0.17) ** 2))
    burst = 0.35 * math.exp(-(((share - 0.47) / 0.03) ** 2))
    return 3.2 + 17.0 * (crest + burst)


@dataclass
class Evening:
    """The state of the made-up fleet while it is played."""

    rng: np.random.Generator
    start_s: float
    span_s: float
    kinds: list[Kind] = field(default_factory=_kinds)
    breach_since: float | None = None
    number: int = 0
    preempted: dict[str, float] = field(default_factory=dict)

    def silent(self, share: float) -> bool:
        """The controller is down for a while: nothing is sampled or decided."""
        return 0.705 < share < 0.735

    def play(self) -> Iterator[object]:
        """All rows, in order of time."""
        yield from self._opening()
        for step in range(int(1.2 * self.span_s / PASS_S)):
            at = self.start_s + step * PASS_S
            share = step * PASS_S / self.span_s
            yield from self._replicas(at)
            total = sum(kind.ready * kind.rps for kind in self.kinds)
            for kind in self.kinds:
                load = load_rps(share) * float(self.rng.uniform(0.88, 1.12)) / total * kind.share
                yield from self._requests(kind, at, load, share)
                if not self.silent(share):
                    yield from self._samples(kind, at, load)
                    yield from self._decide(kind, at, load)
            yield from self._alert(at, load_rps(share) / total)

    def _opening(self) -> Iterator[object]:
        for name in ("router", "controller", "predictor", "alerts"):
            yield Event(at_s=self.start_s, kind="process", subject=name, message=f"{name} started")
        down, up = self.start_s + 0.705 * self.span_s, self.start_s + 0.735 * self.span_s
        yield Event(at_s=down, kind="process", subject="controller", message="controller died (exit 137)",
                    severity="warning", data={"exit": 137})  # fmt: skip
        yield Event(
            at_s=up, kind="process", subject="controller", message="controller is up again", data={"restarts": 1}
        )
        yield from self._trouble(self.start_s + 0.5 * self.span_s)
        learned = self.start_s + 0.15 * self.span_s
        yield Event(
            at_s=learned, kind="model", subject="predictor", message="model fitted on 412 samples, TTFT error 14 %"
        )

    def _trouble(self, at: float) -> Iterator[object]:
        """An engine hangs and is started again, as wva tells it."""
        lasted = 0.04 * self.span_s
        for turn, moment, words in (
            ("hung", at, "hangs: 14 requests under way, and no token for 31 s; 2 of 3 replicas serve"),
            ("down", at + lasted / 2, "is down; 2 of 3 replicas serve"),
            ("ready", at + lasted, f"is ready again after {lasted / 2:.0f} s; 3 of 3 replicas serve"),
        ):
            over = turn == "ready"
            yield Event(
                at_s=moment, kind="engine", subject="llama-8b-a100-0", message=f"http://127.0.0.1:9110 {words}",
                severity="info" if over else "warning",
                data={"turn": turn, "state": "resolved" if over else "open", "engines": ["llama-8b-a100-0"]},
            )  # fmt: skip

    def _replicas(self, at: float) -> Iterator[object]:
        for kind in self.kinds:
            due = [moment for moment in kind.ready_at if moment <= at]
            kind.ready += len(due)
            kind.ready_at = [moment for moment in kind.ready_at if moment > at]
            for _ in due:
                yield Event(at_s=at, kind="scale", subject=kind.name, message=f"replica ready, now {kind.ready}")

    def _requests(self, kind: Kind, at: float, load: float, share: float) -> Iterator[object]:
        mean = load * kind.ready * kind.rps * PASS_S
        for _ in range(self.rng.poisson(mean)):
            yield self._request(kind, at + float(self.rng.uniform(0, PASS_S)), load, cold=share < 0.15)

    def _request(self, kind: Kind, at: float, load: float, *, cold: bool) -> RequestRecord:
        rng = self.rng
        self.number += 1
        tokens_in, tokens_out = int(rng.lognormal(6.4, 0.9)) + 1, int(rng.lognormal(4.6, 0.7)) + 1
        wait = 0.02 / max(0.06, 1.08 - load) + max(0.0, load - 1.02) * 2.2
        ttft = (kind.base_ttft_s * (1 + tokens_in / 2500) + wait) * float(rng.lognormal(0, 0.18))
        tpot = kind.base_tpot_s * (1 + 1.1 * min(load, 1.3) ** 2) * float(rng.lognormal(0, 0.12))
        outcome = str(rng.choice(["ok", "error", "aborted"], p=[0.9985, 0.0007, 0.0008]))
        guess = None if cold else ttft * float(rng.lognormal(0.03, 0.17))
        return RequestRecord(
            at_s=at, request_id=f"r{self.number}", model=MODEL, outcome=RequestOutcome(outcome),
            status={"ok": 200, "error": 502, "aborted": 499}[outcome], streaming=True, variant=kind.name,
            endpoint=f"http://127.0.0.1:{kind.port + int(rng.integers(kind.ready))}", input_tokens=tokens_in,
            output_tokens=tokens_out, cached_tokens=tokens_in // 3, ttft_s=ttft, tpot_s=tpot,
            e2e_s=ttft + tpot * tokens_out, predicted_ttft_s=guess,
            predicted_tpot_s=None if cold else tpot * float(rng.lognormal(-0.02, 0.1)),
            pick_probability=0.6, tenant=("chat", "chat", "search", "batch")[self.number % 4],
        )  # fmt: skip

    def _samples(self, kind: Kind, at: float, load: float) -> Iterator[object]:
        for index in range(kind.ready):
            url = f"http://127.0.0.1:{kind.port + index}"
            self.preempted[url] = self.preempted.get(url, 0.0) + (float(self.rng.poisson(0.4)) if load > 1 else 0.0)
            values = {
                "vllm:kv_cache_usage_perc": min(1.0, max(0.02, load * 0.82 + float(self.rng.normal(0, 0.05)))),
                "vllm:num_requests_waiting": float(self.rng.poisson(max(0.0, (load - 0.92) * 28))),
                "vllm:num_requests_running": float(self.rng.poisson(6 + 34 * min(load, 1.1))),
                "generation_tps": kind.rps * min(load, 1.05) * 118 * float(self.rng.uniform(0.9, 1.1)),
                "prompt_tps": kind.rps * min(load, 1.05) * 880 * float(self.rng.uniform(0.9, 1.1)),
                "request_rps": kind.rps * min(load, 1.05),
                "prefix_hit_ratio": min(1.0, 0.31 + float(self.rng.normal(0, 0.03))),
                "vllm:num_preemptions_total": self.preempted[url],
            }
            for name, value in values.items():
                yield SignalSample(at_s=at, signal=name, value=value, model=MODEL, variant=kind.name, endpoint=url)
        fleet = {
            "wva_saturation_utilization": _saturation(load), "wva_desired_replicas": float(kind.wanted),
            "wva_current_replicas": float(kind.ready), "requested_replicas": float(kind.ready + len(kind.ready_at)),
            "fleet_wva_cost_dollars_per_hour": kind.cost * (kind.ready + len(kind.ready_at)),
        }  # fmt: skip
        for name, value in fleet.items():
            yield SignalSample(at_s=at, signal=name, value=value, model=MODEL, variant=kind.name)

    def _decide(self, kind: Kind, at: float, load: float) -> Iterator[object]:
        level, before = _saturation(load), kind.wanted
        reason, direction = Reason.STEADY, Direction.HOLD
        if kind.ready_at:
            reason = Reason.PENDING
        elif level > 0.8:
            reason = Reason.AT_MAX if kind.wanted == kind.limits[1] else Reason.SATURATED
        elif level < 0.3 and kind.wanted > kind.limits[0]:
            if kind.quiet_since == -math.inf:
                kind.quiet_since = at
            reason = Reason.IDLE if at - kind.quiet_since > 30 else Reason.STABILISING
        if level >= 0.3:
            kind.quiet_since = -math.inf
        if reason is Reason.SATURATED:
            kind.wanted, direction = kind.wanted + 1, Direction.UP
            kind.ready_at.append(at + 9.0)
        elif reason is Reason.IDLE:
            kind.wanted, direction = kind.wanted - 1, Direction.DOWN
            kind.quiet_since = -math.inf
        ready = kind.ready
        if direction is Direction.DOWN:
            kind.ready = kind.wanted
        if direction is not Direction.HOLD:
            yield Event(at_s=at, kind="scale", subject=kind.name, message=f"{before} -> {kind.wanted}: {reason.value}")
        yield Decision(
            at_s=at, variant=kind.name, namespace="default", model=MODEL, accelerator=kind.accelerator,
            current=ready, desired=kind.wanted, direction=direction, reason=reason, saturation=level,
            detail=f"{_WHY[reason]}: saturation {level:.2f} (limits 0.30 and 0.80), {ready} ready, {before} requested.",
            signals={
                "requested": before, "ready": ready, "kv_utilisation": round(min(1.0, load * 0.82), 3),
                "queue_ratio": round(max(0.0, load - 0.92), 3),
                "throughput_degradation": round(max(0.0, load - 1), 3), "oldest_sample_age_s": 1.4,
                **self._expected(kind, at),
            },
        )  # fmt: skip

    def _expected(self, kind: Kind, at: float) -> dict[str, float]:
        """What the analyzer ``slo`` tells of demand, forecast and capacity."""
        now, lead = (at - self.start_s) / self.span_s, 9.0
        ahead = load_rps(now + lead / self.span_s)
        return {"demand_rps": load_rps(now), "forecast_rps": ahead, "forecast_p90_rps": 1.15 * ahead + 0.4,
                "capacity_rps": kind.rps, "lead_s": lead}  # fmt: skip

    def _alert(self, at: float, load: float) -> Iterator[object]:
        data = {"model": MODEL, "state": "firing"}
        if load > 1.0 and self.breach_since is None:
            self.breach_since = at
            yield Event(at_s=at, kind="alert", subject="HighTTFT", severity="critical", data=data,
                        message=f"TTFT of {MODEL} burns its error budget: 31 % of requests over 0.2 s")  # fmt: skip
        elif self.breach_since is not None and load < 0.7 and at - self.breach_since > 60:
            self.breach_since = None
            yield Event(at_s=at, kind="alert", subject="HighTTFT", severity="critical",
                        message="HighTTFT is resolved", data=data | {"state": "resolved"})  # fmt: skip


def _saturation(load: float) -> float:
    return round(min(1.0, max(0.0, 0.62 * load + 1.4 * max(0.0, load - 0.9))), 4)


def build(
    url: str, *, now_s: float, span_s: float = 1200.0, seed: int = 7, share: float = 1.0, ahead_s: float = 0.0
) -> None:
    """Write the evening up to the moment ``now_s``.

    Args:
        share: how much of the evening is over by then; below 1 it stops midway.
        ahead_s: write so much of what comes next, too: a live page over it keeps moving for that long.
    """
    evening = Evening(rng=np.random.default_rng(seed), start_s=now_s - span_s * share, span_s=span_s)
    history = History(url)
    end = now_s + ahead_s
    history.add(row for row in evening.play() if row.at_s <= end)  # type: ignore[attr-defined]  # rows of four kinds
    history.close()


if __name__ == "__main__":
    build(sys.argv[1], now_s=time.time(), share=float(sys.argv[2]) if len(sys.argv) > 2 else 1.0)
