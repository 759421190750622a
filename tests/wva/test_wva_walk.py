"""The controller's HTTP interface, asked by its own OpenAPI document over a socket."""

from __future__ import annotations

from pathlib import Path

from tests.api_walk import served, walk
from tests.wva.fake_platform import FakePlatform, serving
from tests.wva.test_wva_loop import CAREFUL, Rig
from tests.wva.wva_builders import spec
from wva.app import make_app
from wva.operator import FileKeeper


def test_the_controller_keeps_to_its_document(tmp_path: Path) -> None:
    with serving(FakePlatform(spec("a", max_replicas=4, **CAREFUL))) as platform:
        rig = Rig(platform, tmp_path, keeper=FileKeeper(tmp_path / "overrides.json"))
        app = make_app(rig.loop, rig.clock, token="secret")
        with served(app) as url:
            starting = walk(app.openapi(), url, headers={"Authorization": "Bearer secret"})
            rig.passes(1)
            seen = walk(app.openapi(), url, headers={"Authorization": "Bearer secret"})
            closed = walk(app.openapi(), url)
        rig.loop.stop()
    assert starting["GET /healthz"] == {503}
    assert seen["GET /healthz"] == seen["GET /readyz"] == {200}
    assert seen["PUT /dry-run"] >= {200, 422}
    assert seen["PUT /overrides/{namespace}/{name}"] >= {404, 422}
    assert 401 in closed["PUT /dry-run"]
    assert 200 not in closed["PUT /dry-run"] | closed["PUT /overrides/{namespace}/{name}"]
