"""One command verifies both ledgers, also when part of one has left the database."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from billing.operations.ledger.verify_ledger import verify_ledger
from billing.operations.rating.accrue_usage import accrue_usage
from billing.operations.retention.archive_month import archive_month, drop_month
from billing.store.database import Role
from billing.store.embedded.address import ServerAddress
from tests.retention.conftest import LATER, MONTH, Closed


@pytest.fixture
def owner(postgres: ServerAddress, database_name: str) -> Iterator[psycopg.Connection]:
    """The owner of the tables with every trigger switched off: who can do anything at all."""
    with psycopg.connect(postgres.owner_conninfo(database_name), autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        yield connection


def found(closed: Closed) -> set[str]:
    with closed.world.database.transaction(Role.OPERATOR, snapshot=True) as connection:
        return {finding.kind for finding in verify_ledger(connection, closed.place)}


def test_L7_a_month_that_left_is_verified_in_its_archive(
    closed: Closed, owner: psycopg.Connection
) -> None:
    database = closed.world.database
    with database.transaction(Role.OPERATOR) as connection:
        november = closed.acme.billing_period(closed.world.now)
        accrue_usage(connection, tenant=closed.acme, period=november, now=LATER)
    archive = archive_month(database, closed.place, MONTH, now=LATER)
    assert found(closed) == set()
    drop_month(database, closed.place, MONTH, now=LATER, keep_months=2)
    assert found(closed) == set()
    owner.execute("UPDATE account_balance SET balance = balance + 1")
    owner.execute("UPDATE usage_rollup_day SET quantity = quantity + 1")
    assert found(closed) == {"rollup", "account"}
    name = archive.url.rpartition("/")[2]
    path = closed.folder.joinpath(name)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert {"archive", "event"} <= found(closed)
