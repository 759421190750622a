"""Ways to turn observations into wanted replicas, by name (setting ``WVA_ANALYZER``).

``saturation``: the design's formula (:mod:`wva.saturation`, planned by :mod:`wva.optimizer`). ``v1``, ``v2``:
upstream's saturation analyzers of version 0.9 with their defaults, for compatibility. ``slo``: :mod:`wva.slo`.
"""

from typing import Final

ANALYZERS: Final = ("saturation", "v1", "v2", "slo")
