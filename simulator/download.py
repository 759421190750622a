"""Gets published traces from their publishers and keeps them in our formats."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from fleet.errors import ConfigError, SourceError
from simulator.traces import read_requests, recorded_line, request_csv, write_atomically
from simulator.workload import TimedRequest

_AZURE = "https://raw.githubusercontent.com/Azure/AzurePublicDataset/master/data/"
_MOONCAKE = "https://raw.githubusercontent.com/kvcache-ai/Mooncake/main/FAST25-release/traces/"
_SPLITWISE = "Patel et al., Splitwise: Efficient Generative LLM Inference Using Phase Splitting, ISCA 2024"
_FAST25 = "Qin et al., Mooncake: Trading More Storage for Less Computation, FAST 2025"


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A trace that its publisher serves."""

    url: str
    file: str
    """Name it is kept under."""
    rows: int
    source: str
    licence: str
    citation: str


PUBLISHED = {
    "azure2023_conv": Published(
        url=_AZURE + "AzureLLMInferenceTrace_conv.csv", file="azure2023_conv.csv.gz", rows=19_366,
        source="Azure/AzurePublicDataset, AzureLLMInferenceTrace_conv", licence="CC-BY-4.0", citation=_SPLITWISE),
    "azure2023_code": Published(
        url=_AZURE + "AzureLLMInferenceTrace_code.csv", file="azure2023_code.csv.gz", rows=8_819,
        source="Azure/AzurePublicDataset, AzureLLMInferenceTrace_code", licence="CC-BY-4.0", citation=_SPLITWISE),
    "mooncake_conversation": Published(
        url=_MOONCAKE + "conversation_trace.jsonl", file="mooncake_conversation.jsonl.gz", rows=12_031,
        source="kvcache-ai/Mooncake, FAST25 conversation trace", licence="Apache-2.0", citation=_FAST25),
    "mooncake_synthetic": Published(
        url=_MOONCAKE + "synthetic_trace.jsonl", file="mooncake_synthetic.jsonl.gz", rows=3_993,
        source="kvcache-ai/Mooncake, FAST25 synthetic trace", licence="Apache-2.0", citation=_FAST25),
}  # fmt: skip
"""By the name that ``--trace`` takes."""


def published(name: str) -> Published:
    """The publisher's entry.

    Raises: ConfigError for a trace that nobody serves under this name.
    """
    if name not in PUBLISHED:
        raise ConfigError(f"no publisher is known for trace {name}", limit=", ".join(PUBLISHED))
    return PUBLISHED[name]


def download(name: str, folder: Path, *, url: str = "") -> Path:
    """Fetch, check and convert one trace; the file appears whole or not at all.

    Raises: SourceError when the publisher cannot be reached, ConfigError when what it sent is not the trace.
    """
    entry = published(name)
    address = url or entry.url
    body = asyncio.run(_fetch(address))
    requests = _parsed(body, "original" + (".jsonl" if ".jsonl" in entry.file else ".csv"), address)
    if len(requests) != entry.rows:
        raise ConfigError(f"holds {len(requests)} requests", where=address, limit=f"{entry.rows} as published",
                          next_step="The publisher may have changed it; nothing was written.")  # fmt: skip
    path = folder / entry.file
    write_atomically(path, _converted(requests, entry.file))
    return path


def _parsed(body: bytes, file: str, address: str) -> list[TimedRequest]:
    with tempfile.TemporaryDirectory() as scratch:
        original = Path(scratch) / file
        original.write_bytes(body)
        try:
            return read_requests(original)
        except ConfigError as error:
            where = error.where.replace(str(original), address)
            raise ConfigError(error.what, where=where, limit=error.limit) from None


def _converted(requests: list[TimedRequest], file: str) -> bytes:
    if file.startswith("azure"):
        return request_csv(requests).encode()
    return "".join(recorded_line(request, "") + "\n" for request in requests).encode()


async def _fetch(url: str) -> bytes:
    timeout = aiohttp.ClientTimeout(total=600, sock_connect=20, sock_read=60)
    try:
        async with aiohttp.ClientSession(timeout=timeout, trust_env=True) as session, session.get(url) as response:
            if response.status != 200:
                raise SourceError(f"answers {response.status} {response.reason}", where=url, next_step=_ELSEWHERE)
            return await response.read()
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        reason = str(error) or type(error).__name__
        raise SourceError(f"cannot be downloaded: {reason}", where=url, next_step=_ELSEWHERE) from None


_ELSEWHERE = "Check the network, or name a mirror with --url."
