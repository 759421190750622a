"""Downloads are checked, converted and written whole; every failure is one clear line."""

from __future__ import annotations

import gzip
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from fleet.errors import ConfigError, FleetError, SourceError
from simulator.download import PUBLISHED, Published, download
from simulator.traces import find, read_requests
from simulator.traffic_cli import download_command

ROWS = [(f"2023-11-16 18:15:{second:02d}.5000000", 100 + second, 10) for second in range(30)]
RAW = "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(f"{at},{size},{out}\n" for at, size, out in ROWS)


@contextmanager
def publisher(body: bytes, status: int = 200) -> Iterator[str]:
    """A local HTTP server that answers every GET with ``body``; yields its URL."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/trace"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published trace has as many rows as the one served here."""
    entry = PUBLISHED["azure2023_conv"]
    facts = {name: getattr(entry, name) for name in ("url", "file", "source", "licence", "citation")}
    monkeypatch.setitem(PUBLISHED, "azure2023_conv", Published(**facts, rows=30))


@pytest.mark.usefixtures("small")
def test_a_download_is_converted_and_found_by_name(tmp_path: Path) -> None:
    with publisher(RAW.encode()) as url:
        path = download("azure2023_conv", tmp_path, url=url)
    assert find("azure2023_conv", [tmp_path]) == path
    requests = read_requests(path)
    assert [(item.arrival_s, item.input_tokens) for item in requests] == [(float(at), 100 + at) for at in range(30)]
    assert gzip.decompress(path.read_bytes()).startswith(b"arrival_s,input_tokens,output_tokens\n")


def test_a_mooncake_download_keeps_hash_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = PUBLISHED["mooncake_synthetic"]
    facts = {name: getattr(entry, name) for name in ("url", "file", "source", "licence", "citation")}
    monkeypatch.setitem(PUBLISHED, "mooncake_synthetic", Published(**facts, rows=1))
    body = b'{"timestamp": 0, "input_length": 600, "output_length": 6, "hash_ids": [4, 9]}\n'
    with publisher(body) as url:
        path = download("mooncake_synthetic", tmp_path, url=url)
    assert read_requests(path)[0].hash_ids == (4, 9)


@pytest.mark.parametrize(("body", "status", "what"), [
    pytest.param(RAW.encode(), 200, "holds 30 requests .*19366 as published", id="another-number-of-rows"),
    pytest.param(b"<html>moved</html>", 200, "no known format", id="a-web-page"),
    pytest.param(RAW.encode()[:-5] + b"x\n", 200, "line 31", id="a-broken-row"),
    pytest.param(b"", 404, "answers 404", id="gone"),
])  # fmt: skip
def test_a_wrong_answer_writes_nothing(tmp_path: Path, body: bytes, status: int, what: str) -> None:
    with publisher(body, status) as url, pytest.raises(FleetError, match=what) as caught:
        download("azure2023_conv", tmp_path, url=url)
    assert str(caught.value).startswith(url)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("url", [
    pytest.param("http://127.0.0.1:{port}/trace", id="nobody-listens"),
    pytest.param("http://no-such-host.invalid/trace", id="no-such-host"),
    pytest.param("nonsense", id="no-url"),
])  # fmt: skip
def test_no_network_is_one_clear_line(tmp_path: Path, free_port: int, url: str) -> None:
    with pytest.raises(SourceError, match="--url") as caught:
        download("azure2023_conv", tmp_path, url=url.format(port=free_port))
    assert "\n" not in str(caught.value)


def test_an_unpublished_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="azure2023_conv, azure2023_code"):
        download("azure2024", tmp_path)


@pytest.mark.usefixtures("small")
def test_the_command_fills_the_folder_where_replay_looks_and_cites(tmp_path: Path) -> None:
    with publisher(RAW.encode()) as url:
        result = CliRunner().invoke(download_command, ["azure2023_conv", "--url", url], catch_exceptions=False)
    assert result.exit_code == 0
    assert "30 requests" in result.output and "CC-BY-4.0" in result.output and "Splitwise" in result.output
    assert (tmp_path / "home" / "traces" / "azure2023_conv.csv.gz").is_file()
