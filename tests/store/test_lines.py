"""Connections whose other end stands still or is gone."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from billing.store.database import Database, Role, only, run
from billing.store.lines import PATIENT
from tests.standing_still import standing_still


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


def copy_too_long(connection: sa.Connection) -> None:
    run(connection, "SET LOCAL statement_timeout = 50")
    line = connection.connection.driver_connection
    assert line is not None
    with line.cursor() as cursor, cursor.copy("COPY (SELECT pg_sleep(60)) TO STDOUT") as copy:
        copy.read()


def test_what_goes_wrong_in_a_copy_is_told_as_of_any_statement(database: Database) -> None:
    with pytest.raises(OperationalError) as told:
        database.retrying(Role.INGEST, copy_too_long)
    assert getattr(told.value.orig, "sqlstate", None) == "57014"


def test_the_server_gives_a_statement_up_before_its_connection_is(database: Database) -> None:
    with database.transaction(Role.OPERATOR, answer_ms=60_000) as connection:
        assert only(connection, "SHOW statement_timeout").statement_timeout == "54s"
    with database.transaction(Role.OPERATOR) as connection:
        assert only(connection, "SHOW statement_timeout").statement_timeout == "0"


def test_a_database_has_a_limit_that_a_transaction_may_lift(database: Database) -> None:
    url = database.engine.url.render_as_string(hide_password=False)
    hasty = Database(url, pool_size=1, answer_ms=200)
    try:
        with (
            pytest.raises(OperationalError),
            hasty.transaction(Role.OPERATOR) as connection,
            standing_still(backend(connection)),
        ):
            run(connection, "SELECT 1")
        with hasty.transaction(Role.OPERATOR, answer_ms=0) as connection:
            run(connection, "SELECT pg_sleep(0.3)")
    finally:
        hasty.close()
