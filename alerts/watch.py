"""``fleet alerts watch``: scrape, evaluate, write events, show what fires. For a machine without a Prometheus."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import time
from collections.abc import Mapping
from typing import Any, Final

import aiohttp
from aiohttp import web

from alerts.evaluate import Change, Evaluator, Instance, model_of
from alerts.ingest import Ingest, Target
from alerts.model import Links
from alerts.store import SeriesStore
from alerts.targets import Targets
from alerts.text import as_text
from fleet import signals as s
from fleet.history import Event, HistoryWriter
from fleet.sources.exposition import Point, parse

log = logging.getLogger(__name__)


GRACE_S: Final = 60.0
"""A part that starts with us may take so long to answer before it counts as down."""


class Watcher:
    """One loop: scrape all pages, evaluate all rules, tell the history what changed.

    Args:
        targets: what to scrape.
        evaluator: the rules.
        writer: takes events; ``None`` keeps no history.
        links: where annotations point.
        timeout_s: of one scrape.
    """

    def __init__(self, targets: Targets, evaluator: Evaluator, writer: HistoryWriter | None, links: Links, *,
                 timeout_s: float) -> None:  # fmt: skip
        self.evaluator, self._links, self._writer, self._targets = evaluator, links, writer, targets
        self._store, self._timeout = SeriesStore(), aiohttp.ClientTimeout(total=timeout_s)
        self._ingest = Ingest(self._store)
        self._keep = evaluator.wanted()
        self._spells: dict[tuple[str, str], int] = {}
        """(alert, model) -> instances that fire: one spell in the history, however many pods it concerns."""
        self.evaluated_at_s: float | None = None
        self._started_s = time.time()
        self._met: set[str] = set()
        """Pages that have answered once."""

    async def tick(self, session: aiohttp.ClientSession) -> None:
        """One round."""
        targets = await self._targets.current()
        pages = await asyncio.gather(*(self._scrape(session, target) for target in targets))
        now_s = time.time()
        for target, points in zip(targets, pages, strict=True):
            if points is not None:
                self._met.add(target.url)
            if target.url in self._met or now_s - self._started_s > GRACE_S:
                self._ingest.scraped(target, points, now_s)
        self._ingest.forget_all_but({target.url for target in targets}, now_s)
        for change in self.evaluator.step(self._store, now_s):
            self._changed(change, now_s)
        self._store.prune(now_s, self._keep)
        self.evaluated_at_s = now_s

    async def _scrape(self, session: aiohttp.ClientSession, target: Target) -> list[Point] | None:
        try:
            async with session.get(f"{target.url}/metrics", timeout=self._timeout) as response:
                response.raise_for_status()
                return list(parse(await response.text(), self._keep))
        except (aiohttp.ClientError, TimeoutError, UnicodeDecodeError) as error:
            log.debug("%s does not answer: %r", target.url, error)
            return None

    def _changed(self, change: Change, now_s: float) -> None:
        instance = change.instance
        spell = (instance.alert.name, model_of(dict(instance.labels)))
        before = self._spells.get(spell, 0)
        after = self._spells[spell] = before + (1 if change.firing else -1)
        log.info("%s %s %s", instance.alert.name, "fires" if change.firing else "is over", dict(instance.labels))
        if self._writer is not None and 0 in (before, after):
            self._writer.put(self._event(instance, now_s, firing=change.firing))

    def _event(self, instance: Instance, now_s: float, *, firing: bool) -> Event:
        labels, alert = dict(instance.labels), instance.alert
        summary = as_text(alert.summary, labels, instance.value)
        return Event(
            at_s=now_s, kind="alert", subject=alert.name, severity=alert.severity if firing else "info",
            message=summary if firing else f"resolved: {summary}",
            data={"state": "firing" if firing else "resolved", "labels": labels, "value": _finite(instance.value),
                  "since_s": instance.since_s, "model": model_of(labels), "layer": int(alert.layer),
                  "description": as_text(alert.description, labels, instance.value),
                  "runbook": self._links.runbook(alert)},
        )  # fmt: skip

    def document(self) -> dict[str, Any]:
        """What ``/alerts`` answers."""
        scale = self.evaluator.scale
        note = "" if scale == 1 else f"windows and waits are compressed to {scale:g} of their production length"
        return {
            "evaluated_at_s": self.evaluated_at_s, "for_scale": scale, "note": note,
            "evaluated": self.evaluator.evaluated, "not_evaluated": self.evaluator.left_out,
            "errors": self.evaluator.errors, "samples_held": len(self._store),
            "alerts": [self._instance(instance) for instance in self.evaluator.active()],
        }  # fmt: skip

    def _instance(self, instance: Instance) -> dict[str, Any]:
        labels, alert = dict(instance.labels), instance.alert
        texts = {"summary": alert.summary, "description": alert.description, "console": self._links.page(alert)}
        return {
            "alert": alert.name, "state": instance.state.value, "severity": alert.severity.value,
            "layer": int(alert.layer), "labels": labels, "value": _finite(instance.value),
            "since_s": instance.since_s, "fired_s": instance.fired_s, "runbook_url": self._links.runbook(alert),
            **{name: as_text(text, labels, instance.value) for name, text in texts.items()},
        }  # fmt: skip

    def metrics(self) -> str:
        """What ``/metrics`` answers: the ``ALERTS`` series, as a Prometheus would have it."""
        lines = [f"# HELP {s.ALERTS_STATE.name} {s.ALERTS_STATE.meaning}", f"# TYPE {s.ALERTS_STATE.name} gauge"]
        for instance in self.evaluator.active():
            own = {"alertname": instance.alert.name, "alertstate": instance.state.value}
            lines.append(f"{s.ALERTS_STATE.name}{_label_text(dict(instance.labels) | own)} 1.0")
        return "\n".join(lines) + "\n"


def _finite(value: float) -> float | None:
    return value if abs(value) < float("inf") else None


def _label_text(labels: Mapping[str, str]) -> str:
    def escaped(value: str) -> str:
        return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

    return "{" + ",".join(f'{name}="{escaped(value)}"' for name, value in sorted(labels.items())) + "}"


def application(watcher: Watcher) -> web.Application:
    """``/healthz``, ``/metrics`` and ``/alerts``."""

    async def healthz(_request: web.Request) -> web.Response:
        ready = watcher.evaluated_at_s is not None
        return web.json_response({"status": "ok" if ready else "starting"}, status=200 if ready else 503)

    async def metrics(_request: web.Request) -> web.Response:
        return web.Response(text=watcher.metrics(), content_type="text/plain")

    async def alerts(_request: web.Request) -> web.Response:
        return web.json_response(watcher.document())

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/metrics", metrics), web.get("/alerts", alerts)])
    return app


async def run(watcher: Watcher, sock: socket.socket, *, interval_s: float) -> None:
    """Serve and watch until SIGTERM or SIGINT."""
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    runner = web.AppRunner(application(watcher), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    await web.SockSite(runner, sock).start()
    async with aiohttp.ClientSession() as session:
        loop = asyncio.ensure_future(_rounds(watcher, session, interval_s))
        stop = asyncio.ensure_future(stopped.wait())
        await asyncio.wait({loop, stop}, return_when=asyncio.FIRST_COMPLETED)
        if loop.done():
            loop.result()  # it never ends by itself: raises what ended it
        loop.cancel()
    await runner.cleanup()


async def _rounds(watcher: Watcher, session: aiohttp.ClientSession, interval_s: float) -> None:
    while True:
        started_s = time.monotonic()
        await watcher.tick(session)
        await asyncio.sleep(max(0.0, interval_s - (time.monotonic() - started_s)))
