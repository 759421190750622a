"""Predictions of all candidates beside each request; latencies that did not come through our router."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Add the column and the table with its time index."""
    op.add_column("requests", sa.Column("candidates", sa.JSON()))
    op.create_table(
        "training",
        sa.Column("id", _ID, primary_key=True, autoincrement=True),
        sa.Column("at_s", sa.Float(53), nullable=False),
        sa.Column("source", sa.String(64), nullable=False),
        sa.Column("endpoint", sa.String(512), nullable=False),
        sa.Column("variant", sa.String(256), nullable=False),
        sa.Column("ttft_s", sa.Float(53)),
        sa.Column("tpot_s", sa.Float(53)),
        sa.Column("censored", sa.Integer, nullable=False),
        sa.Column("output_tokens", sa.Integer),
        sa.Column("features", sa.JSON(), nullable=False),
    )
    op.create_index("training_at", "training", ["at_s"])


def downgrade() -> None:
    """Drop both."""
    op.drop_table("training")
    op.drop_column("requests", "candidates")
