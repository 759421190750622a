"""``docs/migration.md``: its commands exist, its scrape configuration is one, and a trial writes nothing."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import yaml

from fleet.history import History
from fleet.signals import WVA_DESIRED
from tests.fake_kubernetes import serving
from tests.waiting import until
from tests.wva.kube.kube_cluster import Load, add_deployment, add_variant, api_of
from wva.cli import wva
from wva.collect import Collector
from wva.kube.parts import KubeParts
from wva.loop import ControlLoop
from wva.settings import WvaSettings
from wva.types import Policy

PAGE = (Path(__file__).parents[3] / "docs" / "migration.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_its_options_are_those_of_the_command() -> None:
    known = {option for parameter in wva.commands["migrate"].params for option in parameter.opts}
    used = [word for block in blocks("sh") for line in block.replace("\\\n", " ").splitlines()
            if "wva migrate" in line for word in line.partition("wva migrate")[2].partition("|")[0].split()
            if word.startswith("-")]  # fmt: skip
    assert used
    assert set(used) - {"-"} <= known


def test_prometheus_takes_its_scrape_configuration(promtool_binary: str, tmp_path: Path) -> None:
    (block,) = blocks("yaml")
    (tmp_path / "prometheus.yml").write_text(block)
    done = subprocess.run([promtool_binary, "check", "config", tmp_path / "prometheus.yml"], check=False,
                          capture_output=True, text=True, timeout=170)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (rule,) = yaml.safe_load(block)["scrape_configs"][0]["metric_relabel_configs"]
    renamed = re.sub(rule["regex"], rule["replacement"].replace("$1", r"\1"), WVA_DESIRED.name)
    assert renamed in PAGE


def test_a_trial_leads_and_decides_and_writes_nothing_else(tmp_path: Path) -> None:
    with serving() as fake:
        add_deployment(fake, "a", 1)
        add_variant(fake, "a")
        parts = KubeParts(WvaSettings(kube=True, namespace="default", write_status=False), api_of(fake), identity="one")
        load = Load()
        loop = ControlLoop(Collector(parts.platform, load), parts.platform, History(f"sqlite:///{tmp_path}/h.sqlite3"),
                           policy=Policy(), state_file=tmp_path / "state.json", leads=parts.elector.leads)  # fmt: skip
        try:
            parts.start(loop)
            until(parts.platform.synced)
            found = loop.run_once()
            assert found is not None
            assert [one.variant for one in found.decisions] == ["a"]
        finally:
            loop.stop()
            parts.stop()
        written = {path.split("/")[-2] for method, path in fake.requests if method != "GET"}
        assert written <= {"leases", "default"}, "its lease, created in the namespace default and renewed"
        assert "status" not in fake.get("variantautoscalings", "a")
