"""What a director is made of, and what it remembers of a pick."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from fleet.slo import SloBook
from router.admission import Admission
from router.aliases import Split
from router.disaggregation.choose import Splitter
from router.disaggregation.protocols import Protocol
from router.endpoints import EndpointSet
from router.kvevents.precise import Precise
from router.metrics import RouterMetrics
from router.pickers import Rng
from router.profile import Scheduler
from router.recorder import Facts
from router.settings import RouterSettings
from router.shared import Board
from router.tenants import Tenants
from router.ticket import Ticket
from router.types import Predict


@dataclass(slots=True, kw_only=True)
class Parts:
    """What a director is made of."""

    settings: RouterSettings
    scheduler: Scheduler
    endpoints: EndpointSet
    metrics: RouterMetrics
    rng: Rng
    predict: Predict | None = None
    admission: Admission | None = None
    """Refuses requests that would miss their own target anyway; ``None``: none is refused for that."""
    precise: Precise | None = None
    """Matches prefixes by engines' events; ``None``: by what was sent where."""
    splitter: Splitter | None = None
    """Splits requests between prefill and decode engines; ``None``: each is served whole."""
    protocol: Protocol = Protocol.NIXL
    """How KV moves between them."""
    tenants: Tenants = field(default_factory=Tenants)
    aliases: Mapping[str, Split] = field(default_factory=dict)
    """What clients' names of models stand for, where that is another name."""
    board: Board | None = None
    """What the other workers of this router tell; ``None``: it has one."""
    slos: SloBook | None = None
    """Latency targets of requests that name none; ``None``: they have none."""
    record: Callable[[Ticket, Facts], None] = field(default=lambda _ticket, _seen: None)
    """Told of every request that is over."""
