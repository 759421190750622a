"""The baselines, each by its published rule with its authors' settings. Pure: the randomness is passed in.

They decide from a :class:`benchmarks.routing.front.Front`, which is what any router knows. Where a rule leaves a tie
open it is broken at random, so that no arm herds on the first endpoint.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

import numpy as np

from benchmarks.routing.front import Asked, Front
from benchmarks.routing.prompts import ROUTER_BLOCK_TOKENS
from benchmarks.routing.run import Served
from router.pickers import MaxScore, draw
from router.prefix import BYTES_PER_TOKEN, PrefixIndex
from router.scorers import Candidates, KvUtilisation, PrefixAware, Queue, Scorer
from simulator.engine import Engine

SCRAPE_S: Final = 1.0
"""As our router scrapes."""
UPSTREAM_SCRAPE_S: Final = 0.05
"""As the llm-d router does by default: the arms with its rules get its freshness too."""


class Baseline:
    """A rule without memory of outcomes."""

    name = ""
    scrape_s = SCRAPE_S

    def __init__(self, engines: Sequence[Engine], seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def begin(self) -> None:
        """Nothing changes with a stage."""

    def pick(self, asked: Asked, front: Front, now_s: float) -> int:
        """Index of the endpoint."""
        raise NotImplementedError

    def finished(self, request_id: str, served: Served, now_s: float) -> None:
        """Nothing to learn."""

    def least(self, values: Sequence[float]) -> int:
        """Index of the smallest value, one of them at random."""
        best = min(values)
        return self.any([index for index, value in enumerate(values) if value == best])

    def any(self, indices: Sequence[int]) -> int:
        """One of them at random."""
        return indices[int(self.rng.random() * len(indices))]


class Random(Baseline):
    """Any endpoint."""

    name = "random"

    def pick(self, asked: Asked, front: Front, now_s: float) -> int:
        """Uniform."""
        return self.any(range(front.size))


class RoundRobin(Baseline):
    """Each in turn: what a plain Kubernetes Service comes to. New connections take up the turn anywhere."""

    name = "round-robin"
    _turn = -1

    def begin(self) -> None:
        """The turn is anywhere, so that stages whose sizes are multiples of the fleet's do not line up."""
        self._turn = int(self.rng.integers(1 << 30))

    def pick(self, asked: Asked, front: Front, now_s: float) -> int:
        """The next one."""
        self._turn += 1
        return self._turn % front.size


class LeastRequest(Baseline):
    """Fewest of this router's requests in flight."""

    name = "least-request"

    def pick(self, asked: Asked, front: Front, now_s: float) -> int:
        """The least loaded of all."""
        return self.least([load.requests_in_flight for load in front.loads()])


class PowerOfTwo(Baseline):
    """Two at random, the one of them with fewer requests in flight."""

    name = "power-of-two"

    def pick(self, asked: Asked, front: Front, now_s: float) -> int:
        """The less loaded of two."""
        if front.size == 1:
            return 0
        one = self.any(range(front.size))
        two = self.any([index for index in range(front.size) if index != one])
        return one if front.load(one).requests_in_flight <= front.load(two).requests_in_flight else two


