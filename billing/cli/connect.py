"""Opens the deployment's database for a command, in the role that the command needs."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from billing.operations.deployment import opened_database
from billing.settings import read_settings
from billing.store.database import Database, Role, unreachable

CONNECTIONS = 2


@contextmanager
def connected() -> Generator[Database]:
    """The deployment's database; an embedded server is started if none runs.

    Raises:
        ConfigurationError: it cannot be reached, or is not migrated.
    """
    with answering(), opened_database(read_settings(), pool_size=CONNECTIONS) as database:
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
        raise unreachable() from None


def _is_surroundings(error: OperationalError) -> bool:
    """Whether connection, login, resources or an operator's intervention are to blame."""
    state = getattr(error.orig, "sqlstate", None)
    return state is None or state[:2] in {"08", "28", "3D", "53", "57"}
