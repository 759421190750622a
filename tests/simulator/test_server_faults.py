"""What an engine can be made to suffer, seen from the client's side."""

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from fleet.errors import ConfigError
from fleet.sources.exposition import engine_sample
from simulator.faults import ErrorType, FaultKind, parse_fault
from tests.waiting import ENDS_WITHIN_S, until

BODY = {"prompt": "Hello there", "max_tokens": 20, "ignore_eos": True}


@pytest.fixture(scope="module")
def shared(launch_engine: Callable[..., Any]) -> Iterator[httpx.Client]:
    engine = launch_engine("--speed", "50", "--seed", "3").ready()
    with httpx.Client(base_url=engine.url, timeout=60) as client:
        yield client


@pytest.fixture
def engine(shared: httpx.Client) -> httpx.Client:
    """Without a fault."""
    assert _fault(shared, kind="none") == {"active": []}
    return shared


def _fault(engine: httpx.Client, **fault: Any) -> Any:
    response = engine.post("/sim/fault", json=fault)
    assert response.status_code == 200, response.text
    return response.json()


def _complete(engine: httpx.Client, **fields: Any) -> httpx.Response:
    return engine.post("/v1/completions", json={**BODY, **fields})


@pytest.mark.integration
@pytest.mark.parametrize(
    ("kind", "status", "error_type"),
    [
        pytest.param("rate_limit", 429, "Too Many Requests", id="rate-limit"),
        pytest.param("invalid_api_key", 401, "Unauthorized", id="key"),
        pytest.param("context_length", 400, "BadRequestError", id="context-length"),
        pytest.param("server_error", 500, "InternalServerError", id="server-error"),
        pytest.param("invalid_request", 400, "BadRequestError", id="invalid-request"),
        pytest.param("model_not_found", 404, "NotFoundError", id="model-not-found"),
        pytest.param("overloaded", 503, "Service Unavailable", id="queue-full"),
    ],
)
def test_requests_are_refused_as_told_until_the_engine_is_healed(
    engine: httpx.Client, kind: str, status: int, error_type: str
) -> None:
    _fault(engine, kind="error", types=[kind])
    response = _complete(engine)
    assert (response.status_code, response.json()["error"]["type"]) == (status, error_type)
    assert engine.get("/health").status_code == 200
    _fault(engine, kind="none")
    assert _complete(engine).status_code == 200


@pytest.mark.integration
def test_a_share_of_requests_is_refused_with_several_errors(engine: httpx.Client) -> None:
    _fault(engine, kind="error", rate=0.5, types=["rate_limit", "server_error"])
    seen = Counter(_complete(engine, max_tokens=1).status_code for _ in range(120))
    assert set(seen) == {200, 429, 500}
    assert 30 < seen[200] < 90


@pytest.mark.integration
def test_a_hung_engine_keeps_requests_waiting_until_it_is_healed(engine: httpx.Client) -> None:
    _fault(engine, kind="hang")
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(_complete, engine)
        until(lambda: engine_sample(engine.get("/metrics").text, at_s=0.0).waiting == 1, "waiting")
        assert not answer.done()
        _fault(engine, kind="none")
        assert answer.result(60).status_code == 200


@pytest.mark.integration
def test_faults_add_up_and_say_so(engine: httpx.Client) -> None:
    _fault(engine, kind="slow", factor=3.0)
    active = _fault(engine, kind="error", rate=0.0)["active"]
    assert [(fault["kind"], fault["factor"]) for fault in active] == [("slow", 3.0), ("error", 2.0)]
    assert engine.get("/sim/fault").json() == {"active": active}


@pytest.mark.integration
def test_a_slow_engine_takes_longer_by_its_own_metrics(engine: httpx.Client) -> None:
    def mean_gap_s() -> float:
        before = _sums(engine)
        _complete(engine, max_tokens=30)
        return (_sums(engine)[0] - before[0]) / (_sums(engine)[1] - before[1])

    healthy_s = mean_gap_s()
    _fault(engine, kind="slow", factor=10.0)
    assert mean_gap_s() == pytest.approx(10 * healthy_s, rel=0.1)


def _sums(engine: httpx.Client) -> tuple[float, float]:
    page = [line for line in engine.get("/metrics").text.splitlines() if not line.startswith("#")]
    found = {
        line.split("{")[0]: float(line.rsplit(" ", 1)[1]) for line in page if "inter_token_latency_seconds_" in line
    }
    return found["vllm:inter_token_latency_seconds_sum"], found["vllm:inter_token_latency_seconds_count"]


