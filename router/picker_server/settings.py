"""What the endpoint picker can be told beside the router's own settings; environment prefix ``PICKER_``."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from fleet.settings import Settings


class PickerSettings(Settings):
    """How the picker meets its proxy."""

    model_config = SettingsConfigDict(env_prefix="PICKER_", frozen=True, extra="forbid")

    tls_cert: Path | None = None
    """PEM file of the certificate; with ``tls_key``, the gRPC port speaks TLS."""
    tls_key: Path | None = None
    """PEM file of its key."""
    tls_client_ca: Path | None = None
    """PEM file of the authority that proxies' certificates must come from; unset: none is asked for."""
    fallbacks: int = Field(default=0, ge=0, le=16)
    """Endpoints named behind the best one, for gateways that walk the list on retry. 0 for Envoy's ORIGINAL_DST, which
    takes one address only."""
    emit_scores: bool = False
    """Put all scores into the dynamic metadata."""
    objects: str = ""
    """Where InferenceObjective and InferenceModelRewrite are: a YAML file or a folder of them, read again when they
    change, or ``kube://NAMESPACE/POOL``. Empty: there are none."""
    conformance: bool = False
    """Obey the header ``test-epp-endpoint-selection``: clients choose then, so for conformance tests only."""
