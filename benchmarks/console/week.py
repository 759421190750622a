"""A week of a fleet of 200 engines, as a console that has run all along finds it.

The newest hour lies in the history row by row (scrapes every 15 s, decisions every 30 s, single requests); all but the
newest minute lies in the console's summaries, in the same tables that folding fills, beside a week of decisions.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from dashboards.rollup import COARSE_S, COUNTS, FINE_S, KEEP_S, LATENCIES, PER_ENDPOINT, QUICK_S, Rollup, widen
from dashboards.window import ADDED
from fleet.history import History, RequestOutcome, RequestRecord
from fleet.slo import DEFAULT_SLOS
from fleet.types import Direction, Reason

ENGINES, VARIANTS, MODELS = 200, 5, 2
SCRAPE_S, DECIDE_S, RAW_S = 15.0, 30.0, 3_600.0
RPS: Final = 20.0
SIGNALS: Final = (
    "vllm:kv_cache_usage_perc", "vllm:num_requests_waiting", "vllm:num_requests_running", "generation_tps",
    "prompt_tps", "request_rps", "prefix_hit_ratio",
)  # fmt: skip
OF_VARIANT: Final = (
    "wva_saturation_utilization", "wva_desired_replicas", "wva_current_replicas", "requested_replicas",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """What was written."""

    raw_rows: int
    summary_rows: int
    mib: float


def variant(index: int) -> tuple[str, str]:
    """(variant, model) of a number."""
    return f"variant-{index}", f"org/model-{index % MODELS}"


def _level(times: np.ndarray, seed: float) -> np.ndarray:
    day = 0.5 + 0.35 * np.sin(2 * np.pi * times / 86_400 + seed)
    return np.clip(day + 0.05 * np.sin(times / 97 + 3 * seed), 0.02, 1.0)


def build(
    folder: Path, *, now_s: float, seed: int, engines: int = ENGINES, days: float = 7.0, ahead_s: float = 0.0
) -> tuple[str, Size]:
    """Write history and summaries; gives the history's URL.

    Args:
        folder: where the files go.
        now_s: when the console looks, Unix seconds.
        engines: of all variants together; a smaller fleet or fewer days are for looking at one page quickly.
        ahead_s: rows (no summaries) go on so long after ``now_s``, for pages that stay live.
    """
    url = f"sqlite:///{folder}/history.sqlite3"
    rng, per = np.random.default_rng(seed), engines // VARIANTS
    raw = _history(url, now_s, now_s + ahead_s, rng, per=per, span_s=days * 86_400.0)
    path = folder / "history.console.sqlite3"
    rows = _summaries(path, (now_s - FINE_S) // FINE_S * FINE_S, rng, per=per, span_s=days * 86_400.0)
    size = sum(file.stat().st_size for file in folder.glob("history*")) / 2**20
    return url, Size(raw_rows=raw, summary_rows=rows, mib=size)


def _history(url: str, now_s: float, until_s: float, rng: np.random.Generator, *, per: int, span_s: float) -> int:
    history, count = History(url), 0
    with sqlite3.connect(url.removeprefix("sqlite:///")) as db:
        count += _samples(db, (now_s - RAW_S, until_s), rng, per) + _decisions(db, (now_s - span_s, until_s))
    count += _requests(history, (now_s - RAW_S, until_s), rng)
    history.close()
    return count


def _samples(db: sqlite3.Connection, span: tuple[float, float], rng: np.random.Generator, per: int) -> int:
    """The newest hour scrape by scrape, written past the history's own code: its rows are its own, its speed is not
    what is measured here."""
    count = 0
    for start in np.arange(*span, SCRAPE_S):
        rows: list[tuple[float, str, float, str, str, str]] = []
        for index in range(VARIANTS):
            name, model = variant(index)
            level = float(_level(np.array([start]), index)[0])
            for engine in range(per):
                where = f"http://10.0.{index}.{engine}:8000"
                values = np.clip(level * rng.uniform(0.8, 1.2, len(SIGNALS)), 0, 1)
                values = values * [40.0 if signal in ADDED else 1.0 for signal in SIGNALS]
                rows += [(start, s, float(v), model, name, where) for s, v in zip(SIGNALS, values, strict=True)]
            rows += [(start, s, level * per, model, name, "") for s in OF_VARIANT]
        query = "INSERT INTO samples (at_s, signal, value, model, variant, endpoint) VALUES (?, ?, ?, ?, ?, ?)"
        db.executemany(query, rows)
        count += len(rows)
    return count


def _requests(history: History, span: tuple[float, float], rng: np.random.Generator) -> int:
    times = np.sort(rng.uniform(*span, int((span[1] - span[0]) * RPS)))
    rows = []
    for number, at in enumerate(times):
        name, model = variant(int(rng.integers(VARIANTS)))
        ttft, tokens = float(rng.lognormal(-2.2, 0.5)), int(rng.integers(20, 400))
        rows.append(RequestRecord(
            at_s=float(at), request_id=f"r{number}", model=model, outcome=RequestOutcome.OK, status=200, streaming=True,
            variant=name, endpoint=f"http://10.0.0.{number % 40}:8000", input_tokens=900, output_tokens=tokens,
            cached_tokens=300, ttft_s=ttft, tpot_s=0.02, e2e_s=ttft + 0.02 * tokens,
            predicted_ttft_s=ttft * float(rng.lognormal(0, 0.15)), predicted_tpot_s=0.021, pick_probability=0.5,
        ))  # fmt: skip
    history.add(rows)
    return len(rows)


_DECISION: Final = ("at_s", "variant", "namespace", "model", "accelerator", "current", "desired", "direction", "reason",
                    "detail", "saturation", "signals")  # fmt: skip


def _decisions(db: sqlite3.Connection, span: tuple[float, float]) -> int:
    count = 0
    for index in range(VARIANTS):
        name, model = variant(index)
        times = np.arange(*span, DECIDE_S)
        wanted = np.round(_level(times, index) * 40).astype(int)
        rows: list[tuple[object, ...]] = []
        for at, want, before in zip(times, wanted, np.roll(wanted, 1), strict=True):
            move = Direction.UP if want > before else Direction.DOWN if want < before else Direction.HOLD
            reason = {"up": Reason.SATURATED, "down": Reason.IDLE, "hold": Reason.STEADY}[move.value]
            inputs = {"requested": int(before), "demand_rps": 4.0, "forecast_rps": 4.2, "forecast_p90_rps": 5.0,
                      "capacity_rps": 0.2, "lead_s": 90.0, "kv_utilisation": 0.5}  # fmt: skip
            rows.append((float(at), name, "prod", model, "h100_sxm", int(before), int(want), move.value, reason.value,
                         f"{before} to {want}", 0.5, json.dumps(inputs)))  # fmt: skip
        query = f"INSERT INTO decisions ({', '.join(_DECISION)}) VALUES ({','.join('?' * len(_DECISION))})"
        db.executemany(query, rows)
        count += len(rows)
    return count


def _summaries(path: Path, until_s: float, rng: np.random.Generator, *, per: int, span_s: float) -> int:
    """The days before ``until_s`` in the summaries' own tables."""
    rollup = Rollup(path, DEFAULT_SLOS)
    since_s = (until_s - span_s) // COARSE_S * COARSE_S
    total = 0
    with sqlite3.connect(path) as db:
        quick_s = until_s - KEEP_S[QUICK_S]
        for width_s, start in ((QUICK_S, quick_s), (FINE_S, since_s), (COARSE_S, since_s)):
            times = np.arange(start, until_s - (until_s % width_s), width_s)
            for index in range(VARIANTS):
                total += _signals(db, width_s, times, index) + _bins(db, width_s, times, index)
            recent = times[times >= until_s - 8 * 3600] if width_s == FINE_S else times
            total += _engines(db, width_s, recent, per)
        total += _latencies(db, np.arange(since_s, until_s, FINE_S), rng)
        meta = {"from_s": since_s, "quick_from_s": quick_s, "to_s": until_s}
        db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", [(name, str(at)) for name, at in meta.items()])
        widen(db)
    if (rollup.span(), rollup.span(QUICK_S)) != ((since_s, until_s), (quick_s, until_s)):
        raise RuntimeError("the console does not take the written summaries: the bench would measure something else")
    return total


