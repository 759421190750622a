"""The model inside another process (the router): follows the artifact, predicts without leaving the process."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from predictor import artifact
from predictor.features import WIDTH
from predictor.model import Array, LatencyModel, LatencyPrediction

log = logging.getLogger(__name__)


class Watcher:
    """The newest model in ``path``; looks (one ``stat``) at most once every ``check_s`` seconds.

    A file that is refused is logged once and leaves the old model in place. Not thread-safe: one an event loop.
    """

    def __init__(self, path: Path, *, check_s: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.path, self._check_s, self._clock = path, check_s, clock
        self._next_check = float("-inf")
        self._seen: tuple[int, int, int] | None = None
        self._model: LatencyModel | None = None

    @property
    def model(self) -> LatencyModel | None:
        """The newest good model; ``None`` while there was none."""
        now = self._clock()
        if now >= self._next_check:
            self._next_check = now + self._check_s
            self._refresh()
        return self._model

    @property
    def cold(self) -> bool:
        """No model yet."""
        return self.model is None

    def _refresh(self) -> None:
        try:
            stat = self.path.stat()
            identity = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if identity == self._seen:
                return
            self._seen = identity
            self._model = artifact.read(self.path)
        except FileNotFoundError:
            self._seen = None
        except (artifact.ArtifactError, OSError) as error:
            log.warning("%s", error)

    def predict_for(
        self, feature_rows: Array | Sequence[Sequence[float]], endpoint_urls: Sequence[str], variants: Sequence[str]
    ) -> LatencyPrediction | None:
        """Latencies in seconds of one request at each endpoint; ``None`` while cold.

        Args:
            feature_rows: (n, 8) in the order of :data:`predictor.features.NAMES`.
            endpoint_urls: n base URLs without a trailing slash.
            variants: n variant names ("" where unknown).
        """
        model = self.model
        if model is None:
            return None
        matrix = np.asarray(feature_rows, dtype=np.float64).reshape(len(endpoint_urls), WIDTH)
        return model.predict_for(matrix, endpoint_urls, variants)
