"""Opens the deployment's database for a command, in the role that the command needs."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import sqlalchemy as sa
from pydantic import SecretStr
from sqlalchemy.exc import ArgumentError, OperationalError

from billing.errors import ConfigurationError
from billing.operations.deployment import opened_database
from billing.settings import Settings, read_settings
from billing.store.database import Database, Role

CONNECTIONS = 2

DRIVERS = frozenset({"postgresql", "postgres", "postgresql+psycopg"})
"""PostgreSQL by the one driver (D1); another dialect would fail later and say less."""


def configured() -> Settings:
    """The settings of this process, with a database that can be PostgreSQL.

    Raises:
        ConfigurationError: a setting cannot be used.
    """
    settings = read_settings()
    for name in ("database_url", "migrate_url"):
        url: SecretStr | None = getattr(settings, name)
        if url is not None and not _is_postgresql(url.get_secret_value()):
            raise ConfigurationError(
                "not the URL of a PostgreSQL database",
                field=f"STEELYARD_{name.upper()}",
                remedy="write it like postgresql://user@host/name",
            )
    return settings


@contextmanager
def connected() -> Generator[Database]:
    """The deployment's database; an embedded server is started if none runs.

    Raises:
        ConfigurationError: it cannot be reached, or is not migrated.
    """
    with answering(), opened_database(configured(), pool_size=CONNECTIONS) as database:
        yield database


@contextmanager
def as_operator(*, snapshot: bool = False) -> Generator[sa.Connection]:
    """One transaction of the operator's; commits at the end of the block."""
    with (
        connected() as database,
        database.transaction(Role.OPERATOR, snapshot=snapshot) as connection,
    ):
        yield connection


@contextmanager
def answering() -> Generator[None]:
    """Say that the database cannot be used, instead of showing a driver's error.

    Raises:
        ConfigurationError: no answer, or a login that is refused.
    """
    try:
        yield
    except OperationalError as error:
        if not _is_surroundings(error):
            raise
        raise ConfigurationError(
            "the database does not answer, or refuses us",
            field="STEELYARD_DATABASE_URL",
            remedy="check that PostgreSQL runs and that the URL names it rightly",
        ) from None


def _is_surroundings(error: OperationalError) -> bool:
    """Whether connection, login, resources or an operator's intervention are to blame."""
    state = getattr(error.orig, "sqlstate", None)
    return state is None or state[:2] in {"08", "28", "3D", "53", "57"}


def _is_postgresql(url: str) -> bool:
    try:
        return sa.make_url(url).drivername in DRIVERS
    except (ArgumentError, ValueError):
        return False
