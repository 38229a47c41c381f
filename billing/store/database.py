"""Connections and transactions: who acts, for which tenant, and how long a transaction may wait.

A process logs in with a role that may do nothing, and each transaction takes on one of four roles
with `SET LOCAL`, so that a forgotten role fails instead of reading everything. A tenant's
transaction also names the tenant, for row-level security.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import Any, TypeVar

import psycopg
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, OperationalError

from billing.errors import ConfigurationError
from billing.store.lines import PATIENT, Line, answers_within

Result = TypeVar("Result")

_SERIALIZATION_FAILURE = "40001"
_DEADLOCK = "40P01"
_ATTEMPTS = 5


class Role(StrEnum):
    """What a transaction may touch (see `billing/README.md`, roles)."""

    INGEST = "steelyard_ingest"
    TENANT = "steelyard_tenant"
    OPERATOR = "steelyard_operator"
    MAINTAINER = "steelyard_maintainer"


_BEGIN_AS = sa.text(
    "SELECT set_config('role', :role, true), set_config('steelyard.tenant_id', :tenant, true)"
)
_BEGIN_LIMITED = sa.text(
    "SELECT set_config('role', :role, true), set_config('steelyard.tenant_id', :tenant, true), "
    "set_config('statement_timeout', :limit_ms, true)"
)


class Database:
    """A pool of connections to one database.

    Args:
        url: SQLAlchemy URL with the psycopg driver.
        pool_size: most connections of this process.
        answer_ms: how long a statement may take where its transaction does not say; 0: as long as
            it takes.
    """

    def __init__(self, url: str, *, pool_size: int = 8, answer_ms: int = 0) -> None:
        self._answer_ms = answer_ms
        self._engine = sa.create_engine(
            url,
            pool_size=pool_size,
            max_overflow=0,
            pool_pre_ping=True,
            # A value in an error message could be a secret.
            hide_parameters=True,
            connect_args={
                "application_name": "steelyard",
                **PATIENT,
                # Instants come back in the session's zone, and only UTC is taken.
                "options": "-c timezone=UTC",
            },
        )
        event.listen(self._engine, "do_connect", _connect)
        self.deadlocks = 0

    @property
    def engine(self) -> sa.Engine:
        """The engine, for code that needs a connection of its own."""
        return self._engine

    def conninfo(self) -> str:
        """libpq's form of the address, for a connection outside the pool."""
        return self._engine.url.set(drivername="postgresql").render_as_string(hide_password=False)

    @contextmanager
    def transaction(
        self,
        role: Role,
        *,
        tenant_id: int | None = None,
        snapshot: bool = False,
        answer_ms: int | None = None,
    ) -> Generator[sa.Connection]:
        """A transaction in a role; commits at the end, rolls back on an exception.

        Args:
            role: what it may touch.
            tenant_id: whose rows, for `Role.TENANT`.
            snapshot: read one REPEATABLE READ snapshot, for figures that must tie to each other.
            answer_ms: how long a statement may take: the server gives it up, and if that stands
                still, its connection is closed and replaced, and what became of the statement is
                not known. 0: as long as it takes; None: as was said of the database.
        """
        assert (role is Role.TENANT) == (tenant_id is not None)
        limit_ms = self._answer_ms if answer_ms is None else answer_ms
        with _told_alike(), answers_within(limit_ms), self._engine.connect() as connection:
            if snapshot:
                connection.execution_options(isolation_level="REPEATABLE READ")
            with connection.begin():
                _begin(connection, role, tenant_id=tenant_id, limit_ms=limit_ms)
                yield connection

    def retrying(
        self,
        role: Role,
        work: Callable[[sa.Connection], Result],
        *,
        snapshot: bool = False,
        answer_ms: int | None = None,
    ) -> Result:
        """Run `work` in a transaction, again if the database chose it as a deadlock's victim.

        Args:
            answer_ms: as of `transaction`.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                with self.transaction(role, snapshot=snapshot, answer_ms=answer_ms) as connection:
                    return work(connection)
            except OperationalError as error:
                if not _worth_retrying(error) or attempt == _ATTEMPTS:
                    raise
                self.deadlocks += 1
        raise AssertionError("unreachable")

    @contextmanager
    def exclusive(self, name: str) -> Generator[bool]:
        """Hold a named lock of the server for a block; yields False if another process has it.

        It is a session's lock, so it spans the transactions of the block, and the server gives it
        back if this process dies.
        """
        lock = {"name": name}
        with (
            answers_within(self._answer_ms),
            self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection,
        ):
            held = bool(
                connection.execute(
                    sa.text("SELECT pg_try_advisory_lock(hashtextextended(:name, 0))"), lock
                ).scalar_one()
            )
            try:
                yield held
            finally:
                if held:
                    connection.execute(
                        sa.text("SELECT pg_advisory_unlock(hashtextextended(:name, 0))"), lock
                    )

    def require_reachable(self) -> None:
        """Check that the database answers.

        Raises:
            ConfigurationError: it does not.
        """
        try:
            with answers_within(self._answer_ms), self._engine.connect() as connection:
                connection.execute(sa.text("SELECT 1"))
        except OperationalError as error:
            raise unreachable() from error

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()


def _connect(dialect: object, record: object, arguments: list[Any], named: dict[str, Any]) -> Line:
    del dialect, record
    return Line.connect(*arguments, **named)


def unreachable() -> ConfigurationError:
    """The error of a database that does not answer; it names no part of the URL."""
    return ConfigurationError(
        "the database does not answer",
        field="STEELYARD_DATABASE_URL",
        remedy="check that PostgreSQL runs and that the URL names it rightly",
    )


@contextmanager
def _told_alike() -> Generator[None]:
    """What goes wrong in a COPY, which goes past SQLAlchemy, is told as of any statement."""
    try:
        yield
    except psycopg.OperationalError as error:
        raise OperationalError("COPY", None, error, hide_parameters=True) from error


def _begin(connection: sa.Connection, role: Role, *, tenant_id: int | None, limit_ms: int) -> None:
    """Take on the role of a transaction; the server, too, gives up a statement, a little sooner.

    Then its connection lives on. And a statement that nobody waits for any more would keep its
    locks.
    """
    if not limit_ms:  # whatever the server's own configuration says
        become(connection, role, tenant_id=tenant_id)
        return
    names = {
        "role": role.value,
        "tenant": _named(tenant_id),
        "limit_ms": str(limit_ms * 9 // 10 or 1),
    }
    connection.execute(_BEGIN_LIMITED, names)


def become(connection: sa.Connection, role: Role, *, tenant_id: int | None = None) -> None:
    """Take on a role for the rest of the transaction."""
    connection.execute(_BEGIN_AS, {"role": role.value, "tenant": _named(tenant_id)})


@contextmanager
def acting_as(connection: sa.Connection, role: Role) -> Generator[None]:
    """Take on another role for one step of a transaction, then take back the one before.

    After an error the transaction is lost anyway, so the role is only given back on success.
    """
    before = connection.execute(
        sa.text(
            "SELECT current_setting('role') AS role, "
            "current_setting('steelyard.tenant_id') AS tenant"
        )
    ).one()
    become(connection, role)
    yield
    connection.execute(_BEGIN_AS, {"role": before.role, "tenant": before.tenant})


def query(connection: sa.Connection, sql: str, **parameters: Any) -> Sequence[sa.Row[Any]]:
    """Rows of a query with named parameters."""
    return connection.execute(sa.text(sql), parameters).all()


def first(connection: sa.Connection, sql: str, **parameters: Any) -> sa.Row[Any] | None:
    """The first row of a query, or None."""
    return connection.execute(sa.text(sql), parameters).first()


def only(connection: sa.Connection, sql: str, **parameters: Any) -> sa.Row[Any]:
    """The only row of a query that always has exactly one."""
    return connection.execute(sa.text(sql), parameters).one()


def run(connection: sa.Connection, sql: str, **parameters: Any) -> int:
    """Execute a statement; the number of rows it touched."""
    return connection.execute(sa.text(sql), parameters).rowcount


def members(row: sa.Row[Any], **replaced: Any) -> dict[str, Any]:
    """A row's columns by name, some of them replaced: the members of a value."""
    return {**row._asdict(), **replaced}  # pyright: ignore[reportPrivateUsage]  # SQLAlchemy's public name


def _named(tenant_id: int | None) -> str:
    return "" if tenant_id is None else str(tenant_id)


def _worth_retrying(error: DBAPIError) -> bool:
    return getattr(error.orig, "sqlstate", None) in {_SERIALIZATION_FAILURE, _DEADLOCK}
