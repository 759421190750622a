"""The proxy bench without a clock: what it reports from given runs, its commands, its ladder's router."""

from __future__ import annotations

import asyncio
import platform
import shutil
import sys
from pathlib import Path

import pytest

from benchmarks.options import BenchOptions
from benchmarks.proxy import bench, ladder, streams
from benchmarks.proxy.arms import COMPILED, OURS, Start, arms, our_arms
from benchmarks.proxy.bench import CONNECTIONS, DIRECT, LIMITS, PLAIN, judged
from benchmarks.proxy.tools import Load, python_version
from fleet.errors import ConfigError

PACKAGES = "lib/python3.11/site-packages"
RIVALS = {"envoy", "vllm-router cache_aware"}


def load(rps: float, *, p50_ms: float = 0.1, p99_ms: float = 0.2, first_p50_ms: float = 0.1, errors: int = 0) -> Load:
    return Load(rps=rps, errors=errors, first_p50_ms=first_p50_ms, first_p99_ms=1.0, p50_ms=p50_ms, p99_ms=p99_ms,
                cpu_us=10.0)  # fmt: skip


def runs(**changes: list[Load]) -> dict[bench.Key, list[Load]]:
    """Every arm as fast as ours, but for what is changed."""
    names = (DIRECT, OURS, *sorted(RIVALS))
    same = {name: changes.get(name.split(" ")[-1], [load(1000.0)]) for name in names}
    return {(name, connections, stream): same[name] for name in names for connections in CONNECTIONS
            for stream in (False, True)}  # fmt: skip


def values(found: dict[bench.Key, list[Load]], rivals: set[str] = RIVALS) -> dict[str, float | None]:
    outcome = judged(found, {name: 1.0 for name, _, _ in found}, [], rivals, {})
    assert set(outcome.bars) == set(bench.BARS)
    return {name: bar.value for name, bar in outcome.bars.items()}


def test_the_best_peer_and_the_worse_number_of_connections_count():
    found = runs(envoy=[load(2000.0)])
    found["envoy", 64, False] = [load(4000.0)]
    seen = values(found)
    assert seen["rps_ratio_vs_best_peer"] == 0.25
    assert seen["rps_ratio_vs_vllm_router_cache_aware"] == 1.0


def test_what_is_added_is_against_direct_at_one_connection_and_of_the_middle_round():
    found = runs(direct=[load(9000.0, p50_ms=0.02, p99_ms=0.05)])
    found[OURS, 1, False] = [load(1.0, p50_ms=p50, p99_ms=2 * p50) for p50 in (0.1, 9.0, 0.08)]
    seen = values(found)
    assert (seen["added_p50_ms"], seen["added_p99_ms"]) == (0.08, 0.15)


def with_compiled(**changes: list[Load]) -> dict[bench.Key, list[Load]]:
    """The same with native code, at twice the rate of plain Python."""
    found = runs(**changes)
    for connections in CONNECTIONS:
        for stream in (False, True):
            found[COMPILED, connections, stream] = [load(2000.0, p50_ms=0.05, first_p50_ms=0.05)]
    return found


def test_the_bars_are_of_native_code_and_plain_pythons_stand_beside_them():
    seen = values(with_compiled(ours=[load(1000.0, first_p50_ms=0.2)], envoy=[load(2000.0)]))
    assert (seen["rps_ratio_vs_best_peer"], seen[PLAIN + "rps_ratio_vs_best_peer"]) == (1.0, 0.5)
    assert (seen["stream_first_chunk_rank"], seen[PLAIN + "stream_first_chunk_rank"]) == (1.0, 3.0)
    assert (seen["added_p50_ms"], seen[PLAIN + "added_p50_ms"]) == (-0.05, 0.0)


def test_without_native_code_the_bars_are_of_plain_python():
    seen = values(runs(envoy=[load(4000.0)]))
    assert all(seen[name] == seen[PLAIN + name] for name in LIMITS)


def test_where_only_native_code_is_installed_nothing_is_said_of_plain_python():
    found = {key: one for key, one in with_compiled().items() if key[0] != OURS}
    seen = values(found)
    assert seen["rps_ratio_vs_best_peer"] == 2.0
    assert {seen[PLAIN + name] for name in LIMITS} == {None}


@pytest.mark.parametrize("shipped", [True, False])
def test_whose_bars_they_are_is_said(shipped: bool):
    found = with_compiled() if shipped else runs()
    outcome = judged(found, {name: 1.0 for name, _, _ in found}, [], RIVALS, {})
    assert outcome.results["bars_of"] == (COMPILED if shipped else OURS)
    assert f"The bars are of {COMPILED if shipped else OURS}, " in outcome.notes[1]


