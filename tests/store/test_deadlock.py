"""The victim of a deadlock is done again, and every time is counted."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from billing.store.database import Database, Role

LOCK = sa.text("SELECT pg_advisory_xact_lock(:number)")


def test_two_that_lock_in_opposite_orders_both_finish_and_it_is_counted(database: Database) -> None:
    both_hold_one = Barrier(2)
    begun: list[int] = []

    def work(connection: sa.Connection, first: int, second: int) -> int:
        begun.append(first)
        connection.execute(LOCK, {"number": first})
        if begun.count(first) == 1:
            both_hold_one.wait(timeout=30)
        connection.execute(LOCK, {"number": second})
        return first

    def run(first: int, second: int) -> int:
        return database.retrying(Role.OPERATOR, lambda one: work(one, first, second))

    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(run, (1, 2), (2, 1))) == [1, 2]
    assert database.deadlocks == 1
    assert sorted(begun) in ([1, 1, 2], [1, 2, 2])


def test_what_is_no_deadlock_is_not_done_again(database: Database) -> None:
    tries: list[int] = []

    def work(connection: sa.Connection) -> None:
        tries.append(1)
        connection.execute(sa.text("SET LOCAL statement_timeout = 1"))
        connection.execute(sa.text("SELECT pg_sleep(5)"))

    with pytest.raises(OperationalError):
        database.retrying(Role.OPERATOR, work)
    assert (len(tries), database.deadlocks) == (1, 0)
