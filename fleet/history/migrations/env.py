"""Alembic's environment: runs on the connection that :class:`fleet.history.store.History` hands over."""

from alembic import context

from fleet.history.schema import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