def _put(db: sqlite3.Connection, table: str, columns: tuple[str, ...], frame: pd.DataFrame) -> int:
    query = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({','.join('?' * len(columns))})"
    db.executemany(query, frame[list(columns)].astype(object).to_numpy().tolist())
    return len(frame)


_SERIES = ("width_s", "bin_s", "signal", "model", "variant", "endpoint", "mean", "high", "low")


def _signals(db: sqlite3.Connection, width_s: float, times: np.ndarray, index: int) -> int:
    name, model = variant(index)
    level = _level(times, index)
    frames = [
        pd.DataFrame({"width_s": width_s, "bin_s": times, "signal": s, "model": model, "variant": name, "endpoint": "",
                      "mean": level * (40 if s in ADDED or s in OF_VARIANT else 1), "high": level, "low": level})
        for s in (*SIGNALS, *OF_VARIANT)
    ]  # fmt: skip
    return _put(db, "signals", _SERIES, pd.concat(frames))


def _engines(db: sqlite3.Connection, width_s: float, times: np.ndarray, per: int) -> int:
    total = 0
    for index in range(VARIANTS):
        name, model = variant(index)
        level = _level(times, index)
        for engine in range(per):
            frames = [
                pd.DataFrame({"width_s": width_s, "bin_s": times, "signal": s, "model": model, "variant": name,
                              "endpoint": f"http://10.0.{index}.{engine}:8000", "mean": level, "high": level,
                              "low": level})
                for s in PER_ENDPOINT
            ]  # fmt: skip
            total += _put(db, "signals", _SERIES, pd.concat(frames))
    return total


