"""The five tables. Changing them takes a migration in ``fleet/history/migrations/versions``."""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Column, Float, Index, Integer, MetaData, String, Table, Text

metadata = MetaData()

_ID = BigInteger().with_variant(Integer, "sqlite")  # SQLite autoincrements INTEGER keys only

samples = Table(
    "samples",
    metadata,
    Column("id", _ID, primary_key=True, autoincrement=True),
    Column("at_s", Float(53), nullable=False),
    Column("signal", String(128), nullable=False),
    Column("value", Float(53), nullable=False),
    Column("model", String(256), nullable=False, default=""),
    Column("variant", String(256), nullable=False, default=""),
    Column("endpoint", String(512), nullable=False, default=""),
    Index("samples_at", "at_s"),
    Index("samples_signal_at", "signal", "at_s"),
)

requests = Table(
    "requests",
    metadata,
    Column("id", _ID, primary_key=True, autoincrement=True),
    Column("at_s", Float(53), nullable=False),
    Column("request_id", String(128), nullable=False),
    Column("model", String(256), nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("status", Integer, nullable=False),
    Column("endpoint", String(512), nullable=False),
    Column("variant", String(256), nullable=False),
    Column("streaming", Integer, nullable=False),
    Column("input_tokens", Integer, nullable=False),
    Column("output_tokens", Integer, nullable=False),
    Column("cached_tokens", Integer, nullable=False),
    Column("ttft_s", Float(53)),
    Column("tpot_s", Float(53)),
    Column("e2e_s", Float(53)),
    Column("predicted_ttft_s", Float(53)),
    Column("predicted_tpot_s", Float(53)),
    Column("pick_probability", Float(53)),
    Column("features", JSON, nullable=False),
    Column("tenant", String(256), nullable=False),
    Column("candidates", JSON(none_as_null=True)),
    Index("requests_at", "at_s"),
    Index("requests_model_at", "model", "at_s"),
)

decisions = Table(
    "decisions",
    metadata,
    Column("id", _ID, primary_key=True, autoincrement=True),
    Column("at_s", Float(53), nullable=False),
    Column("variant", String(256), nullable=False),
    Column("namespace", String(256), nullable=False),
    Column("model", String(256), nullable=False),
    Column("accelerator", String(64), nullable=False),
    Column("current", Integer, nullable=False),
    Column("desired", Integer, nullable=False),
    Column("direction", String(8), nullable=False),
    Column("reason", String(64), nullable=False),
    Column("detail", Text, nullable=False),
    Column("saturation", Float(53)),
    Column("signals", JSON, nullable=False),
    Index("decisions_at", "at_s"),
    Index("decisions_variant_at", "variant", "at_s"),
)

events = Table(
    "events",
    metadata,
    Column("id", _ID, primary_key=True, autoincrement=True),
    Column("at_s", Float(53), nullable=False),
    Column("kind", String(32), nullable=False),
    Column("subject", String(256), nullable=False),
    Column("message", Text, nullable=False),
    Column("severity", String(16), nullable=False),
    Column("data", JSON, nullable=False),
    Index("events_at", "at_s"),
    Index("events_kind_at", "kind", "at_s"),
)

training = Table(
    "training",
    metadata,
    Column("id", _ID, primary_key=True, autoincrement=True),
    Column("at_s", Float(53), nullable=False),
    Column("source", String(64), nullable=False),
    Column("endpoint", String(512), nullable=False),
    Column("variant", String(256), nullable=False),
    Column("ttft_s", Float(53)),
    Column("tpot_s", Float(53)),
    Column("censored", Integer, nullable=False),
    Column("output_tokens", Integer),
    Column("features", JSON, nullable=False),
    Index("training_at", "at_s"),
)

TABLES = {table.name: table for table in (samples, requests, decisions, events, training)}
