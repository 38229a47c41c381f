"""L1 and L2: a posting names what is there and stays there, though references are checked together.

References that are written down and not enforced are read from the catalog. Each has to point at
rows that nobody deletes, truncates or renumbers; then what was there when a posting was written is
there for good. Whatever writes a posting is refused if it names something that is not.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import psycopg
import pytest
import sqlalchemy as sa
from psycopg import errors
from sqlalchemy.exc import DBAPIError

from billing.operations.ledger.accounting_periods import close_period
from billing.operations.tenancy.tenants import require_legal_entity
from billing.period import Period, month, zone
from billing.store.database import Database, Role
from billing.store.embedded.address import ServerAddress
from tests.store.test_money_ledger import Ledger, Row, make_books

NOWHERE = 2_000_000_000

UNENFORCED = """
SELECT k.conrelid::regclass::text, k.confrelid::regclass::text, a.attname
  FROM pg_constraint k
  JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = ANY (k.confkey)
 WHERE k.contype = 'f' AND NOT k.conenforced
"""

POSTING = """
INSERT INTO posting (transaction_id, ordinal, account_id, tenant_id, currency, amount, contract_id,
                     period_start, line_key, account_version, balance_after, reached_at, known_at,
                     out_of_order)
VALUES (%(transaction)s, %(ordinal)s, %(account)s, %(tenant)s, 'USD', 1, %(contract)s,
        %(start)s, %(line)s, 1, 1, now(), now(), false)
"""

COPIED_HEADER = """
INSERT INTO ledger_transaction (id, legal_entity_id, tenant_id, kind, idempotency_key, reference,
                                effective_at, posted_at, posting_count, postings_hash)
SELECT %(transaction)s, legal_entity_id, tenant_id, kind, 'copy', reference, effective_at,
       posted_at, posting_count, postings_hash FROM ledger_transaction LIMIT 1
