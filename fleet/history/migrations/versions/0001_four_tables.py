"""The four tables: samples, requests, decisions, events."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def _id() -> sa.Column[int]:
    return sa.Column("id", _ID, primary_key=True, autoincrement=True)


def _at() -> sa.Column[float]:
    return sa.Column("at_s", sa.Float(53), nullable=False)


def _text(name: str, length: int) -> sa.Column[str]:
    return sa.Column(name, sa.String(length), nullable=False)


def _count(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer, nullable=False)


def upgrade() -> None:
    """Create the tables and their time indexes."""
    op.create_table(
        "samples", _id(), _at(), _text("signal", 128), sa.Column("value", sa.Float(53), nullable=False),
        _text("model", 256), _text("variant", 256), _text("endpoint", 512),
    )  # fmt: skip
    op.create_table(
        "requests", _id(), _at(), _text("request_id", 128), _text("model", 256), _text("outcome", 16), _count("status"),
        _text("endpoint", 512), _text("variant", 256), _count("streaming"), _count("input_tokens"),
        _count("output_tokens"), _count("cached_tokens"),
        *(sa.Column(name, sa.Float(53)) for name in ("ttft_s", "tpot_s", "e2e_s", "predicted_ttft_s",
                                                     "predicted_tpot_s", "pick_probability")),
        sa.Column("features", sa.JSON, nullable=False), _text("tenant", 256),
    )  # fmt: skip
    op.create_table(
        "decisions", _id(), _at(), _text("variant", 256), _text("namespace", 256), _text("model", 256),
        _text("accelerator", 64), _count("current"), _count("desired"), _text("direction", 8), _text("reason", 64),
        sa.Column("detail", sa.Text, nullable=False), sa.Column("saturation", sa.Float(53)),
        sa.Column("signals", sa.JSON, nullable=False),
    )  # fmt: skip
    op.create_table(
        "events", _id(), _at(), _text("kind", 32), _text("subject", 256), sa.Column("message", sa.Text, nullable=False),
        _text("severity", 16), sa.Column("data", sa.JSON, nullable=False),
    )  # fmt: skip
    for table, key in (
        ("samples", "signal"),
        ("requests", "model"),
        ("decisions", "variant"),
        ("events", "kind"),
    ):
        op.create_index(f"{table}_at", table, ["at_s"])
        op.create_index(f"{table}_{key}_at", table, [key, "at_s"])


def downgrade() -> None:
    """Drop everything."""
    for table in ("events", "decisions", "requests", "samples"):
        op.drop_table(table)
