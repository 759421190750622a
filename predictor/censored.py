"""Requests that gave up waiting: what is known is that the first token would have come later. Pure.

To leave them out would teach that long waits do not happen; to take the time at which they left as the truth would
teach that they are short. Each counts as the mean of what it may have been, given that it was longer (Buckley and
James, 1979, with the law's own log-normal error).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr

Array = NDArray[np.float64]
_HALF_LOG_2PI = 0.9189385332046727


def expected(bound_s: Array, predicted_s: Array, spread: float) -> Array:
    """Geometric mean of latencies above ``bound_s`` that the law expects at ``predicted_s``, seconds.

    Far below the prediction a bound says nothing and the prediction comes back; above it, a little more than the
    bound.

    Args:
        bound_s: waited so long in vain, > 0.
        predicted_s: the law's prediction, > 0.
        spread: standard deviation of the law's log error, > 0.
    """
    distance = np.log(bound_s / predicted_s) / spread
    mills = np.exp(-0.5 * distance**2 - _HALF_LOG_2PI - log_ndtr(-distance))
    return np.asarray(predicted_s * np.exp(np.minimum(spread * mills, 50.0)))
