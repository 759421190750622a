"""Which latency targets a request has, and who named them: its client, else its tenant's entry, else the operator's SLO
file. Pure."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from fleet.slo import SloBook
from router.hints import NO_TARGET_S, Hints

BY_REQUEST: Final = "request"
"""Its headers name it."""
BY_FILE: Final = "slo_file"
"""The SLO file names it for the model."""
BY_TENANT: Final = "tenant"
"""The tenants file names it for the tenant, or takes the model's away."""


class Targets(NamedTuple):
    """Of one request; ``None``: it has none."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    ttft_by: str = ""
    """:data:`BY_REQUEST`, :data:`BY_TENANT`, :data:`BY_FILE`; empty: nobody named one."""
    tpot_by: str = ""


NO_TARGETS: Final = Targets()


class Own(NamedTuple):
    """What a tenant has in place of its models' targets; ``None``: the model's, :data:`NO_TARGET_S`: none."""

    ttft_s: float | None = None
    tpot_s: float | None = None


def of_model(slos: SloBook | None, model: str) -> Targets:
    """What holds for a model's requests that name nothing; ``slos``: ``None`` where no file is to count."""
    if slos is None:
        return NO_TARGETS
    told = slos.of(model).targets()
    return Targets(told.ttft_s, told.tpot_s, BY_FILE if told.ttft_s is not None else "",
                   BY_FILE if told.tpot_s is not None else "")  # fmt: skip


def of_request(hints: Hints, usual: Targets) -> Targets:
    """What its headers say, and where they say nothing, ``usual`` (its model's).

    >>> of_request(Hints(slo_tpot_s=0.05), Targets(0.2, 0.1, BY_FILE, BY_FILE))
    Targets(ttft_s=0.2, tpot_s=0.05, ttft_by='slo_file', tpot_by='request')
    """
    return _over(usual, hints.slo_ttft_s, hints.slo_tpot_s, BY_REQUEST)


def of_tenant(own: Own, usual: Targets) -> Targets:
    """What its entry in the tenants file says, and where that says nothing, ``usual`` (its model's).

    >>> of_tenant(Own(ttft_s=NO_TARGET_S), Targets(0.2, 0.1, BY_FILE, BY_FILE))
    Targets(ttft_s=None, tpot_s=0.1, ttft_by='tenant', tpot_by='slo_file')
    """
    return _over(usual, own.ttft_s, own.tpot_s, BY_TENANT)


def _over(usual: Targets, ttft_s: float | None, tpot_s: float | None, by: str) -> Targets:
    if ttft_s is not None:
        usual = usual._replace(ttft_s=None if ttft_s == NO_TARGET_S else ttft_s, ttft_by=by)
    if tpot_s is not None:
        usual = usual._replace(tpot_s=None if tpot_s == NO_TARGET_S else tpot_s, tpot_by=by)
    return usual


def named(targets: Targets) -> Targets:
    """Those that the client named itself."""
    return Targets(targets.ttft_s if targets.ttft_by == BY_REQUEST else None,
                   targets.tpot_s if targets.tpot_by == BY_REQUEST else None)  # fmt: skip


def told(targets: Targets) -> dict[str, dict[str, Any]]:
    """For an explanation: by latency the limit, and who named it; nothing of one that nobody named.

    >>> told(Targets(0.2, None, BY_FILE, ""))
    {'ttft': {'limit_s': 0.2, 'by': 'slo_file'}}
    """
    found = {"ttft": (targets.ttft_s, targets.ttft_by), "tpot": (targets.tpot_s, targets.tpot_by)}
    return {name: {"limit_s": limit_s, "by": by} for name, (limit_s, by) in found.items() if by}
