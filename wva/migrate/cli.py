"""``fleet wva migrate``: reads files, writes manifests, says what was lost."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click
import yaml

from fleet.errors import ConfigError
from wva.kube.crd import KIND
from wva.migrate.convert import Migration
from wva.migrate.convert import migrate as converted
from wva.migrate.documents import Object, objects
from wva.migrate.report import lines, summary

HEAD = "# Written by fleet wva migrate: read it, and what it said on stderr, before you apply it.\n"
SUFFIXES = (".yaml", ".yml", ".json")


@click.command(short_help="Turn upstream WVA's or KEDA's objects into ours.")
@click.option("-f", "--file", "files", multiple=True, required=True, help="File or folder of manifests; - is stdin.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the manifests here, not on stdout.")
@click.option("--values", type=click.Path(dir_okay=False, path_type=Path), help="Write Helm values of our chart here.")
@click.option("--report", type=click.Path(dir_okay=False, path_type=Path), help="Write the whole report as JSON here.")
@click.option("--scaler", type=click.Choice(["keep", "hpa"]), default="keep", show_default=True,
              help="hpa: an HPA on our external metric in place of each ScaledObject.")  # fmt: skip
@click.option("--only", type=click.Choice(["all", "variants", "scalers"]), default="all", show_default=True,
              help="What to write: variants alone change nothing that runs.")  # fmt: skip
@click.option("--model", "models", multiple=True, metavar="WORKLOAD=MODEL", help="Where no object says the model.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: manifests, settings, report.")
def migrate(
    *, files: tuple[str, ...], out: Path | None, values: Path | None, report: Path | None, scaler: str,
    only: str, models: tuple[str, ...], as_json: bool,
) -> None:  # fmt: skip
    """Turn upstream WVA's objects (0.5 to 0.9), or KEDA alone, into ours; docs/migration.md has the steps.

    Nothing is applied. What changes and what is lost is said on stderr, object by object and field by field.

    \b
    Examples:
      kubectl get va,hpa,scaledobject,configmap,deployment -A -o yaml | fleet wva migrate -f - > ours.yaml
      fleet wva migrate -f old/ --out ours.yaml --values values.yaml --report report.json
      fleet wva migrate -f keda.yaml --scaler hpa --model llama-8b=meta-llama/Llama-3.1-8B-Instruct
    """
    found = converted(list(_read(files)), models=_models(models), scaler=scaler)
    manifests = [one for one in found.manifests if only == "all" or (one["kind"] == KIND) == (only == "variants")]
    entries = found.notes.entries
    for line in lines(entries):
        click.echo(line, err=True)
    click.echo(summary(entries, read=found.read, written=found.written()), err=True)
    if as_json:
        text = json.dumps({"manifests": manifests, "settings": found.settings, "report": found.notes.document()})
    else:
        text = HEAD + "---\n".join(yaml.safe_dump(one, sort_keys=False, width=120) for one in manifests)
    if out is None:
        click.echo(text, nl=as_json)
    else:
        _write(out, text, "--out")
    if values:
        _write(values, yaml.safe_dump(chart_values(found), sort_keys=False), "--values")
    if report:
        _write(report, json.dumps(found.notes.document(), indent=2) + "\n", "--report")


def chart_values(found: Migration) -> dict[str, Any]:
    """Values of our chart that say what upstream's settings said; a dry run at first."""
    settings = dict(found.settings)
    settings.pop("WVA_SOURCE", None)
    url = settings.pop("WVA_PROMETHEUS_URL", None)
    limit = settings.pop("WVA_GPU_LIMIT", None)
    wva = {"dryRun": True, **({"gpuLimit": limit} if limit else {}), "settings": settings}
    return {**({"prometheus": {"url": url}} if url else {}), "wva": wva}


def _read(files: Iterable[str]) -> Iterator[Object]:
    for name in files:
        if name == "-":
            yield from objects(_decoded(sys.stdin.buffer.read(), "stdin"), where="stdin")
            continue
        path = Path(name)
        for each in _in(path):
            try:
                raw = each.read_bytes()
            except OSError as error:
                raise ConfigError(f"cannot be read: {error.strerror}", where=str(each),
                                  next_step="Check the path.") from None  # fmt: skip
            yield from objects(_decoded(raw, str(each)), where=str(each))


def _in(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(each for each in path.rglob("*") if each.suffix in SUFFIXES and each.is_file())
    if not found:
        raise ConfigError("holds no manifest", where=str(path), limit=", ".join(SUFFIXES), next_step="Check the path.")
    return found


def _decoded(raw: bytes, where: str) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError("is not UTF-8 text", where=where, next_step="Give manifests.") from None


def _models(given: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for text in given:
        workload, equals, model = text.partition("=")
        if not (workload and equals and model):
            raise ConfigError(f"--model {text}", limit="WORKLOAD=MODEL", next_step="Write llama-h100=Llama-3.1-8B.")
        found[workload] = model
    return found


def _write(path: Path, text: str, option: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot be written: {error.strerror}", where=f"{option} {path}",
                          next_step="Choose another path.") from None  # fmt: skip
