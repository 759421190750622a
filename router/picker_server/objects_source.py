"""Where InferenceObjective and InferenceModelRewrite come from: files, or a Kubernetes cluster."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import yaml

from fleet.errors import ConfigError, FleetError
from router.discovery.file import stamp
from router.picker_server.objects import GROUPS, Objects, parse
from router.picker_server.rewrite import Names

log = logging.getLogger(__name__)


class Source(Protocol):
    """Gives manifests as they are now."""

    def read(self) -> Objects | None:
        """What they say; ``None``: nothing has changed.

        Raises: FleetError.
        """


class Files:
    """A YAML file, or all of a folder."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamps: object = None

    def read(self) -> Objects | None:
        """See :class:`Source`."""
        paths = sorted(self._path.glob("*.y*ml")) if self._path.is_dir() else [self._path]
        stamps = [stamp(path) for path in paths]
        if stamps == self._stamps:
            return None
        documents: list[Any] = []
        for path in paths:
            try:
                documents += yaml.safe_load_all(path.read_text(encoding="utf-8"))
            except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
                raise ConfigError(f"manifests cannot be read: {error}", where=str(path),
                                  next_step="Check the path and the YAML.") from error  # fmt: skip
        found = parse(documents, where=str(self._path))
        self._stamps = stamps
        return found


class Cluster:
    """A namespace's objects for one pool, by list and watch. Needs the ``kube`` extra."""

    def __init__(self, api: Any, namespace: str, pool: str) -> None:
        from fleet.kube.api import Resource  # noqa: PLC0415 - an optional package
        from fleet.kube.reflector import Reflector  # noqa: PLC0415 - an optional package

        self._pool, self._kinds = pool, ("InferenceObjective", "InferenceModelRewrite")
        self._reflectors: Sequence[Any] = [
            Reflector(api, Resource(group=GROUPS[0], version="v1alpha2", plural=plural), namespace=namespace)
            for plural in ("inferenceobjectives", "inferencemodelrewrites")
        ]
        for one in self._reflectors:
            one.start()

    def read(self) -> Objects | None:
        """See :class:`Source`."""
        documents = []
        for kind, one in zip(self._kinds, self._reflectors, strict=True):
            if one.followed():  # a list from the API leaves out what each item is
                documents += [{"apiVersion": f"{GROUPS[0]}/v1alpha2", "kind": kind, **item} for item in one.items()]
        return parse(documents, pool=self._pool, where="cluster")


def source(text: str) -> Source:
    """The source that ``text`` names: a path, or ``kube://NAMESPACE/POOL``.

    Raises: ConfigError.
    """
    if not text.startswith("kube://"):
        return Files(Path(text))
    parts = urlsplit(text)
    pool = parts.path.strip("/")
    if not parts.hostname or not pool:
        raise ConfigError(f"{text!r} names no pool", where="--objects", limit="kube://NAMESPACE/POOL",
                          next_step="Name both.")  # fmt: skip
    try:
        from fleet.kube.api import connect  # noqa: PLC0415 - an optional package
    except ImportError:
        raise ConfigError("reading from Kubernetes needs the package kubernetes", where="--objects",
                          next_step="pip install 'llm-fleet[kube]'.") from None  # fmt: skip
    return Cluster(connect(), parts.hostname, pool)


class Watch:
    """Keeps names and priorities in step with their source; what cannot be read leaves them as they were, said once."""

    def __init__(self, where: Source, names: Names, prioritise: Callable[[Mapping[str, int]], None]) -> None:
        self._source, self._names, self._prioritise = where, names, prioritise
        self.error = ""

    def look(self) -> None:
        """Look once.

        Raises: nothing; see :attr:`error`.
        """
        try:
            found = self._source.read()
        except FleetError as error:
            if str(error) != self.error:
                log.warning("%s", error)
            self.error = str(error)
            return
        self.error = ""
        if found is not None:
            self._names.rules = found.rules
            self._prioritise(found.priorities or {})
