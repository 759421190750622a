"""The prior of a variant's law: calibrated, taught by requests, or estimated; and who brings it."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from fleet.errors import ConfigError, SourceError
from fleet.history import History
from fleet.settings import FleetSettings
from fleet.types import FittedLaw
from tests.wva.slo_fleet import SPEC, START, ToyFleet
from wva import snapshot_file
from wva.build import build_laws
from wva.collect import Collector
from wva.laws import PredictorLaws
from wva.loop import ControlLoop
from wva.settings import WvaSettings
from wva.slo import forecast, prior
from wva.slo.mix import Mix, cost
from wva.types import Policy, WvaState

UNKNOWN = replace(SPEC, model="nobody-knows", accelerator="nobody-knows")
TRUE = FittedLaw(
    step_s=0.0148, request_s=3e-4, context_token_s=3.3e-8, prompt_token_s=5e-5, prompt_square_s=0.0,
    uncached_tokens=4000.0, output_tokens=1000.0, rows=500, error=0.2, in_flight_most=60.0, fitted_at_s=START,
)  # fmt: skip
"""What the toy engines are."""
TOLD = {SPEC.name: TRUE}


def input_of(fleet: ToyFleet, name: str) -> float:
    value = fleet.last.signals[name] if fleet.last else None
    assert value is not None
    return value


# ---- which one


@pytest.mark.parametrize(("changes", "stands"), [
    pytest.param({}, True, id="a law with all it takes"),
    pytest.param({"rows": 99}, False, id="too few requests"),
    pytest.param({"error": 0.41}, False, id="too large an error"),
    pytest.param({"error": math.nan}, False, id="an error that is no number"),
    pytest.param({"fitted_at_s": START - 90_000.0}, False, id="older than a day"),
    pytest.param({"fitted_at_s": START + 90_000.0}, False, id="from the future"),
    pytest.param({"step_s": 0.0}, False, id="steps that take no time"),
    pytest.param({"prompt_token_s": math.inf}, False, id="prompts without end"),
    pytest.param({"request_s": -1e-3}, False, id="a negative coefficient")])  # fmt: skip
def test_a_law_is_believed_or_changes_nothing(changes: Mapping[str, Any], stands: bool) -> None:
    told = replace(TRUE, **changes)
    assert prior.believed(told, START) is stands
    plain, taught = ToyFleet(spec=UNKNOWN), ToyFleet(spec=UNKNOWN, fitted={SPEC.name: told})
    same = plain.run(300, 2.0) == taught.run(300, 2.0)
    assert same is not stands
    assert input_of(taught, "prior_fitted") == float(stands)


def test_calibrated_coefficients_come_first() -> None:
    plain, taught = ToyFleet(), ToyFleet(fitted=TOLD)
    assert plain.run(600, 4.0) == taught.run(600, 4.0)
    assert (input_of(taught, "prior_calibrated"), input_of(taught, "prior_fitted")) == (1.0, 0.0)


def test_what_requests_taught_is_right_from_the_first_pass() -> None:
    """An estimate for an unknown model and GPU is several times off; the law is not, and says whose it is."""
    taught, plain = ToyFleet(spec=UNKNOWN, fitted=TOLD), ToyFleet(spec=UNKNOWN)
    for fleet in (taught, plain):
        fleet.run(30, 2.0)
    assert input_of(taught, "lone_s") == pytest.approx(15.0, rel=0.25)
    assert input_of(plain, "lone_s") < 0.6 * 15.0
    assert input_of(taught, "law_error") < 0.5 < input_of(plain, "law_error")
    assert input_of(taught, "prior_fitted_rows") == 500


def test_a_law_counts_prompts_once() -> None:
    """Each running request was seen to bring its prompt along; that part is taken out of the decoding."""
    own = cost(UNKNOWN, Mix(prompt=4000.0, output=1000.0), TRUE)
    assert own.prefill_s == pytest.approx(0.2)
    assert own.work_s == pytest.approx(0.2 + 0.1 + 1000 * 3.3e-8 * 4500, rel=0.01)
    assert own.lone_s == pytest.approx(0.2 + 14.8 + 0.1 + 1000 * 3.3e-8 * 4500, rel=0.01)
    assert own.reach == 120.0


# ---- over time


def test_a_law_that_comes_later_changes_no_demand_and_no_forecast() -> None:
    """Demand is remembered in work of the reference variant, and its unit changes with the prior."""
    fleet = ToyFleet(spec=UNKNOWN, replicas=4)
    fleet.run(1800, 4.0)
    fleet.fitted = TOLD
    fleet.run(15, 4.0)
    assert input_of(fleet, "prior_fitted") == 1.0
    for name in ("demand_rps", "forecast_rps", "forecast_p90_rps"):
        assert input_of(fleet, name) == pytest.approx(4.0, rel=0.15), name
    tallied = [one.column for group in fleet.state.groups.values() for one in group.variants[SPEC.name].tallies]
    assert tallied, "misses that were seen are kept"


def test_a_predictor_that_falls_silent_moves_no_replica() -> None:
    fleet, twin = (ToyFleet(spec=UNKNOWN, replicas=4, fitted=TOLD) for _ in range(2))
    assert fleet.run(600, 4.0) == twin.run(600, 4.0)
    fleet.fitted = {}
    fleet.state = snapshot_file.parse(WvaState, snapshot_file.to_json(fleet.state), where="test")
    assert [each.desired for each in fleet.run(600, 4.0)] == [each.desired for each in twin.run(600, 4.0)]
    assert input_of(fleet, "prior_fitted") == 1.0


@pytest.mark.parametrize(("changes", "rows"), [
    pytest.param({"rows": 1999, "in_flight_most": 89.0}, 500, id="not much more"),
    pytest.param({"rows": 2000}, 2000, id="four times the requests"),
    pytest.param({"rows": 501, "in_flight_most": 90.0}, 501, id="half as high a load again"),
    pytest.param({"rows": 501, "fitted_at_s": START + 86_400.0}, 501, id="a day later")])  # fmt: skip
def test_another_fit_takes_over_when_more_stands_behind_it(changes: dict[str, Any], rows: int) -> None:
    fleet = ToyFleet(spec=UNKNOWN, fitted=TOLD)
    fleet.run(60, 2.0)
    fleet.fitted = {SPEC.name: replace(TRUE, **changes)}
    fleet.run(60, 2.0)
    assert input_of(fleet, "prior_fitted_rows") == rows


def test_a_forecast_survives_another_unit() -> None:
    memory = forecast.Memory()
    for index in range(60):
        _, memory = forecast.step(memory, 2.0 + 0.02 * index, now_s=30.0 * index, horizon_s=120.0)
    again, _ = forecast.step(forecast.in_units(memory, 3.0), 3 * 3.2, now_s=1800.0, horizon_s=120.0)
    plain, _ = forecast.step(memory, 3.2, now_s=1800.0, horizon_s=120.0)
    assert again.method == plain.method
    assert again.parts == pytest.approx([3 * part for part in plain.parts])


# ---- who brings it


class Nothing:
    """A platform of one variant, and a source without readings."""

    name, can_scale = "nothing", False

    def variants(self) -> Any:
        return ()

    def read(self, replicas: Any, *, now_s: float) -> Any:
        return {}


def test_the_last_laws_stay_when_the_predictor_cannot_be_read() -> None:
    answers: list[dict[str, FittedLaw] | None] = [TOLD, None]

    def read() -> dict[str, FittedLaw]:
        if (answer := answers.pop(0)) is None:
            raise SourceError("no model: it is down", where="predictor")
        return answer

    collector = Collector(Nothing(), Nothing(), laws=read)  # type: ignore[arg-type]
    snapshot, problems = collector.collect(START)
    assert (snapshot.fitted, problems) == (TOLD, ())
    snapshot, (problem,) = collector.collect(START + 15)
    assert (snapshot.fitted, problem.component) == (TOLD, "predictor")


def test_a_dead_predictor_is_one_line_and_its_return_another(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """However many passes meet it; each of them counts it."""
    clock = [0.0]
    server = ThreadingHTTPServer(("127.0.0.1", 0), Cold)
    url = f"http://127.0.0.1:{server.server_port}"
    server.server_close()
    laws = PredictorLaws(tmp_path / "m.json", url=url, clock=lambda: clock[0])
    history = History(f"sqlite:///{tmp_path / 'history.sqlite3'}")
    loop = ControlLoop(Collector(Nothing(), Nothing(), laws=laws), Nothing(), history,  # type: ignore[arg-type]
                       policy=Policy(), state_file=tmp_path / "state.json", clock=lambda: START + clock[0])  # fmt: skip
    registry = loop.metrics.registry

    def run(passes: int) -> list[str]:
        caplog.clear()
        for _ in range(passes):
            loop.run_once()
            clock[0] += 31.0
        return [record.getMessage() for record in caplog.records if "predictor" in record.getMessage()]

    with caplog.at_level("INFO"):
        (line,) = run(5)
        assert url in line and "Start fleet predictor serve there" in line
        counted = registry.get_sample_value("wva_errors_total", {"component": "predictor", "error_type": "SourceError"})
        assert counted == 5
        server = ThreadingHTTPServer(server.server_address, Cold)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            assert run(3) == [f"predictor: {url} gives its model again"]
        finally:
            server.shutdown()
            server.server_close()
    loop.stop()


class Cold(BaseHTTPRequestHandler):
    """A predictor without a model yet."""

    def do_GET(self) -> None:
        self.send_response(503)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_args: Any) -> None:
        return


def test_only_the_analyzer_that_starts_from_it_reads_the_model(tmp_path: Any) -> None:
    fleet = FleetSettings(home=tmp_path)
    assert build_laws(WvaSettings(), fleet) is None
    reader = build_laws(WvaSettings(analyzer="slo"), fleet)
    assert reader is not None and reader() == {}
    with pytest.raises(ConfigError, match="WVA_PREDICTOR_URL"):
        build_laws(WvaSettings(analyzer="slo", predictor_url="predictor"), fleet)


def test_a_snapshot_with_laws_is_json() -> None:
    fleet = ToyFleet(fitted=TOLD)
    seen = fleet.snapshot()
    assert snapshot_file.parse(type(seen), snapshot_file.to_json(seen), where="test").fitted == TOLD