class CacheAware(Baseline):
    """The threshold rule of the SGLang model gateway (SMG), with its defaults.

    When the fleet is out of balance (most - least > ``balance_abs`` and most > ``balance_rel`` * least, in requests in
    flight), the shortest queue. Else the endpoint with the longest match, if more than ``cache_threshold`` of the
    prompt matches, and the one with the smallest tree if not. Its tree forgets nothing below 2**26 characters.
    """

    name = "cache-aware"
    cache_threshold, balance_abs, balance_rel = 0.3, 64, 1.5
    tree_chars = 67_108_864

    def __init__(self, engines: Sequence[Engine], seed: int) -> None:
        super().__init__(engines, seed)
        self.tree = PrefixIndex(self.tree_chars // (ROUTER_BLOCK_TOKENS * BYTES_PER_TOKEN))

    def pick(self, asked: Asked, front: Front, now_s: float) -> int:
        """Balance first, then the cache."""
        loads = [load.requests_in_flight for load in front.loads()]
        hashes = asked.inference.block_hashes
        chosen = self.least(loads) if self.imbalanced(loads) else self._by_cache(asked, front.urls)
        self.tree.record(front.urls[chosen], hashes)
        return chosen

    def imbalanced(self, loads: Sequence[int]) -> bool:
        """Both thresholds are passed."""
        return max(loads) - min(loads) > self.balance_abs and max(loads) > self.balance_rel * min(loads)

    def _by_cache(self, asked: Asked, urls: Sequence[str]) -> int:
        matches = self.tree.match(asked.inference.block_hashes, urls)
        matched = [matches[url] * ROUTER_BLOCK_TOKENS for url in urls]
        if max(matched) > self.cache_threshold * asked.inference.input_tokens:
            return self.least([-tokens for tokens in matched])
        sizes = self.tree.sizes()
        return self.least([sizes.get(url, 0) for url in urls])


class LMetric(Baseline):
    """Uncached prompt tokens to be computed there (this request's and those queued) times the batch size.

    Source: arXiv 2603.15202. A prompt computes one token at least; the batch counts this request.
    """

    name = "lmetric"

    def pick(self, asked: Asked, front: Front, now_s: float) -> int:
        """The smallest product."""
        return self.least([self.cost(asked, front, index) for index in range(front.size)])

    def cost(self, asked: Asked, front: Front, index: int) -> float:
        """Tokens times requests."""
        load = front.load(index)
        return (load.prefill_tokens_in_flight + max(1, asked.uncached(index))) * (load.requests_in_flight + 1)


class TokenLoad(Baseline):
    """Fewest prompt tokens to be computed before this request's first token, its own included."""

    name = "token-load"

    def pick(self, asked: Asked, front: Front, now_s: float) -> int:
        """The smallest sum."""
        return self.least([load.prefill_tokens_in_flight + asked.uncached(index)
                           for index, load in enumerate(front.loads())])  # fmt: skip


class StickyUntilSaturated(Baseline):
    """llm-d's optimized baseline of August 2026: prefix-cache-affinity-filter, then token-load-scorer.

    Endpoints that hold at least ``affinity`` of the prompt are kept, unless the best of them has more than ``tau``
    uncached tokens in flight beyond the best of all (peakPrefillThroughput * maxTTFTPenalty = 20 480 tokens/s * 14 s);
    of those left, the one with the fewest uncached tokens in flight.
    """

    name = "sticky"
    scrape_s = UPSTREAM_SCRAPE_S
    affinity, tau = 0.80, 286_720
    threshold_tokens = 4_194_304

    def pick(self, asked: Asked, front: Front, now_s: float) -> int:
        """Filter, then the highest token-load score."""
        waiting = [load.prefill_tokens_in_flight for load in front.loads()]
        kept = self.kept(asked, waiting)
        scores = [1.0 - min(1.0, waiting[index] / self.threshold_tokens) for index in kept]
        return kept[self.least([-score for score in scores])]

    def kept(self, asked: Asked, waiting: Sequence[int]) -> list[int]:
        """Indices that the affinity filter leaves."""
        everyone = list(range(len(waiting)))
        enough = self.affinity * asked.inference.input_tokens
        sticky = [index for index in everyone if enough > 0 and asked.matched[index] >= enough]
        if not sticky or min(waiting[index] for index in sticky) - min(waiting) > self.tau:
            return everyone
        return sticky


class Blend(Baseline):
    """llm-d's blend of 2025 and early 2026: prefix 3, queue 2, KV 2, no-hit-LRU 2, highest score.

    The first three scorers are the router's own under those names, on samples as fresh as upstream's.
    """

    name = "blend-3222"
    scrape_s = UPSTREAM_SCRAPE_S
    parts: tuple[tuple[float, Scorer], ...] = ((3.0, PrefixAware()), (2.0, Queue()), (2.0, KvUtilisation()))
    cold_weight = 2.0

    def __init__(self, engines: Sequence[Engine], seed: int) -> None:
        super().__init__(engines, seed)
        self._cold: OrderedDict[int, None] = OrderedDict()

    def pick(self, asked: Asked, front: Front, now_s: float) -> int:
        """The highest weighted sum."""
        candidates = Candidates(request=asked.inference, endpoints=front.views(asked, now_s))
        rows = [(weight, scorer(candidates)) for weight, scorer in self.parts]
        rows.append((self.cold_weight, self.no_hit(asked, front.size)))
        totals = [sum(weight * row[index] for weight, row in rows) for index in range(front.size)]
        chosen = draw(MaxScore()(totals), self.rng)
        if not any(asked.matched):
            self._cold[chosen] = None
            self._cold.move_to_end(chosen)
        return chosen

    def no_hit(self, asked: Asked, size: int) -> list[float]:
        """0.5 for all when something matches anywhere; else the longest without a cold request 1, the latest 0.

        Endpoints that never had one come first.
        """
        if any(asked.matched):
            return [0.5] * size
        order = [index for index in range(size) if index not in self._cold] + list(self._cold)
        rank = {index: place for place, index in enumerate(order)}
        return [1.0 - rank[index] / max(1, size - 1) for index in range(size)]


BASELINES: Final[tuple[type[Baseline], ...]] = (
    Random, RoundRobin, LeastRequest, PowerOfTwo, CacheAware, LMetric, Blend, StickyUntilSaturated,
)  # fmt: skip
