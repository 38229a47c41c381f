"""Runs migrations on the connection that the caller hands over, in one transaction each."""

from __future__ import annotations

import os

import sqlalchemy as sa
from alembic import context


def run(connection: sa.Connection) -> None:
    context.configure(connection=connection, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if isinstance(given, sa.Connection):
    run(given)
else:
    # The bare `alembic` command line, used to write revisions: it needs an owner's URL.
    engine = sa.create_engine(os.environ["STEELYARD_MIGRATE_URL"])
    with engine.connect() as opened:
        run(opened)
        opened.commit()
