"""An operator's overrides in an annotation of the Lease: whoever leads next knows them, with the rights it has."""

from __future__ import annotations

from typing import Final

from fleet.errors import ConfigError
from fleet.kube.api import LEASES, KubeApi, KubeError
from wva import snapshot_file
from wva.operator import KeptError
from wva.overrides import Overrides

ANNOTATION: Final = "llmd.ai/wva-overrides"
TRIES: Final = 5
"""Of a write that a renewal of the lease comes before."""


class LeaseKeeper:
    """See :class:`wva.operator.Keeper`; any controller of the lease may write, each reads before it decides.

    Args:
        api: the cluster.
        namespace: of the lease.
        name: of the lease.
    """

    shared = True

    def __init__(self, api: KubeApi, *, namespace: str, name: str) -> None:
        self._api, self._path = api, LEASES.path(namespace, name)
        self.where = f"lease {namespace}/{name}"

    def read(self) -> Overrides:
        """See :class:`wva.operator.Keeper`."""
        try:
            lease = self._api.get(self._path)
        except KubeError as error:
            if error.status == 404:
                return Overrides()  # nobody has led yet
            raise
        text = (lease["metadata"].get("annotations") or {}).get(ANNOTATION)
        if not text:
            return Overrides()
        try:
            return snapshot_file.parse(Overrides, text.encode(), where=self.where)
        except ConfigError as error:
            raise ConfigError(f"the operator's overrides cannot be read: {error.what}", where=self.where,
                              next_step=f"Mend the annotation {ANNOTATION}, or remove it.") from None  # fmt: skip

    def write(self, overrides: Overrides) -> None:
        """See :class:`wva.operator.Keeper`."""
        for left in reversed(range(TRIES)):
            try:
                lease = self._api.get(self._path)
                notes = lease["metadata"].setdefault("annotations", {})
                notes[ANNOTATION] = snapshot_file.to_json(overrides).decode()
                self._api.replace(self._path, lease)
            except KubeError as error:
                if not error.conflict or not left:
                    raise KeptError(f"not kept: {error.what}", where=self.where, next_step=error.next_step) from None
            else:
                return