def test_the_rank_is_the_worst_of_all_numbers_of_connections():
    found = runs()
    found["envoy", 16, True] = [load(1.0, first_p50_ms=0.05)]
    assert values(found)["stream_first_chunk_rank"] == 2.0


def test_without_peers_there_is_no_ratio_rather_than_a_good_one():
    found = {key: one for key, one in runs().items() if key[0] in (DIRECT, OURS)}
    seen = values(found, set())
    assert seen["rps_ratio_vs_best_peer"] is seen["stream_first_chunk_rank"] is None


def test_errors_add_up_and_what_is_missing_is_said():
    found = runs(envoy=[load(1.0, errors=2), load(1.0, errors=3)])
    outcome = judged(found, {name: 1.0 for name, _, _ in found}, ["litellm"], RIVALS, {})
    assert outcome.results["arms"]["envoy/16/plain"]["errors"] == 5
    assert "litellm" in outcome.notes[-1]


def test_every_arm_is_told_its_port_and_all_engines(tmp_path: Path):
    start = Start(port=4711, spare=4712, engines=[9001, 9002], folder=tmp_path)
    for arm in arms():
        words = " ".join(arm.command(start, arm.program))
        words += "".join(file.read_text() for file in tmp_path.iterdir())
        assert all(port in words for port in ("4711", "9001", "9002")), arm.name


@pytest.fixture
def trees(tmp_path: Path) -> tuple[Path, Path]:
    """A program of plain Python, and an environment with the same as native code."""
    here, home = tmp_path / "here", tmp_path / "home"
    for tree in (here, home / PACKAGES):
        for package in ("fleet", "predictor", "router"):
            (tree / package).mkdir(parents=True)
            (tree / package / "cli.py").write_text(f"NAME = {package!r}\n")
    (home / PACKAGES / "fleet_router__mypyc.so").write_bytes(b"")
    (home / "bin").mkdir()
    (home / "bin/python").touch()
    return here, home


def test_both_forms_run_on_the_same_python_each_with_its_own_modules(trees: tuple[Path, Path]):
    here, home = trees
    both = our_arms(here, home)
    assert [(arm.missing, arm.program) for arm in both] == [("", home / "bin/python")] * 2
    assert [arm.env["PYTHONPATH"] for arm in both] == [str(here), str(home / PACKAGES)]


def test_where_native_code_is_installed_it_runs_itself_and_plain_python_is_missing(trees: tuple[Path, Path]):
    here, home = trees
    (here / "fleet_router__mypyc.so").write_bytes(b"")
    plain, native = our_arms(here, home)
    assert "native code" in plain.missing
    assert (native.missing, native.env["PYTHONPATH"], native.program) == ("", str(here), Path(sys.executable))


@pytest.mark.parametrize(("change", "said"), [
    pytest.param(lambda home: (home / PACKAGES / "fleet/cli.py").write_text("2"), "another source", id="changed-since"),
    pytest.param(lambda home: (home / PACKAGES / "router/new.py").touch(), "another source", id="file-too-many"),
    pytest.param(lambda home: (home / PACKAGES / "fleet_router__mypyc.so").unlink(), "plain Python", id="not-compiled"),
    pytest.param(shutil.rmtree, COMPILED, id="not-there"),
])  # fmt: skip
def test_native_code_that_is_not_this_program_is_missing_and_plain_python_runs_without_it(trees, change, said):
    here, home = trees
    change(home)
    plain, native = our_arms(here, home)
    assert (plain.missing, plain.program) == ("", Path(sys.executable))
    assert said in native.missing


def test_the_pythons_are_told():
    found = runs()
    outcome = judged(found, {name: 1.0 for name, _, _ in found}, [], RIVALS, {OURS: "3.11.2 (main) [GCC 12]"})
    assert "ours ran on Python 3.11.2 (main) [GCC 12]." in outcome.notes
    assert python_version(Path(sys.executable)).startswith(platform.python_version())


def test_it_has_no_workloads():
    with pytest.raises(ConfigError, match="its own load"):
        bench.run(BenchOptions(workload="ladder"))


@pytest.mark.parametrize("stream", [False, True])
def test_the_ladders_router_serves_every_request(stream: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ladder, "BATCH", 64)
    router = ladder._Router("default", record=True)

    async def on_loop() -> None:
        router.batch(ladder.requests(stream=stream), (ladder.FIRST, ladder.REST) if stream else (ladder.PLAIN,))

    asyncio.run(on_loop())
    meters = router.director.metrics.models()["m"]
    meters.settle()
    assert (meters.requests, meters.running, len(router.director.ledger)) == (64, 0, 0)
    assert meters.output_tokens.total == 64 * 16


def test_workers_that_so_many_streams_take():
    assert [streams.workers_for(10_000, limit) for limit in (65_536, 20_000, 8192)] == [1, 2, 3]
