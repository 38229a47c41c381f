"""Brings a database to the newest schema, as its owner."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from billing.store.schema_version import migrations_folder

_LOCK = 0x57EE17A2D
"""Advisory lock: two processes that start together migrate once."""


def configuration() -> Config:
    """Alembic's configuration for the installed migrations."""
    config = Config()
    config.set_main_option("script_location", str(migrations_folder()))
    return config


def migrate(owner_url: str, *, revision: str = "head") -> list[str]:
    """Upgrade to `revision`; the revisions that were applied, oldest first."""
    engine = sa.create_engine(owner_url, poolclass=sa.NullPool, hide_parameters=True)
    config = configuration()
    try:
        with engine.connect() as connection:
            connection.execute(sa.text("SELECT pg_advisory_lock(:key)"), {"key": _LOCK})
            before = MigrationContext.configure(connection).get_current_revision()
            # Alembic runs each migration in a transaction of its own.
            connection.commit()
            config.attributes["connection"] = connection
            command.upgrade(config, revision)
            connection.commit()
            connection.execute(sa.text("SELECT pg_advisory_unlock(:key)"), {"key": _LOCK})
            connection.commit()
    finally:
        engine.dispose()
    scripts = ScriptDirectory.from_config(config)
    applied = [script.revision for script in scripts.iterate_revisions(revision, before or "base")]
    return applied[::-1]