"""


@pytest.fixture
def books(database: Database, now: datetime) -> Ledger:
    return make_books(database, now)


@pytest.fixture
def owner(postgres: ServerAddress, database_name: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(postgres.owner_conninfo(database_name), autocommit=True) as connection:
        yield connection


def pair(books: Ledger) -> list[Row]:
    return [books.row("acme.receivable", "1"), books.row("acme.unbilled", "-1")]


def test_L2_what_an_unenforced_reference_names_is_there_for_good(
    books: Ledger, owner: psycopg.Connection
) -> None:
    books.write(pair(books), tenant=books.acme)
    found = owner.execute(UNENFORCED).fetchall()
    assert {(table, to) for table, to, _ in found} == {
        ("account", "legal_entity"),
        ("account", "tenant"),
        ("ledger_transaction", "legal_entity"),
        ("ledger_transaction", "tenant"),
        ("posting", "ledger_transaction"),
        ("posting", "account"),
        ("posting", "contract"),
        ("account_balance", "account"),
        ("unsealed_transaction", "ledger_transaction"),
    }
    for _, table, column in found:
        for change in (
            f"DELETE FROM {table}",
            f"DELETE FROM {table} WHERE false",
            f"TRUNCATE {table} CASCADE",
            f"UPDATE {table} SET {column} = DEFAULT",
            f"MERGE INTO {table} USING (SELECT) AS s ON true WHEN MATCHED THEN DELETE",
            (
                f"MERGE INTO {table} USING (SELECT) AS s ON true WHEN MATCHED THEN UPDATE "
                f"SET {column} = DEFAULT"
            ),
        ):
            with pytest.raises(errors.IntegrityConstraintViolation, match="append-only"):
                owner.execute(change.encode())
            with pytest.raises(DBAPIError), books.database.transaction(Role.OPERATOR) as connection:
                connection.execute(sa.text(change))


@pytest.mark.parametrize("missing", ["transaction", "account", "contract"])
def test_L1_not_even_the_owner_posts_on_what_is_not_there(
    books: Ledger, owner: psycopg.Connection, missing: str
) -> None:
    books.write(pair(books), tenant=books.acme)
    values: dict[str, object] = {
        "transaction": uuid4(),
        "ordinal": 0,
        "account": books.accounts["acme.unbilled"],
        "tenant": books.acme,
        "contract": None,
        "start": None,
        "line": None,
    }

    def write() -> None:
        with owner.transaction():
            owner.execute(COPIED_HEADER, values)
            owner.execute(POSTING, values | stated)
            raise psycopg.Rollback

    stated: dict[str, object] = {}
    write()
    stated = {
        "transaction": {"transaction": uuid4()},
        "account": {"account": NOWHERE},
        "contract": {"contract": NOWHERE, "start": datetime(2026, 11, 1, tzinfo=UTC), "line": "k"},
    }[missing]
    with pytest.raises(psycopg.IntegrityError, match=r"that is not there|or missing transaction"):
        write()
    assert books.posted() == 2


def test_L1_whatever_version_the_owner_states_the_database_takes_the_next(
    books: Ledger, owner: psycopg.Connection
) -> None:
    books.write(pair(books), tenant=books.acme)
    values = {
        "transaction": uuid4(),
        "ordinal": 0,
        "account": books.accounts["acme.unbilled"],
        "tenant": books.acme,
        "contract": None,
        "start": None,
        "line": None,
    }
    with owner.transaction():
        owner.execute(COPIED_HEADER, values)
        row = owner.execute(f"{POSTING} RETURNING account_version".encode(), values).fetchone()
        assert row == (2,)
        raise psycopg.Rollback


@pytest.mark.parametrize("column", ["legal_entity_id", "tenant_id"])
@pytest.mark.parametrize("table", ["account", "ledger_transaction"])
def test_L1_the_books_name_no_tenant_and_no_legal_entity_that_is_not_there(
    books: Ledger, owner: psycopg.Connection, table: str, column: str
) -> None:
    books.write(pair(books), tenant=books.acme)
    copied = {
        "account": ("legal_entity_id, tenant_id", "code, currency"),
        "ledger_transaction": (
            "legal_entity_id, tenant_id",
            "kind, reference, effective_at, posted_at, posting_count, postings_hash",
        ),
    }[table]
    names, rest = copied
    wrong = names.replace(column, str(NOWHERE))
    own, value = ("", "") if table == "account" else ("id, idempotency_key, ", "%s, 'copy', ")
    statement = (
        f"INSERT INTO {table} ({own}{names}, {rest}) SELECT {value}{wrong}, {rest} FROM {table} "
        "WHERE tenant_id IS NOT NULL LIMIT 1"
    )
    with pytest.raises(errors.ForeignKeyViolation, match="not there"):
        owner.execute(statement.encode(), [uuid4()] if value else [])


@pytest.mark.parametrize("setting", ["together", "apart"])
def test_L1_a_role_that_makes_the_setting_of_a_page_its_own_is_checked_all_the_same(
    books: Ledger, setting: str
) -> None:
    rows = [books.row("acme.receivable", "1"), books.row("acme.unbilled", "-0.5")]

    def write() -> None:
        with books.database.transaction(Role.OPERATOR) as connection:
            connection.execute(
                sa.text("SELECT set_config('steelyard.posting', :to, true)"), {"to": setting}
            )
            books.postings(connection, books.header(connection, rows, tenant=books.acme), rows)

    with pytest.raises(DBAPIError, match="does not sum to zero"):
        write()
    assert books.posted() == 0


def test_L1_a_role_posts_on_no_account_that_is_not_there(books: Ledger) -> None:
    rows = [(NOWHERE, "1", None, "USD"), *pair(books)[1:]]
    with pytest.raises(DBAPIError, match="that is not there"):
        books.write(rows, tenant=books.acme)
    assert books.posted() == 0


def test_L1_an_account_that_another_session_has_not_committed_is_not_there(books: Ledger) -> None:
    with books.database.engine.connect() as other, other.begin() as opening:
        other.execute(sa.text("SET LOCAL ROLE steelyard_operator"))
        opened = other.execute(
            sa.text(
                "INSERT INTO account (legal_entity_id, code, currency) "
                "VALUES (1, 'payment_fees', 'USD') RETURNING id"
            )
        ).scalar_one()
        rows = [(opened, "1", None, "USD"), *pair(books)[1:]]
        with pytest.raises(DBAPIError, match="that is not there"):
            books.write(rows, tenant=books.acme)
        opening.rollback()
    with pytest.raises(DBAPIError, match="that is not there"):
        books.write(rows, tenant=books.acme)
    assert books.posted() == 0


def test_L1_an_account_taken_back_with_a_savepoint_takes_its_postings_along(books: Ledger) -> None:
    with books.database.transaction(Role.OPERATOR) as connection:
        connection.execute(sa.text("SAVEPOINT before_the_account"))
        opened = connection.execute(
            sa.text(
                "INSERT INTO account (legal_entity_id, code, currency) "
                "VALUES (1, 'payment_fees', 'USD') RETURNING id"
            )
        ).scalar_one()
        rows = [(opened, "1", None, "USD"), *pair(books)[1:]]
        books.postings(connection, books.header(connection, rows, tenant=books.acme), rows)
        connection.execute(sa.text("ROLLBACK TO SAVEPOINT before_the_account"))
        kept = books.header(connection, pair(books), tenant=books.acme)
        books.postings(connection, kept, pair(books))
    assert books.posted() == 2


def test_B4_11_one_of_many_headers_in_a_closed_period_refuses_them_all(books: Ledger) -> None:
    books.write(pair(books), tenant=books.acme)
    closing = month_of(books)
    close(books, closing)
    copies = sa.text(
        "INSERT INTO ledger_transaction (id, legal_entity_id, tenant_id, kind, idempotency_key, "
        "reference, effective_at, posted_at, posting_count, postings_hash) "
        "SELECT gen_random_uuid(), legal_entity_id, tenant_id, kind, 'copy' || n, reference, "
        "CAST(:from AS timestamptz) - n * interval '1 day', posted_at, posting_count, "
        "postings_hash FROM ledger_transaction, generate_series(0, 4) AS n"
    )
    with (
        pytest.raises(DBAPIError, match="closed period"),
        books.database.transaction(Role.OPERATOR) as connection,
    ):
        connection.execute(copies, {"from": closing.end + timedelta(days=3)})
    assert books.posted() == 2


def test_B4_11_a_header_by_hand_waits_for_who_closes_its_period(books: Ledger) -> None:
    books.write(pair(books), tenant=books.acme)
    closing = month_of(books)

    def post_by_hand() -> UUID:
        return books.write(pair(books), tenant=books.acme)

    waiting = sa.text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
    with ThreadPoolExecutor(1) as threads:
        with books.database.transaction(Role.OPERATOR) as connection:
            close_now(connection, closing)
            posting = threads.submit(post_by_hand)
            while not connection.execute(waiting).scalar_one():
                assert not posting.done()
        with pytest.raises(DBAPIError, match="closed period"):
            posting.result()
    assert books.posted() == 2


def test_L7_every_header_of_a_statement_waits_for_the_seal(
    books: Ledger, owner: psycopg.Connection
) -> None:
    written = {books.write(pair(books), tenant=books.acme) for _ in range(3)}
    rows = owner.execute("SELECT transaction_id FROM unsealed_transaction").fetchall()
    assert {row[0] for row in rows} == written


def month_of(books: Ledger) -> Period:
    """The month of the books' `now()`, which is the database's and not the test's."""
    with books.database.transaction(Role.OPERATOR) as connection:
        at = connection.execute(sa.text("SELECT min(effective_at) FROM ledger_transaction"))
        first: datetime = at.scalar_one()
    return month(first.year, first.month, zone("UTC"))


def close(books: Ledger, period: Period) -> None:
    with books.database.transaction(Role.OPERATOR) as connection:
        close_now(connection, period)


def close_now(connection: sa.Connection, period: Period) -> None:
    entity = require_legal_entity(connection, None)
    close_period(
        connection,
        entity=entity,
        period=period,
        closed_by="controller",
        now=period.end + timedelta(days=3),
    )
