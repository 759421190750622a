"""Reads and writes workload files, and finds traces by name.

Formats (``.gz`` of each too), told apart by the first line:

- request CSV: ``arrival_s,input_tokens,output_tokens``; the Azure publisher's own CSV is read as well
- rate CSV: ``t_s`` and a second column in requests per second, in even steps
- Mooncake JSON lines: ``timestamp`` (ms), ``input_length``, ``output_length``, ``hash_ids``
- recorded workload: JSON lines with ``arrival_s``, ``input_tokens``, ``output_tokens``, ``prefix_id``,
  ``prefix_tokens``, ``model`` and, where known, ``hash_ids``
"""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import math
import os
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

from fleet import workload
from fleet.errors import ConfigError
from simulator.profile import Profile, ProfileSource, from_json
from simulator.workload import HASH_BLOCK_TOKENS, RateSource, Source, TimedRequest, TraceSource, span_of

SUFFIXES = (".csv.gz", ".csv", ".jsonl.gz", ".jsonl")
MAX_TOKENS = 10_000_000
"""Longest prompt or answer believed: beyond any model's context, so a longer one is a broken row."""
MAX_ARRIVAL_S = 366 * 86_400.0
"""Latest arrival believed: a year after the start."""
_FORMATS = "request CSV, rate CSV, Mooncake JSON lines or recorded workload"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Mean tokens of requests drawn along a rate curve."""

    mean_input: float
    mean_output: float


CURVE_LENGTHS = {
    "azure2024_conv_weekly_rate_digitised": Lengths(mean_input=1618.0, mean_output=107.0),
    "servegen_m-large_total_rate_days0-6": Lengths(mean_input=914.0, mean_output=155.0),
}
"""Published mean lengths of the named rate curves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """A source, and in words which one it is."""

    source: Source
    kind: str
    """``trace``, ``rate curve`` or ``profile``."""
    name: str
    where: str
    """The file; for a profile, its origin and licence."""


def stem(path: Path) -> str:
    """File name without the suffixes of :data:`SUFFIXES`."""
    return next((path.name.removesuffix(suffix) for suffix in SUFFIXES if path.name.endswith(suffix)), path.name)


def traffic(name_or_file: str, folders: Iterable[Path], *, lengths: Lengths | None = None) -> Traffic:
    """The trace file where it is at hand, else the committed profile of that name.

    Raises: ConfigError when there is neither, or the file is bad.
    """
    path = find(name_or_file, folders)
    if path is not None and path.suffix == ".json":
        return _profiled(read_profile(path), str(path))
    if path is not None:
        source = read_source(path, lengths=lengths)
        kind = "rate curve" if isinstance(source, RateSource) else "trace"
        return Traffic(source=source, kind=kind, name=stem(path), where=str(path))
    profile = committed_profile(name_or_file)
    return _profiled(profile, f"committed profile of {profile.source} ({profile.licence})")


def _profiled(profile: Profile, where: str) -> Traffic:
    return Traffic(source=ProfileSource(profile=profile), kind="profile", name=profile.name, where=where)


