"""A small quantile network on what the law leaves over: the optional ``torch`` extra, for comparison.

Same frame as the boosted part: the law's prediction times a factor. The network gives the 5, 50, 90 and 95 % quantiles
of the log ratio from the logarithms of the features; pinball loss, full batch. ``evaluate --torch`` puts it beside the
others; it is not served.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fleet.errors import ConfigError
from predictor.baselines import Band
from predictor.fit import fit_model
from predictor.model import TARGETS, LatencyModel
from predictor.samples import Dataset
from predictor.trial import of

Array = NDArray[np.float64]
LEVELS: Final = (0.05, 0.5, 0.9, 0.95)
_HIDDEN, _STEPS, _RATE = 32, 400, 0.01


@dataclass(frozen=True, slots=True)
class QuantileNet:
    """The law and a network a target, as functions from feature rows to log factors (n, 4)."""

    model: LatencyModel
    networks: dict[str, Callable[[Array], Array]]

    def point(self, rows: Dataset, target: str) -> Array:
        """See :class:`predictor.baselines.Fitted`."""
        return self._at(rows, target, 0.5)

    def band(self, rows: Dataset, target: str) -> Band | None:
        """See :class:`predictor.baselines.Fitted`."""
        return self._at(rows, target, 0.05), self._at(rows, target, 0.95)

    def upper(self, rows: Dataset, target: str) -> Array | None:
        """See :class:`predictor.baselines.Fitted`."""
        return self._at(rows, target, 0.9)

    def _at(self, rows: Dataset, target: str, level: float) -> Array:
        law = of(self.model.predict_for(rows.matrix, rows.endpoints, rows.variants), target)
        return np.asarray(law * np.exp(self.networks[target](rows.matrix)[:, LEVELS.index(level)]))


def quantile_net(rows: Dataset) -> QuantileNet:
    """Fit the law, then the networks.

    Raises: ConfigError where torch is not installed.
    """
    try:
        import torch  # noqa: PLC0415 - an optional extra
    except ImportError:
        raise ConfigError("torch is not installed", where="quantile network",
                          next_step="pip install 'llm-fleet[torch]'.") from None  # fmt: skip
    torch.manual_seed(0)
    model = fit_model(rows, now_s=0.0)
    law = model.predict_for(rows.matrix, rows.endpoints, rows.variants)
    networks = {}
    for target in TARGETS:
        seen = rows.observed(target)
        left = np.log(rows.target(target)[seen] / of(law, target)[seen])
        networks[target] = _network(torch, rows.matrix[seen], left)
    return QuantileNet(model, networks)


def _network(torch: Any, matrix: Array, left: Array) -> Callable[[Array], Array]:
    logs = np.log1p(matrix)
    mean, spread = logs.mean(axis=0), logs.std(axis=0) + 1e-6
    levels = torch.tensor(LEVELS, dtype=torch.float32)
    net = torch.nn.Sequential(torch.nn.Linear(matrix.shape[1], _HIDDEN), torch.nn.Tanh(),
                              torch.nn.Linear(_HIDDEN, len(LEVELS)))  # fmt: skip
    x = torch.tensor((logs - mean) / spread, dtype=torch.float32)
    y = torch.tensor(left, dtype=torch.float32)[:, None]
    optimiser = torch.optim.Adam(net.parameters(), lr=_RATE, weight_decay=1e-4)
    for _ in range(_STEPS):
        short = y - net(x)
        loss = torch.maximum(levels * short, (levels - 1.0) * short).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    def factors(rows: Array) -> Array:
        with torch.no_grad():
            found = net(torch.tensor((np.log1p(rows) - mean) / spread, dtype=torch.float32)).numpy()
        return np.asarray(np.maximum.accumulate(found.astype(np.float64), axis=1))

    return factors