def _bins(db: sqlite3.Connection, width_s: float, times: np.ndarray, index: int) -> int:
    name, model = variant(index)
    count = np.round(_level(times, index) * RPS / VARIANTS * width_s)
    frame = pd.DataFrame({"width_s": width_s, "bin_s": times, "model": model, "variant": name})
    for column in COUNTS:
        frame[column] = count * (0.0 if column in {"error", "timeout", "rejected", "aborted"} else 1.0)
    for column, tokens in (("input_tokens", 900), ("output_tokens", 200), ("cached_tokens", 300)):
        frame[column] = count * tokens
    frame["ttft_ok"] = np.floor(count * 0.96)
    return _put(db, "request_bins", ("width_s", "bin_s", "model", "variant", *COUNTS), frame)


def _latencies(db: sqlite3.Connection, minutes: np.ndarray, rng: np.random.Generator) -> int:
    done = np.repeat(minutes, 6 * VARIANTS)
    which = np.tile(np.arange(VARIANTS), len(done) // VARIANTS)
    ttft = rng.lognormal(-2.2, 0.5, len(done))
    frame = pd.DataFrame({
        "done_s": done + rng.uniform(0, FINE_S, len(done)), "model": [variant(int(i))[1] for i in which],
        "variant": [variant(int(i))[0] for i in which], "endpoint": "http://10.0.0.1:8000", "outcome": "ok",
        "input_tokens": 900, "output_tokens": 200, "ttft_s": ttft, "tpot_s": 0.02, "e2e_s": ttft + 4,
        "predicted_ttft_s": ttft * rng.lognormal(0, 0.15, len(done)), "predicted_tpot_s": 0.021,
    })  # fmt: skip
    return _put(db, "latencies", LATENCIES, frame)
