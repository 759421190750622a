"""The planner's answers as tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table

from fleet.hardware import GPUS, MODELS
from planner.advisor import Advice
from planner.expect import Effect
from planner.optimise import Found
from planner.sizing import Sizing


def _pairs(title: str, rows: Sequence[tuple[str, str]]) -> Table:
    table = Table(title=title, show_header=False, title_justify="left", box=None, padding=(0, 2, 0, 0))
    for name, value in rows:
        table.add_row(name, value)
    return table


def sizing(found: Sizing) -> RenderableType:
    """Memory, then replicas and cost where a demand was given."""
    room, hardware = found.memory, found.hardware
    parts: list[RenderableType] = [_pairs(
        f"{hardware.model} ({hardware.precision}) on {hardware.tensor_parallel} x {hardware.gpu}",
        [("memory of a GPU", f"{room.total_gib:.0f} GiB: weights {room.weights_gib:.1f}, KV {room.kv_gib:.1f}, "
                             f"other {room.other_gib:.1f}"),
         ("KV cache", f"{room.kv_capacity_tokens:,} tokens in {room.kv_blocks:,} blocks, "
                      f"{room.kv_bytes_per_token / 1024:.0f} KiB a token"),
         ("sequences at once", ", ".join(f"{room.sequences(n):,} of {n:,} tokens" for n in (2048, 8192, 32768))),
         ("step times", "calibrated" if found.calibrated else "roofline estimate, not calibrated")])]  # fmt: skip
    if found.demand and found.promise and found.state and found.cost:
        parts += ["", _replicas(found)]
    return Group(*parts)


def _replicas(found: Sizing) -> Table:
    demand, promise, state, cost = found.demand, found.promise, found.state, found.cost
    assert demand and promise and state and cost  # noqa: S101 - the caller has checked
    rows = [
        ("demand", f"{demand.rps:g} requests/s, {demand.input_tokens:.0f} tokens in, {demand.output_tokens:.0f} out"),
        ("promise", f"P{100 * promise.objective:g}: TTFT {promise.ttft_s:g} s, TPOT {1000 * promise.tpot_s:g} ms"),
        ("replicas", f"{found.replicas} ({(found.replicas or 0) * found.hardware.tensor_parallel} GPUs); "
                     f"closed form {found.replicas_closed_form}"),
        ("a replica bears", f"{found.sustainable_rps:.2f} requests/s"),
        ("cost", f"${cost.per_hour:.2f}/h, ${cost.per_million_output_tokens:.2f} per million output tokens, "
                 f"${cost.per_million_tokens:.3f} per million in all ({cost.price_source})"),
        ("KV of a prompt over the link", f"{1000 * (found.kv_transfer_s or 0):.0f} ms"),
    ]  # fmt: skip
    if (tried := found.trial) is not None:
        rows.insert(3, ("simulated", f"TTFT {tried.ttft_s:.3f} s, TPOT {1000 * tried.tpot_s:.1f} ms, both met by "
                        f"{tried.attainment:.1%} of {tried.requests:,} requests"))  # fmt: skip
    return _pairs("Replicas", rows)


def advice(found: Advice, effects: Sequence[Effect]) -> RenderableType:
    """The path, the questions that led there, the means, and what was simulated."""
    path = _pairs(f"Take: {found.path.value}", [(step.question, step.answer) for step in found.steps])
    means = Table("", "means", "why", "published effect", title="Means", title_justify="left", box=None)
    for one in found.means:
        means.add_row("use" if one.use else "no", one.name, one.reason, one.published)
    parts: list[RenderableType] = [path, "", f"Expected: {found.expected}"]
    if found.prefill_per_decode:
        parts.append(f"Start with {found.prefill_per_decode} prefill replicas to 1 decode replica.")
    parts += ["", means]
    if effects:
        table = Table("way", "TTFT", "TPOT", "both met", "cache hits", "GPUs", title="Simulated on your workload",
                      title_justify="left", box=None)  # fmt: skip
        for way in effects:
            table.add_row(way.name, f"{way.ttft_s:.3f} s", f"{1000 * way.tpot_s:.1f} ms", f"{way.attainment:.1%}",
                          f"{way.hit_ratio:.0%}", str(way.gpus))  # fmt: skip
        parts += ["", table]
    return Group(*parts)


def search(found: Found) -> Table:
    """Candidates, the cheapest first; a star for those that nothing beats in both cost and TTFT."""
    table = Table("", "replicas", "GPUs each", "limits", "$/h", "TTFT", "TPOT", "met", box=None,
                  title=f"{len(found.tried)} of {found.considered} candidates tried", title_justify="left")  # fmt: skip
    for one in found.tried:
        limits = one.limits
        told = ", ".join(f"{name} {value}" for name, value in (("seqs", limits.max_num_seqs),
                         ("batched", limits.max_num_batched_tokens)) if value)  # fmt: skip
        table.add_row("*" if one.best else "", str(one.trial.replicas),
                      f"{one.hardware.tensor_parallel} x {one.hardware.gpu} {one.hardware.precision}", told or "vLLM's",
                      f"{one.cost_per_hour:.2f}", f"{one.trial.ttft_s:.3f} s", f"{1000 * one.trial.tpot_s:.1f} ms",
                      f"{one.trial.attainment:.1%}")  # fmt: skip
    return table


def hardware() -> RenderableType:
    """GPUs and models of the catalogue."""
    gpus = Table("GPU", "memory", "HBM", "bf16", "$/h", "price of", box=None)
    for gpu in GPUS.values():
        gpus.add_row(gpu.name, f"{gpu.memory_gib:.0f} GiB", f"{gpu.hbm_tb_s:g} TB/s", f"{gpu.bf16_tflops:g} TF",
                     f"{gpu.price_per_hour:.2f}", gpu.price_source)  # fmt: skip
    models = Table("model", "parameters", "layers", "KV heads", box=None)
    for shape in MODELS.values():
        models.add_row(shape.name, f"{shape.parameters / 1e9:.1f}B", str(shape.layers), str(shape.kv_heads))
    return Group(gpus, "", models)
