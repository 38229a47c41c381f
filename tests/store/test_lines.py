"""Connections whose other end stands still or is gone."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from contextlib import contextmanager

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from billing.store.database import Database, Role, only, run
from billing.store.lines import PATIENT


@contextmanager
def standing_still(pid: int) -> Generator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def backend(connection: sa.Connection) -> int:
    return int(only(connection, "SELECT pg_backend_pid() AS pid").pid)


def test_a_statement_that_has_no_answer_in_time_ends_and_its_connection_is_replaced(
    database: Database,
) -> None:
    with database.transaction(Role.OPERATOR) as connection:
        pid = backend(connection)
    # It lies idle in the pool: the next transaction meets it as it asks whether it still lives.
    with standing_still(pid):
        with database.transaction(Role.OPERATOR, answer_ms=200) as connection:
            second = backend(connection)
        with (
            pytest.raises(OperationalError),
            database.transaction(Role.OPERATOR, answer_ms=200) as connection,
            standing_still(backend(connection)),
        ):
            run(connection, "SELECT 1")
        with database.transaction(Role.OPERATOR) as connection:
            third = backend(connection)
    assert len({pid, second, third}) == 3


def test_what_the_server_refuses_keeps_its_connection(database: Database) -> None:
    with database.transaction(Role.OPERATOR, answer_ms=60_000) as connection:
        pid = backend(connection)
    with (
        pytest.raises(OperationalError),
        database.transaction(Role.OPERATOR, answer_ms=60_000) as connection,
    ):
        run(connection, "SET LOCAL statement_timeout = 1; SELECT pg_sleep(60)")
    with database.transaction(Role.OPERATOR, answer_ms=60_000) as connection:
        assert backend(connection) == pid


def test_the_kernel_is_told_to_give_up_a_peer_that_vanished(database: Database) -> None:
    with database.engine.connect() as connection:
        line = connection.connection.driver_connection
        assert line is not None
        told = line.info.get_parameters()
    assert {name: told[name] for name in PATIENT} == {
        name: str(figure) for name, figure in PATIENT.items()
    }
