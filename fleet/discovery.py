"""Which variants and replicas there are: a platform behind an HTTP API, or a fixed list of engines.

The platform API is one document, ``GET /fleet`` (``variants``, and ``gpus`` by accelerator where they are limited), and
one verb, ``PUT /variants/NAME/scale {"replicas": N}``; the simulator serves it, and a list of engine URLs stands for it
where nothing can be scaled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any
from urllib.parse import urlsplit

from fleet.errors import ConfigError, SourceError
from fleet.types import GpuInventory, Replica, ReplicaState, Role, Variant, VariantSpec


def variant_to_json(variant: Variant) -> dict[str, Any]:
    """A variant as one entry of ``GET /fleet``'s ``variants``."""
    return {
        **asdict(variant.spec),
        "requested": variant.requested,
        "replicas": [asdict(replica) for replica in variant.replicas],
    }


def parse_fleet(document: Any, *, where: str) -> tuple[Variant, ...]:
    """Variants from a ``GET /fleet`` document.

    Raises: SourceError when the document has another shape.
    """
    try:
        return tuple(_variant(entry) for entry in document["variants"])
    except (KeyError, TypeError, ValueError) as error:
        raise SourceError(
            f"is no fleet document: {error!r}", where=where, next_step="Point it at a fleet API's GET /fleet."
        ) from None


def parse_inventory(document: Mapping[str, Any], *, where: str) -> GpuInventory | None:
    """GPUs by accelerator from a ``GET /fleet`` document's ``gpus``; ``None`` where it has none: not limited.

    Raises: SourceError when they are no counts.
    """
    found = document.get("gpus")
    if found is None:
        return None
    try:
        counts = {str(name): int(count) for name, count in found.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise SourceError(f"gpus are no counts: {error}", where=where,
                          next_step="Point it at a fleet API's GET /fleet.") from None  # fmt: skip
    return GpuInventory(gpus=counts)


def _variant(entry: Mapping[str, Any]) -> Variant:
    fields = {name: entry[name] for name in VariantSpec.__dataclass_fields__ if name in entry}
    fields["role"] = Role(fields.get("role", Role.BOTH))
    replicas = tuple(
        Replica(name=item["name"], url=item["url"], variant=entry["name"], state=ReplicaState(item["state"]),
                since_s=float(item.get("since_s", 0.0)), labels=dict(item.get("labels") or {}),
                created_s=float(item.get("created_s", 0.0)))
        for item in entry["replicas"]
    )  # fmt: skip
    return Variant(spec=VariantSpec(**fields), requested=int(entry["requested"]), replicas=replicas)


def _is_url(text: str) -> bool:
    """Whether it is http or https, has a host, and a port that can be."""
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def static_fleet(urls: Sequence[str], *, model: str = "", variant: str = "static") -> tuple[Variant, ...]:
    """Fixed engines as one variant that can only be recommended for, never scaled.

    Raises: ConfigError naming the entry that is no http(s) URL.
    """
    clean = [url.strip().rstrip("/") for url in urls if url.strip()]
    for url in clean:
        if not _is_url(url):
            raise ConfigError(f"{url!r} is no engine URL", where="engines", limit="http or https, host, port to 65535",
                              next_step="Write http://host:8000,http://host:8001.")  # fmt: skip
    if not clean:
        raise ConfigError("no engine given", where="engines", next_step="Write http://host:8000,http://host:8001.")
    replicas = tuple(Replica(name=f"{variant}-{index}", url=url, variant=variant) for index, url in enumerate(clean))
    spec = VariantSpec(
        name=variant, model=model, accelerator="unresolved", min_replicas=0, max_replicas=max(10, len(clean))
    )
    return (Variant(spec=spec, requested=len(clean), replicas=replicas),)
