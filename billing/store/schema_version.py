"""Which schema a database has and which one this version of the program needs.

Read without Alembic, whose import takes longer than the question: every process asks it once.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from billing.errors import ConfigurationError
from billing.store.database import unreachable

_REVISION = re.compile(r"\d{8}_\d{4}(?=_)")


def migrations_folder() -> Path:
    """Where the installed migrations are.

    Raises:
        ConfigurationError: they are not installed.
    """
    found = find_spec("migrations")
    if found is None or found.origin is None:
        raise ConfigurationError(
            "the migrations package is not installed", remedy="install the whole package again"
        )
    return Path(found.origin).parent


def newest_revision() -> str:
    """The revision that this version of the program needs: revisions are named by their date."""
    names = (path.name for path in migrations_folder().joinpath("versions").glob("*.py"))
    return max(found.group() for name in names if (found := _REVISION.match(name)))


def current_revision(url: str) -> str | None:
    """The revision that a database is at; None if it is empty.

    Raises:
        ConfigurationError: the database does not answer.
    """
    engine = sa.create_engine(url, poolclass=sa.NullPool, hide_parameters=True)
    try:
        with engine.connect() as connection:
            if not sa.inspect(connection).has_table("alembic_version"):
                return None
            return connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
    except OperationalError as error:
        raise unreachable() from error
    finally:
        engine.dispose()
