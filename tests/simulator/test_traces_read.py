"""Every workload format is read, told apart by its content, and a bad row is one line with its number."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet import workload
from fleet.errors import ConfigError
from simulator.profile import to_json
from simulator.traces import (
    Lengths,
    committed_profile,
    find,
    read_requests,
    read_source,
    recorded_line,
    request_csv,
    traffic,
    write_atomically,
)
from simulator.workload import RateSource, TimedRequest, TraceSource

CSV = "arrival_s,input_tokens,output_tokens\n0.0,374,44\n4.3,396,109\n"
AZURE = (
    "TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
    "2023-11-16 18:15:46.6805900,374,44\r\n"
    "2023-11-16 18:15:50.9951690,396,109\r\n"
)
MOONCAKE = '{"timestamp": 0, "input_length": 600, "output_length": 6, "hash_ids": [0, 1]}\n' + (
    '{"timestamp": 4300, "input_length": 512, "output_length": 4, "hash_ids": [0]}\n'
)
RECORDED = (
    '{"arrival_s":1.5,"input_tokens":100,"output_tokens":7,"prefix_id":3,"prefix_tokens":48,"model":"m"}\n'
    '{"arrival_s":0.5,"input_tokens":90,"output_tokens":6,"prefix_id":null,"prefix_tokens":0,"model":"n"}\n'
)


def written(folder: Path, name: str, content: str) -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(content.encode()) if name.endswith(".gz") else content.encode())
    return path


@pytest.mark.parametrize(("name", "content", "second"), [
    pytest.param("a.csv", CSV, (4.3, 396, 109, ()), id="request-csv"),
    pytest.param("a.csv.gz", CSV, (4.3, 396, 109, ()), id="compressed-request-csv"),
    pytest.param("a.csv", "\ufeff" + CSV, (4.3, 396, 109, ()), id="csv-with-a-byte-order-mark"),
    pytest.param("a.csv", AZURE, (4.3146, 396, 109, ()), id="the-publisher's-own-csv"),
    pytest.param("a.jsonl", MOONCAKE, (4.3, 512, 4, (0,)), id="mooncake"),
    pytest.param("a.jsonl.gz", MOONCAKE, (4.3, 512, 4, (0,)), id="compressed-mooncake"),
])  # fmt: skip
def test_a_trace_is_read(tmp_path: Path, name: str, content: str, second: tuple[object, ...]) -> None:
    requests = read_requests(written(tmp_path, name, content))
    assert [request.arrival_s for request in requests] == [0.0, second[0]]
    last = requests[1]
    assert (last.arrival_s, last.input_tokens, last.output_tokens, last.hash_ids) == second


def test_a_recorded_workload_is_sorted_and_keeps_prefix_and_model(tmp_path: Path) -> None:
    first, second = read_requests(written(tmp_path, "a.jsonl", RECORDED))
    assert (first.arrival_s, first.prefix_id, first.model) == (0.5, None, "n")
    assert (second.prefix_id, second.prefix_tokens, second.model) == (3, 48, "m")


@given(st.builds(
    TimedRequest, arrival_s=st.floats(0, 1e5).map(lambda value: round(value, 6)), input_tokens=st.integers(1537, 10**6),
    output_tokens=st.integers(1, 10**4), prefix_id=st.none() | st.integers(0, 99), prefix_tokens=st.integers(0, 9),
    hash_ids=st.lists(st.integers(0, 10**6), max_size=4).map(tuple), model=st.just("m"),
))  # fmt: skip
def test_a_recorded_workload_survives_its_file(
    tmp_path_factory: pytest.TempPathFactory, request_: TimedRequest
) -> None:
    path = written(tmp_path_factory.mktemp("recorded"), "a.jsonl", recorded_line(request_, "other") + "\n")
    assert read_requests(path) == [request_]


def test_the_replays_model_is_recorded_where_the_trace_names_none() -> None:
    line = recorded_line(TimedRequest(arrival_s=0.0, input_tokens=4, output_tokens=1), "mine")
    assert json.loads(line)["model"] == "mine"


@pytest.mark.parametrize(("name", "content", "where", "what"), [
    pytest.param("a.csv", CSV + "5.0,abc,3\n", "line 4", "abc", id="a-word-for-a-number"),
    pytest.param("a.csv", CSV + "5.0,12\n", "line 4", "2 columns", id="a-column-short"),
    pytest.param("a.csv", CSV + "-1,12,3\n", "line 4", "arrival is -1.0", id="before-the-start"),
    pytest.param("a.csv", CSV + "nan,12,3\n", "line 4", "arrival is nan", id="no-time-at-all"),
    pytest.param("a.csv", CSV + "5.0,0,3\n", "line 4", "0 in, 3 out", id="an-empty-prompt"),
    pytest.param("a.csv", CSV + "5.0,99999999999,3\n", "line 4", "99999999999 in", id="a-prompt-beyond-belief"),
    pytest.param("a.csv", "when,how much\n1,2\n", "line 1", "no known format", id="an-unknown-header"),
    pytest.param("a.csv", "", "a.csv", "empty", id="an-empty-file"),
    pytest.param("a.csv", CSV.splitlines()[0] + "\n", "a.csv", "no request", id="a-header-alone"),
    pytest.param("a.csv", AZURE + "yesterday,1,2\n", "line 4", "yesterday", id="no-time-stamp"),
    pytest.param("a.jsonl", MOONCAKE + '{"timestamp": 1}\n', "line 3", "input_length", id="a-key-missing"),
    pytest.param("a.jsonl", MOONCAKE + "{broken\n", "line 3", "bad row", id="no-json"),
    pytest.param("a.jsonl", MOONCAKE + '["timestamp"]\n', "line 3", "bad row", id="a-list-for-an-object"),
    pytest.param("a.jsonl", '{"when": 1}\n', "line 1", "neither timestamp nor arrival_s", id="unknown-keys"),
    pytest.param("a.jsonl", RECORDED.replace("48", "100"), "line 1", "prefix_tokens is 100", id="nothing-but-prefix"),
    pytest.param("a.csv", CSV + "1e12,12,3\n", "line 4", "a year", id="in-the-far-future"),
    pytest.param("a.jsonl", MOONCAKE + "[1]\n", "line 3", "no JSON object", id="a-list-in-between"),
    pytest.param("a.jsonl", '{"timestamp": ' + "[" * 100_000 + "\n", "line 1", "recursion", id="nested-without-end"),
    pytest.param("a.jsonl", '{"timestamp":true,"input_length":5,"output_length":5}\n', "line 1", "timestamp is true",
                 id="a-truth-for-a-time"),
    pytest.param("a.jsonl", '{"timestamp":0,"input_length":"5","output_length":5}\n', "line 1", "no whole number",
                 id="a-word-for-a-length"),
    pytest.param("a.jsonl", '{"timestamp":0,"input_length":5,"output_length":5,"hash_ids":"12"}\n', "line 1", "no list",
                 id="hash-ids-in-a-word"),
    pytest.param("a.jsonl", '{"timestamp":0,"input_length":5,"output_length":5,"hash_ids":[-1]}\n', "line 1", "below 0",
                 id="a-negative-hash-id"),
    pytest.param("a.jsonl", '{"timestamp":0,"input_length":512,"output_length":5,"hash_ids":[1,2]}\n', "line 1",
                 "2 hash_ids for 512", id="more-blocks-than-prompt"),
    pytest.param("a.csv", "t_s,rps\n0,1\n0,2\n", "line 3", "times must rise", id="a-curve-that-stands-still"),
    pytest.param("a.csv", "t_s,rps\n0,1\n60,-2\n", "line 3", "rates be 0 or more", id="a-negative-rate"),
    pytest.param("a.csv", "t_s,rps\n0,1\nx,2\n", "line 3", "bad row", id="a-word-in-a-curve"),
    pytest.param("a.csv", "t_s,rps\n0,0\n60,0\n", "a.csv", "no rate curve", id="a-curve-of-nothing"),
])  # fmt: skip
def test_a_bad_file_is_one_line_with_file_and_row(
    tmp_path: Path, name: str, content: str, where: str, what: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        read_source(written(tmp_path, name, content), lengths=Lengths(mean_input=1.0, mean_output=1.0))
    message = str(caught.value)
    assert where in message and what in message and name in message
    assert "\n" not in message


@pytest.mark.parametrize("content", [
    pytest.param(gzip.compress(CSV.encode() * 2000)[:-20], id="cut-off"),
    pytest.param(b"no gzip at all", id="not-compressed"),
    pytest.param(gzip.compress(b"\xff\xfe\x00text"), id="not-utf-8"),
])  # fmt: skip
def test_a_broken_archive_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.csv.gz"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"a\.csv\.gz"):
        read_source(path)


def test_a_rate_curve_needs_lengths(tmp_path: Path) -> None:
    path = written(tmp_path, "mine.csv", "t_s,rps\n0,1\n60,3\n")
    with pytest.raises(ConfigError, match="--mean-input"):
        read_source(path)
    source = read_source(path, lengths=Lengths(mean_input=100.0, mean_output=10.0))
    assert isinstance(source, RateSource)
    assert (source.span_s, source.native_rps) == (120.0, 2.0)


def test_a_rate_curve_is_no_trace(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="rate curve"):
        read_requests(written(tmp_path, "a.csv", "t_s,rps\n0,1\n60,3\n"))


def test_csv_survives_its_file(tmp_path: Path) -> None:
    requests = read_requests(written(tmp_path, "a.csv", AZURE))
    assert read_requests(written(tmp_path, "b.csv", request_csv(requests))) == requests


def test_the_trace_file_is_used_where_it_is_at_hand_and_the_profile_where_it_is_not(tmp_path: Path) -> None:
    without = traffic("azure2023_conv", [tmp_path])
    assert (without.kind, without.name) == ("profile", "azure2023_conv")
    assert "committed profile" in without.where and "CC-BY-4.0" in without.where
    path = written(tmp_path, "azure2023_conv.csv.gz", CSV)
    found = traffic("azure2023_conv", [tmp_path / "nowhere", tmp_path])
    assert (found.kind, found.where) == ("trace", str(path))


def test_a_profile_file_is_followed(tmp_path: Path) -> None:
    path = written(tmp_path, "mine.json", to_json(committed_profile("azure2023_conv")))
    followed = traffic(str(path), [])
    assert (followed.kind, followed.where) == ("profile", str(path))


@pytest.mark.parametrize(("name", "what"), [
    pytest.param("./nowhere.csv", "no such trace file", id="a-path"),
    pytest.param("nowhere.csv", "no such trace file", id="a-file-name"),
    pytest.param("azure2099", "no profile of it is committed", id="a-name"),
])  # fmt: skip
def test_traffic_that_is_nowhere_is_one_clear_line(tmp_path: Path, name: str, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        traffic(name, [tmp_path])


def test_a_name_is_looked_up_in_the_folders_in_order(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        written(tmp_path / folder, "mine.csv", CSV)
    assert find("mine", [tmp_path / "two", tmp_path / "one"]) == tmp_path / "two" / "mine.csv"
    assert find("other", [tmp_path / "one"]) is None


def test_writing_leaves_the_old_file_when_the_folder_is_read_only(tmp_path: Path) -> None:
    path = tmp_path / "blocked" / "a.csv"
    path.parent.write_text("a file where a folder should be")
    with pytest.raises(ConfigError, match="cannot be written"):
        write_atomically(path, b"new")


def test_writing_replaces_whole_files_and_leaves_no_draft(tmp_path: Path) -> None:
    for content in (b"one", b"two"):
        write_atomically(tmp_path / "a.csv.gz", content)
    assert gzip.decompress((tmp_path / "a.csv.gz").read_bytes()) == b"two"
    assert [item.name for item in tmp_path.iterdir()] == ["a.csv.gz"]


@pytest.mark.parametrize(("name", "rows", "rps"), [
    pytest.param("azure2023_conv", 19_366, 5.53, id="azure-2023-conversation"),
    pytest.param("mooncake_synthetic", 3_993, 3.91, id="mooncake-synthetic"),
])  # fmt: skip
def test_shared_traces_hold_what_their_readme_says(traces_dir: Path, name: str, rows: int, rps: float) -> None:
    source = traffic(name, [traces_dir]).source
    assert isinstance(source, TraceSource)
    assert len(source.requests) == rows
    assert source.native_rps == pytest.approx(rps, abs=0.01)
    if name.startswith("mooncake"):
        assert all(len(item.hash_ids) == -(-item.input_tokens // 512) for item in source.requests)


@pytest.mark.parametrize(("name", "days", "rps"), [
    pytest.param("azure2024_conv_weekly_rate_digitised", 7.0, 45.15, id="azure-2024-week"),
    pytest.param("servegen_m-large_total_rate_days0-6", 7.0, 209.5, id="servegen-week"),
])  # fmt: skip
def test_shared_rate_curves_have_their_published_lengths(traces_dir: Path, name: str, days: float, rps: float) -> None:
    found = traffic(name, [traces_dir])
    assert found.kind == "rate curve"
    assert found.source.span_s / 86_400 == pytest.approx(days, abs=0.01)
    assert found.source.native_rps == pytest.approx(rps, abs=0.1)
    assert found.source.cycle(np.random.default_rng(1), 1e-5)


def test_recorded_ids_of_48_bits_get_small_numbers_and_stay_equal_where_they_were(tmp_path: Path) -> None:
    path, ids = tmp_path / "live.jsonl", [[2**48 - 1, 2**47], [2**48 - 1, 7], [5]]
    lines = [
        workload.line(arrival_s=float(at_s), input_tokens=1100, output_tokens=3, model="m", hash_ids=one)
        for at_s, one in enumerate(ids)
    ]
    path.write_text("\n".join(lines))
    assert [request.hash_ids for request in read_requests(path)] == [(0, 1), (0, 2), (3,)]


def test_a_folder_is_told_from_a_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a folder"):
        traffic(f"{tmp_path}/", [])
