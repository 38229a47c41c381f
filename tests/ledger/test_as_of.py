"""Balances as of a time are what summing says, and cost no more than halving an account."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any
from uuid import uuid4

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy import event

from billing.ledger.posting import Transaction
from billing.ledger.template import Books, invoice_issued
from billing.store import books as store
from billing.store import ledger
from billing.store.database import Database, Role, query
from billing.store.embedded.address import ServerAddress
from billing.tenancy.tenant import Tenant
from tests.world import make_world

VERSIONS = 4_000


@pytest.fixture
def acme(database: Database, now: datetime) -> Tenant:
    return make_world(database, now).tenant("acme")


@pytest.fixture
def owner(postgres: ServerAddress, database_name: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(postgres.owner_conninfo(database_name), autocommit=True) as connection:
        yield connection


def post(
    connection: sa.Connection, tenant: Tenant, amount: Decimal, *, at: datetime, now: datetime
) -> None:
    books = Books(legal_entity_id=1, tenant_id=tenant.id, currency="USD")
    posted = Transaction(
        id=uuid4(),
        legal_entity_id=1,
        tenant_id=tenant.id,
        kind="posted",
        idempotency_key=str(uuid4()),
        effective_at=at,
        postings=invoice_issued(books, subtotal=amount, tax=amount / 4),
    )
    assert ledger.post(connection, posted, now=now)


def summed(
    connection: sa.Connection, *, before: datetime, known_at: datetime
) -> dict[str, tuple[int, Decimal]]:
    """The same from the postings, by the code of the account."""
    rows = query(
        connection,
        "SELECT a.code, count(*) AS version, sum(p.amount) AS amount FROM ledger_transaction t "
        "JOIN posting p ON p.transaction_id = t.id JOIN account a ON a.id = p.account_id "
        "WHERE t.effective_at < :before AND t.posted_at <= :known GROUP BY a.code",
        before=before,
        known=known_at,
    )
    return {row.code: (row.version, row.amount) for row in rows}


def test_B4_12_balances_of_any_two_times_are_the_sum_of_what_counts(
    database: Database, acme: Tenant, now: datetime
) -> None:
    random = Random(20261121)
    with database.transaction(Role.OPERATOR) as connection:
        for step in range(120):
            # Some are effective days before what is posted already, some posters' clocks are late.
            back = random.choice([0, 0, 0, 1, 30, 400])
            late = random.choice([0, 0, 1, 2])
            post(
                connection,
                acme,
                Decimal(random.randint(1, 10**6)) / 1000,
                at=now + timedelta(hours=step - back),
                now=now + timedelta(hours=step, seconds=-3600 * late),
            )
    times = [now + timedelta(hours=hours) for hours in range(-410, 130, 9)]
    compared = 0
    with database.transaction(Role.OPERATOR) as connection:
        assert store.account_differences(connection) == []
        for before in times:
            for known_at in times[40:]:
                found = store.balances_as_of(
                    connection, legal_entity_id=1, before=before, known_at=known_at
                )
                expected = summed(connection, before=before, known_at=known_at)
                assert {
                    each.account.code.value: (each.version, each.amount) for each in found
                } == expected
                compared += len(expected)
    assert compared > 1_000


def test_a_changed_reach_of_a_posting_is_found(
    database: Database, acme: Tenant, owner: psycopg.Connection, now: datetime
) -> None:
    with database.transaction(Role.OPERATOR) as connection:
        for hours in (0, 2, 1):
            post(connection, acme, Decimal(4), at=now + timedelta(hours=hours), now=now)
    owner.execute("SET session_replication_role = replica")
    for change, back in (
        ("reached_at = reached_at + interval '1h'", "reached_at = reached_at - interval '1h'"),
        ("known_at = known_at - interval '1h'", "known_at = known_at + interval '1h'"),
        ("out_of_order = NOT out_of_order", "out_of_order = NOT out_of_order"),
    ):
        owner.execute(f"UPDATE posting SET {change} WHERE account_version = 2".encode())
        with database.transaction(Role.OPERATOR) as connection:
            assert len(store.account_differences(connection)) == 3, change
        owner.execute(f"UPDATE posting SET {back} WHERE account_version = 2".encode())
    with database.transaction(Role.OPERATOR) as connection:
        assert store.account_differences(connection) == []


def many_postings(owner: psycopg.Connection, tenant: Tenant, now: datetime) -> None:
    """One transaction a minute on two accounts, by direct SQL under every trigger."""
    one, other = (
        owner.execute(
            "INSERT INTO account (legal_entity_id, code, tenant_id, currency) "
            "VALUES (1, %s, %s, 'USD') RETURNING id",
            (code, tenant.id),
        ).fetchall()[0][0]
        for code in ("accounts_receivable", "unbilled_receivable")
    )
    with owner.transaction():
        owner.execute(
            "INSERT INTO ledger_transaction (id, legal_entity_id, tenant_id, kind, "
            "idempotency_key, reference, effective_at, posted_at, posting_count, postings_hash) "
            "SELECT gen_random_uuid(), 1, %(tenant)s, 'posted', n, '', "
            "%(now)s + n * interval '1 minute', %(now)s + n * interval '1 minute', 2, "
            "sha256(convert_to(format(E'0|%%s|1.000000000000\\n1|%%s|-1.000000000000', "
            "CAST(%(one)s AS int), CAST(%(other)s AS int)), 'UTF8')) "
            "FROM generate_series(1, %(count)s) AS n",
            {"tenant": tenant.id, "now": now, "one": one, "other": other, "count": VERSIONS},
        )
        owner.execute(
            "INSERT INTO posting (transaction_id, ordinal, account_id, tenant_id, currency, "
            "amount) SELECT t.id, o.ordinal, o.account, %(tenant)s, 'USD', o.amount "
            "FROM ledger_transaction t CROSS JOIN (VALUES (0, %(one)s, 1), (1, %(other)s, -1)) "
            "AS o (ordinal, account, amount) ORDER BY t.effective_at, o.ordinal",
            {"tenant": tenant.id, "one": one, "other": other},
        )


def scans(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", []):
        yield from scans(part)


@pytest.mark.parametrize("analyzed", [False, True], ids=["no-statistics", "statistics"])
def test_an_as_of_balance_reads_as_many_postings_as_halving_takes(
    database: Database, acme: Tenant, owner: psycopg.Connection, now: datetime, analyzed: bool
) -> None:
    many_postings(owner, acme, now)
    if analyzed:
        owner.execute("ANALYZE posting, ledger_transaction, account, account_balance")
    before = now + timedelta(minutes=VERSIONS // 3)
    asked: list[tuple[str, Any]] = []
    with database.transaction(Role.OPERATOR) as connection:

        @event.listens_for(connection, "before_cursor_execute")
        def keep(_on: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
            asked.append((statement, parameters))

        found = store.balances_as_of(
            connection, legal_entity_id=1, before=before, known_at=now + timedelta(days=300)
        )
        assert {each.amount for each in found} == {VERSIONS // 3 - 1, 1 - VERSIONS // 3}
        event.remove(connection, "before_cursor_execute", keep)
        ((statement, parameters),) = asked
        explained = connection.exec_driver_sql(
            f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters
        ).scalar_one()
    read = [scan for scan in scans(explained[0]["Plan"]) if scan.get("Relation Name") == "posting"]
    assert read
    assert "Seq Scan" not in {scan["Node Type"] for scan in read}
    rows = sum(
        (scan["Actual Rows"] + scan.get("Rows Removed by Filter", 0)) * scan["Actual Loops"]
        for scan in read
    )
    assert rows <= 2 * (VERSIONS.bit_length() + 2)