def read_profile(path: Path) -> Profile:
    """A profile file, as ``fleet sim profile`` writes it.

    Raises: ConfigError when it is none.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"is no readable JSON: {error}", where=str(path)) from None
    return from_json(document, where=str(path))


def find(name_or_file: str, folders: Iterable[Path]) -> Path | None:
    """A file by path, or by trace name in ``folders``; ``None`` when a name is in none of them.

    Raises: ConfigError when a path (it has a folder or a suffix) does not exist.
    """
    path = Path(name_or_file)
    if path.name != name_or_file or name_or_file.endswith((*SUFFIXES, ".json")) or path.is_file():
        if not path.is_file():
            what = "is a folder, not a trace file" if path.is_dir() else "no such trace file"
            raise ConfigError(what, where=str(path), next_step="Check --trace.")
        return path
    candidates = (folder / f"{name_or_file}{suffix}" for folder in folders for suffix in SUFFIXES)
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def profile_names() -> list[str]:
    """Names of the committed profiles."""
    folder = resources.files("simulator") / "profiles"
    return sorted(item.name.removesuffix(".json") for item in folder.iterdir() if item.name.endswith(".json"))


def committed_profile(name: str) -> Profile:
    """A profile that ships with the package.

    Raises: ConfigError when there is none of that name.
    """
    if name not in profile_names():
        raise ConfigError(
            f"trace {name} is in no trace folder, and no profile of it is committed",
            limit=f"profiles: {', '.join(profile_names())}",
            next_step=f"Run fleet sim download {name}, or name a file or a folder with --trace or --traces.",
        )
    item = resources.files("simulator") / "profiles" / f"{name}.json"
    return from_json(json.loads(item.read_text(encoding="utf-8")), where=f"profile {name}")


def read_source(path: Path, *, lengths: Lengths | None = None) -> Source:
    """Any workload file as a traffic source; ``lengths`` are for a rate curve.

    Raises: ConfigError with file, line and what is wrong.
    """
    with _lines(path) as lines:
        first = next(lines, "").lstrip("\ufeff").strip()
        if first.startswith("t_s,"):
            return _rate_source(path, lines, lengths or CURVE_LENGTHS.get(stem(path)))
        requests = list(_requests(path, first, lines))
    if not requests:
        raise ConfigError("holds no request", where=str(path))
    requests.sort(key=lambda request: request.arrival_s)
    return TraceSource(requests=_renumbered(requests), span_s=span_of(requests))


def _renumbered(requests: list[TimedRequest]) -> list[TimedRequest]:
    """The same requests with small block ids: recorded ones are 48 bits of a hash, and copies move them further up."""
    if max((max(request.hash_ids, default=0) for request in requests), default=0) < 1 << 32:
        return requests
    numbers: dict[int, int] = {}
    return [replace(request, hash_ids=tuple(numbers.setdefault(one, len(numbers)) for one in request.hash_ids))
            for request in requests]  # fmt: skip


def read_requests(path: Path) -> list[TimedRequest]:
    """The requests of a trace or recorded workload, sorted by arrival.

    Raises: ConfigError as :func:`read_source`, and for a rate curve, which has no requests.
    """
    source = read_source(path, lengths=Lengths(mean_input=1.0, mean_output=1.0))
    if not isinstance(source, TraceSource):
        raise ConfigError("is a rate curve, not a trace of requests", where=str(path))
    return list(source.requests)


@contextmanager
def _lines(path: Path) -> Iterator[Iterator[str]]:
    """The lines of a text or gzip file; one that cannot be read is one clear line."""
    opener = gzip.open if path.name.endswith(".gz") else open
    try:
        with opener(path, "rt", encoding="utf-8") as file:
            yield iter(file)
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise ConfigError(f"cannot be read: {error}", where=str(path), next_step="Check the file.") from None


_Row = Callable[[str], TimedRequest]


def _requests(path: Path, first: str, lines: Iterator[str]) -> Iterator[TimedRequest]:
    rest: Iterable[tuple[int, str]] = enumerate(lines, start=2)
    if first.startswith("{"):
        parse, rest = _json_parser(path, first), itertools.chain([(1, first)], rest)
    else:
        parse = _csv_parser(path, first)
    for number, line in rest:
        if not line.strip():
            continue
        try:
            yield _checked(parse(line))
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            what = f"no {error} in the row" if isinstance(error, KeyError) else str(error)
            raise ConfigError(f"bad row: {what}", where=f"{path} line {number}") from None


def _checked(request: TimedRequest) -> TimedRequest:
    if not (math.isfinite(request.arrival_s) and request.arrival_s >= 0):
        raise ValueError(f"arrival is {request.arrival_s}, it must be a time of 0 s or later")
    if request.arrival_s > MAX_ARRIVAL_S:
        raise ValueError(f"arrival is {request.arrival_s:g} s, at most {MAX_ARRIVAL_S:.0f} (a year) is believed")
    if not (1 <= request.input_tokens <= MAX_TOKENS and 1 <= request.output_tokens <= MAX_TOKENS):
        raise ValueError(f"lengths are {request.input_tokens} in, {request.output_tokens} out (1 to {MAX_TOKENS})")
    if not 0 <= request.prefix_tokens < request.input_tokens:
        raise ValueError(f"prefix_tokens is {request.prefix_tokens}, input_tokens {request.input_tokens}")
    if len(request.hash_ids) * HASH_BLOCK_TOKENS >= request.input_tokens + HASH_BLOCK_TOKENS:
        raise ValueError(f"{len(request.hash_ids)} hash_ids for {request.input_tokens} input_tokens "
                         f"({HASH_BLOCK_TOKENS} each)")  # fmt: skip
    return request


def _csv_parser(path: Path, header: str) -> _Row:
    if header == "arrival_s,input_tokens,output_tokens":
        return _request_row
    if header == "TIMESTAMP,ContextTokens,GeneratedTokens":
        return _AzureRow()
    if not header:
        raise ConfigError("line 1 is empty", where=str(path), limit=_FORMATS, next_step="Give one of these.")
    raise ConfigError(f"starts with {header[:60]!r}: no known format", where=f"{path} line 1", limit=_FORMATS,
                      next_step="Give one of these.")  # fmt: skip


def _request_row(line: str) -> TimedRequest:
    arrival, size, answer = _columns(line)
    return TimedRequest(arrival_s=float(arrival), input_tokens=int(size), output_tokens=int(answer))


def _columns(line: str) -> list[str]:
    cells = line.strip().split(",")
    if len(cells) != 3:
        raise ValueError(f"{len(cells)} columns, 3 expected")
    return cells


class _AzureRow:
    """The publisher's rows: a time stamp with seven decimals; arrivals count from the first row."""

    def __init__(self) -> None:
        self._start: datetime | None = None

    def __call__(self, line: str) -> TimedRequest:
        stamp, size, answer = _columns(line)
        at = datetime.fromisoformat(stamp[:26]).replace(tzinfo=UTC)
        self._start = self._start or at
        arrival_s = round((at - self._start).total_seconds(), 4)
        return TimedRequest(arrival_s=arrival_s, input_tokens=int(size), output_tokens=int(answer))


