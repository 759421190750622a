"""LoRA adapters of one engine: slots on the GPU, a cache in the host's memory, time to load. Pure."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraConfig:
    """Room for adapters; ``max_loras`` 0 serves none."""

    max_loras: int = 0
    """Adapters in one batch, and on the GPU (vLLM's ``--max-loras``)."""
    max_cpu_loras: int = 0
    """Adapters in host memory, those on the GPU included; less than ``max_loras`` counts as that many (vLLM)."""
    load_s: float = 0.5
    """From disk to the GPU; the step waits for it, as in vLLM. An assumption: about 100 MB from a local disk."""
    swap_s: float = 0.01
    """From host memory to the GPU. An assumption: 100 MB over PCIe, and slicing."""


class AdapterSlots:
    """Which adapters are where, the least recently used ones making room."""

    __slots__ = ("_config", "_host", "_resident", "_users")

    def __init__(self, config: LoraConfig) -> None:
        """Nothing loaded."""
        self._config = config
        self._users: dict[str, int] = {}
        self._resident: OrderedDict[str, None] = OrderedDict()
        self._host: OrderedDict[str, None] = OrderedDict()

    @property
    def running(self) -> frozenset[str]:
        """Adapters of sequences in the batch."""
        return frozenset(self._users)

    @property
    def resident(self) -> frozenset[str]:
        """Adapters on the GPU."""
        return frozenset(self._resident)

    def may_run(self, name: str) -> bool:
        """Whether a sequence with that adapter may join the batch."""
        return name in self._users or len(self._users) < self._config.max_loras

    def enter(self, name: str) -> float:
        """A sequence with that adapter joins, which :meth:`may_run`; the seconds that loading it takes."""
        self._users[name] = self._users.get(name, 0) + 1
        if name in self._resident:
            self._resident.move_to_end(name)
            return 0.0
        return self._bring(name)

    def leave(self, name: str) -> None:
        """A sequence with that adapter leaves the batch."""
        self._users[name] -= 1
        if not self._users[name]:
            del self._users[name]

    def preload(self, name: str) -> None:
        """Bring an adapter into host memory before anybody asks for it (the load endpoint)."""
        self._keep(name)

    def drop(self, name: str) -> None:
        """Forget an adapter (the unload endpoint); sequences that use it go on."""
        self._host.pop(name, None)
        if name not in self._users:
            self._resident.pop(name, None)

    def clear(self) -> None:
        """Forget everything: the process has ended."""
        self._users.clear()
        self._resident.clear()
        self._host.clear()

    def _bring(self, name: str) -> float:
        while len(self._resident) >= self._config.max_loras:
            oldest = next(one for one in self._resident if one not in self._users)
            del self._resident[oldest]
        self._resident[name] = None
        return self._config.swap_s if self._keep(name) else self._config.load_s

    def _keep(self, name: str) -> bool:
        """Put it into host memory; whether it was there."""
        was = name in self._host
        self._host[name] = None
        self._host.move_to_end(name)
        while len(self._host) > max(self._config.max_cpu_loras, self._config.max_loras):
            self._host.popitem(last=False)
        return was