@pytest.mark.integration
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
def test_a_lost_network_breaks_answers_off(engine: httpx.Client, *, stream: bool) -> None:
    _fault(engine, kind="reset", after_tokens=5)
    seen = 0
    with (
        pytest.raises(httpx.TransportError),
        engine.stream("POST", "/v1/completions", json={**BODY, "max_tokens": 400, "stream": stream}) as response,
    ):
        for _ in response.iter_lines():
            seen += 1
    assert seen < 400
    _fault(engine, kind="none")
    assert _complete(engine).status_code == 200
    assert engine.get("/load").json() == {"server_load": 0}


@pytest.mark.integration
def test_refused_connections_come_back_by_themselves(launch_engine: Callable[..., Any]) -> None:
    started = launch_engine("--speed", "50").ready()
    with httpx.Client(base_url=started.url) as open_before:
        _fault(open_before, kind="refuse", seconds=3)
        with pytest.raises(httpx.ConnectError):
            httpx.get(started.url + "/health")
        assert open_before.get("/health").status_code == 200
    until(lambda: started.status() == 200, "accepting again")


@pytest.mark.integration
def test_a_crash_ends_the_process_and_its_connections(launch_engine: Callable[..., Any]) -> None:
    started = launch_engine().ready()
    with ThreadPoolExecutor(1) as pool:
        body = {**BODY, "max_tokens": 100_000}
        answer = pool.submit(httpx.post, started.url + "/v1/completions", json=body, timeout=60)
        until(lambda: httpx.get(started.url + "/load").json() == {"server_load": 1}, "busy")
        with pytest.raises(httpx.TransportError):
            httpx.post(started.url + "/sim/fault", json={"kind": "crash"})
        with pytest.raises(httpx.TransportError):
            answer.result(60)
    assert started.process.wait(ENDS_WITHIN_S) == 139


@pytest.mark.integration
def test_one_of_many_crashes_alone_and_the_process_ends_with_the_last(launch_engine: Callable[..., Any]) -> None:
    started = launch_engine("--replicas", "2").ready()
    second = f"http://127.0.0.1:{started.port + 1}"
    with pytest.raises(httpx.TransportError):
        httpx.post(started.url + "/sim/fault", json={"kind": "crash"})
    assert started.status() == 0
    assert httpx.get(second + "/health").status_code == 200
    with pytest.raises(httpx.TransportError):
        httpx.post(second + "/sim/fault", json={"kind": "crash"})
    assert started.process.wait(ENDS_WITHIN_S) == 139


@pytest.mark.integration
def test_faults_can_be_planned_on_the_command_line(launch_engine: Callable[..., Any]) -> None:
    started = launch_engine("--speed", "50", "--fault", "error:types=rate_limit,seconds=6", "--fault", "slow:factor=4")
    started.ready()
    kinds = [fault["kind"] for fault in httpx.get(started.url + "/sim/fault").json()["active"]]
    assert kinds == ["error", "slow"]
    assert httpx.post(started.url + "/v1/completions", json=BODY).status_code == 429
    until(lambda: httpx.post(started.url + "/v1/completions", json=BODY).status_code == 200, "healed by itself")


@pytest.mark.integration
@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"{oops", id="no-json"),
        pytest.param(b'{"kind": "explode"}', id="unknown-kind"),
        pytest.param(b'{"kind": "slow", "factor": 0}', id="impossible-factor"),
        pytest.param(b'{"kind": "error", "rate": 1.5}', id="more-than-all"),
        pytest.param(b'{"kind": "refuse"}', id="refusing-for-ever"),
        pytest.param(b'{"kind": "error", "types": []}', id="no-error-to-give"),
        pytest.param(b'{"kind": "slow", "speed": 1}', id="unknown-field"),
    ],
)
def test_impossible_faults_get_400(engine: httpx.Client, body: bytes) -> None:
    response = engine.post("/sim/fault", content=body)
    assert response.status_code == 400
    assert response.json()["error"]["message"].startswith("Invalid fault")
    assert engine.get("/sim/fault").json() == {"active": []}


def test_the_command_lines_form_of_a_fault() -> None:
    fault = parse_fault("error:rate=0.1,types=rate_limit+overloaded,after_s=5,seconds=10")
    assert (fault.kind, fault.rate, fault.after_s, fault.seconds) == (FaultKind.ERROR, 0.1, 5.0, 10.0)
    assert fault.types == (ErrorType.RATE_LIMIT, ErrorType.OVERLOADED)
    for text in ("", "slow:factor", "slow:factor=x", "error:types=nothing", "refuse"):
        with pytest.raises(ConfigError, match="is no fault"):
            parse_fault(text)