def _json_parser(path: Path, first: str) -> _Row:
    if '"timestamp"' in first:
        return _mooncake_row
    if '"arrival_s"' in first:
        return _recorded_row
    raise ConfigError("has neither timestamp nor arrival_s", where=f"{path} line 1", limit=_FORMATS)


def _mooncake_row(line: str) -> TimedRequest:
    row = _object(line)
    return TimedRequest(
        arrival_s=_number(row, "timestamp") / 1000.0, input_tokens=_whole(row["input_length"], "input_length"),
        output_tokens=_whole(row["output_length"], "output_length"), hash_ids=_hash_ids(row),
    )  # fmt: skip


def _recorded_row(line: str) -> TimedRequest:
    row = _object(line)
    prefix_id = row.get("prefix_id")
    return TimedRequest(
        arrival_s=_number(row, "arrival_s"), input_tokens=_whole(row["input_tokens"], "input_tokens"),
        output_tokens=_whole(row["output_tokens"], "output_tokens"),
        prefix_id=None if prefix_id is None else _whole(prefix_id, "prefix_id"),
        prefix_tokens=_whole(row.get("prefix_tokens", 0), "prefix_tokens"), model=str(row.get("model", "")),
        hash_ids=_hash_ids(row),
    )  # fmt: skip


def _object(line: str) -> dict[str, Any]:
    row = json.loads(line)
    if not isinstance(row, dict):
        raise ValueError(f"{line.strip()[:40]} is no JSON object")
    return row


def _number(row: dict[str, Any], key: str) -> float:
    value = row[key]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{key} is {json.dumps(value)[:40]}, no number")
    return float(value)


def _whole(value: object, key: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        raise ValueError(f"{key} is {json.dumps(value)[:40]}, no whole number")
    return int(value)


def _hash_ids(row: dict[str, Any]) -> tuple[int, ...]:
    ids = row.get("hash_ids", [])
    if not isinstance(ids, list):
        raise ValueError("hash_ids is no list")
    found = tuple(_whole(one, "hash_ids") for one in ids)
    if min(found, default=0) < 0:
        raise ValueError(f"hash_ids holds {min(found)}, below 0")
    return found


def _rate_source(path: Path, lines: Iterator[str], lengths: Lengths | None) -> RateSource:
    if lengths is None:
        raise ConfigError("a rate curve has no request lengths", where=str(path),
                          next_step="Give their means with --mean-input and --mean-output.")  # fmt: skip
    rows: list[tuple[float, float]] = []
    for number, line in enumerate(lines, start=2):
        try:
            at_s, rate = (float(cell) for cell in line.split(",")[:2])
        except ValueError:
            raise ConfigError(f"bad row: {line.strip()[:60]!r}", where=f"{path} line {number}") from None
        if not 0 <= rate < math.inf or (rows and at_s <= rows[-1][0]):
            raise ConfigError("bad row: times must rise and rates be 0 or more", where=f"{path} line {number}")
        rows.append((at_s, rate))
    if len(rows) < 2 or not any(rate for _, rate in rows):
        raise ConfigError("holds no rate curve", where=str(path), limit=">= 2 rows, one of them above 0")
    step_s = (rows[-1][0] - rows[0][0]) / (len(rows) - 1)
    return RateSource(bin_s=step_s, rates_rps=tuple(rate for _, rate in rows),
                      mean_input=lengths.mean_input, mean_output=lengths.mean_output)  # fmt: skip


def request_csv(requests: Iterable[TimedRequest]) -> str:
    """Requests as request CSV; arrivals to 0.1 ms."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("arrival_s", "input_tokens", "output_tokens"))
    writer.writerows((round(item.arrival_s, 4), item.input_tokens, item.output_tokens) for item in requests)
    return out.getvalue()


def recorded_line(request: TimedRequest, model: str) -> str:
    """One line of a recorded workload; ``model`` where the request names none."""
    return workload.line(arrival_s=request.arrival_s, input_tokens=request.input_tokens,
                         output_tokens=request.output_tokens, prefix_id=request.prefix_id,
                         prefix_tokens=request.prefix_tokens, model=request.model or model,
                         hash_ids=request.hash_ids)  # fmt: skip


def write_atomically(path: Path, content: bytes) -> None:
    """Write ``path`` whole or not at all; ``.gz`` is compressed (the same bytes for the same content).

    Raises: ConfigError when the folder cannot be written.
    """
    packed = gzip.compress(content, mtime=0) if path.name.endswith(".gz") else content
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(packed)
        Path(draft).chmod(0o644)
        Path(draft).replace(path)
    except OSError as error:
        raise ConfigError(f"cannot be written: {error.strerror}", where=str(path)) from None
