"""L1 and L2 against writers who know the schema: a role's own SQL, and all that a session may make.

What a role may not do at all is in `test_ledger_refusals`; here are statements that a role has the
rights for, and that would still end in books or events which nobody wrote.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from time import sleep

import psycopg
import pytest
import sqlalchemy as sa
from psycopg import errors
from sqlalchemy.exc import DBAPIError, IntegrityError

from billing.operations.invoicing.draft_invoice import draft_invoice
from billing.store.database import Database, Role, become
from billing.store.embedded.address import ServerAddress
from tests.store.full_world import make_full_world
from tests.store.test_money_ledger import Ledger, make_books
from tests.world import MONTH_END

TYPES = (
    "timestamptz",
    "uuid",
    "text",
    "date",
    "bytea",
    "jsonb",
    "regclass",
    "xid8",
    "int4",
    "json",
)
"""Names of types that the database's own functions use and that are no key words."""


@pytest.fixture
def books(database: Database, now: datetime) -> Ledger:
    return make_books(database, now)


@pytest.fixture
def owner(postgres: ServerAddress, database_name: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(postgres.owner_conninfo(database_name), autocommit=True) as connection:
        yield connection


@pytest.fixture
def login(postgres: ServerAddress, database_name: str) -> Iterator[psycopg.Connection]:
    """A session of its own: functions are compiled once per session, with the types of then."""
    with psycopg.connect(postgres.app_conninfo(database_name), autocommit=True) as connection:
        yield connection


def switched_off(owner: psycopg.Connection) -> list[tuple[str, str]]:
    """Triggers that do not fire."""
    return owner.execute(
        "SELECT tgrelid::regclass::text, tgname FROM pg_trigger WHERE tgenabled <> 'O'"
    ).fetchall()


def lay_traps(login: psycopg.Connection) -> None:
    """Types of this session under well-known names: using one as the owner frees the ledger."""
    for name in TYPES:
        login.execute(
            f"CREATE FUNCTION pg_temp.trap_{name} (v pg_catalog.{name}) RETURNS boolean "
            "LANGUAGE plpgsql AS $$ BEGIN "
            "IF pg_catalog.pg_has_role(current_user, 'steelyard_owner', 'MEMBER') THEN "
            "  EXECUTE 'ALTER TABLE public.posting DISABLE TRIGGER ALL'; "
            "  EXECUTE 'ALTER TABLE public.usage_event DISABLE TRIGGER ALL'; "
            "END IF; RETURN true; END $$".encode()
        )
    for name in TYPES:
        login.execute(
            f"CREATE DOMAIN pg_temp.{name} AS pg_catalog.{name} "
            f"CHECK (pg_temp.trap_{name} (VALUE))".encode()
        )


@pytest.mark.parametrize(
    ("role", "statement"),
    [
        (Role.INGEST, "SELECT ensure_usage_partitions('2032-01-01Z', 1)"),
        (Role.MAINTAINER, "SELECT ensure_usage_partitions('2032-01-01Z', 1)"),
        (Role.MAINTAINER, "SELECT make_restored_usage('2026-11-01')"),
        (Role.OPERATOR, "SELECT books_closed_until(1)"),
        (Role.OPERATOR, "SELECT trial_balance_digest(1, now())"),
        (Role.OPERATOR, "SELECT take_hold(gen_random_uuid(), 1, 1, now(), now())"),
        (Role.OPERATOR, "SELECT resolve_hold(gen_random_uuid(), 1, 'posted', 1, now())"),
        (Role.OPERATOR, "SELECT settle_holds(1, now())"),
        (
            Role.OPERATOR,
            (
                "INSERT INTO invoice_scope SELECT id, period_start, period_end, tenant_id, 1 "
                "FROM invoice WHERE state = 'draft'"
            ),
        ),
    ],
)
def test_L2_no_type_of_a_session_is_used_with_the_owners_rights(
    database: Database, owner: psycopg.Connection, login: psycopg.Connection,
    role: Role, statement: str,
) -> None:  # fmt: skip
    full = make_full_world(database)
    later = MONTH_END + timedelta(days=3)
    with database.transaction(Role.OPERATOR) as connection:
        december = full.acme.billing_period(later)
        draft_invoice(connection, tenant=full.acme, period=december, now=later)
    owner.execute("DELETE FROM invoice_scope WHERE period_start >= '2026-12-01Z'")
    login.execute(f"SET ROLE {role}".encode())
    lay_traps(login)
    login.execute(statement.encode())
    assert switched_off(owner) == []


def test_L1_no_table_of_a_session_stands_in_for_the_ledgers(books: Ledger) -> None:
    rows = [books.row("acme.receivable", "1"), books.row("acme.unbilled", "-0.5")]

    def write_behind_shadows() -> None:
        with books.database.transaction(Role.OPERATOR) as connection:
            for name in ("posting", "account", "ledger_transaction", "account_balance", "contract"):
                connection.execute(sa.text(f"CREATE TEMP TABLE {name} (LIKE public.{name})"))
            connection.execute(
                sa.text(
                    "INSERT INTO public.ledger_transaction (id, legal_entity_id, tenant_id, kind, "
                    "idempotency_key, reference, effective_at, posted_at, posting_count, "
                    "postings_hash) VALUES (:id, 1, :tenant, 'x', 'x', 'x', now(), now(), 2, "
                    "sha256(''))"
                ),
                {"id": "0190c0de-0000-7000-8000-000000000001", "tenant": books.acme},
            )
            for ordinal, (account, amount, tenant, currency) in enumerate(rows):
                connection.execute(
                    sa.text(
                        "INSERT INTO public.posting (transaction_id, ordinal, account_id, "
                        "tenant_id, currency, amount) VALUES ("
                        "'0190c0de-0000-7000-8000-000000000001', :o, :a, :t, :c, :m)"
                    ),
                    {"o": ordinal, "a": account, "t": tenant, "c": currency, "m": amount},
                )

    with pytest.raises(IntegrityError, match="does not sum to zero"):
        write_behind_shadows()
    assert books.posted() == 0


ONE_STATEMENT = """
WITH header AS (
    INSERT INTO ledger_transaction (id, legal_entity_id, tenant_id, kind, idempotency_key,
        reference, effective_at, posted_at, posting_count, postings_hash)
    VALUES ('0190c0de-0000-7000-8000-000000000002', 1, :tenant, 'x', 'x', 'x', now(), now(), 2,
            sha256(convert_to('0|' || :debit || '|1.000000000000' || E'\\n'
                              '1|' || :credit || '|' || :amount, 'UTF8')))
    RETURNING id
)
INSERT INTO posting (transaction_id, ordinal, account_id, tenant_id, currency, amount)
SELECT id, ordinal, account, :tenant, 'USD', CAST(amount AS numeric) FROM header, (VALUES
    (0, CAST(:debit AS integer), '1.000000000000'),
    (1, CAST(:credit AS integer), :amount)) AS v (ordinal, account, amount)
"""


@pytest.mark.parametrize(
    ("amount", "accepted"), [("-1.000000000000", True), ("-0.999999999999", False)]
)
def test_L1_header_and_postings_of_one_statement_are_checked_too(
    books: Ledger, amount: str, accepted: bool
) -> None:
    values = {
        "tenant": books.acme,
        "debit": str(books.accounts["acme.receivable"]),
        "credit": str(books.accounts["acme.unbilled"]),
        "amount": amount,
    }

    def write() -> None:
        with books.database.transaction(Role.OPERATOR) as connection:
            connection.execute(sa.text(ONE_STATEMENT), values)

    if accepted:
        write()
    else:
        with pytest.raises(IntegrityError, match="does not sum to zero"):
            write()
    assert books.posted() == (2 if accepted else 0)


@pytest.mark.parametrize(
    "statement",
    [
        (
            "MERGE INTO posting p USING (SELECT) AS s ON false WHEN NOT MATCHED THEN INSERT "
            "(transaction_id, ordinal, account_id, tenant_id, currency, amount) "
            "VALUES ('{id}', 2, {account}, {tenant}, 'USD', 1)"
        ),
        (
            "INSERT INTO posting (transaction_id, ordinal, account_id, tenant_id, currency, "
            "amount) VALUES ('{id}', 2, {account}, {tenant}, 'USD', 1) ON CONFLICT DO NOTHING"
        ),
        (
            "CREATE TEMP VIEW mine AS SELECT * FROM posting; INSERT INTO mine (transaction_id, "
            "ordinal, account_id, tenant_id, currency, amount) "
            "VALUES ('{id}', 2, {account}, {tenant}, 'USD', 1)"
        ),
        (
            "CREATE FUNCTION pg_temp.mine() RETURNS void LANGUAGE sql SECURITY DEFINER AS $$ "
            "INSERT INTO public.posting (transaction_id, ordinal, account_id, tenant_id, currency, "
            "amount) VALUES ('{id}', 2, {account}, {tenant}, 'USD', 1) $$; SELECT pg_temp.mine()"
        ),
        (
            "SAVEPOINT a; INSERT INTO ledger_transaction SELECT * FROM ledger_transaction "
            "ON CONFLICT DO NOTHING; INSERT INTO posting (transaction_id, ordinal, account_id, "
            "tenant_id, currency, amount) VALUES ('{id}', 2, {account}, {tenant}, 'USD', 1)"
        ),
    ],
)
def test_L1_no_statement_adds_to_a_committed_transaction(books: Ledger, statement: str) -> None:
    rows = [books.row("acme.receivable", "1"), books.row("acme.unbilled", "-1")]
    committed = books.write(rows, tenant=books.acme)
    values = {"id": committed, "account": rows[0][0], "tenant": books.acme}
    *before, last = statement.format(**values).split("; ")
    with books.database.engine.connect() as connection, connection.begin() as attempt:
        become(connection, Role.OPERATOR)
        for step in before:
            connection.execute(sa.text(step))
        with pytest.raises(IntegrityError, match="cannot join a committed"):
            connection.execute(sa.text(last))
        attempt.rollback()
    assert books.posted() == 2


def test_L1_rolling_back_to_a_savepoint_takes_back_the_check_as_well(books: Ledger) -> None:
    rows = [books.row("acme.receivable", "1"), books.row("acme.unbilled", "-1")]

    def write_check_and_undo(kept: int) -> None:
        with books.database.transaction(Role.OPERATOR) as connection:
            transaction = books.header(connection, rows, tenant=books.acme)
            books.postings(connection, transaction, rows[:kept])
            connection.execute(sa.text("SAVEPOINT before_the_rest"))
            books.postings(connection, transaction, rows[kept:], start=kept)
            connection.execute(sa.text("SET CONSTRAINTS ALL IMMEDIATE"))
            connection.execute(sa.text("ROLLBACK TO SAVEPOINT before_the_rest"))

    for kept in (0, 1):
        with pytest.raises(DBAPIError) as refused:
            write_check_and_undo(kept)
        assert isinstance(refused.value.orig, errors.IntegrityConstraintViolation)
    assert books.posted() == 0


def test_L1_another_session_adds_nothing_to_a_transaction_that_is_open(books: Ledger) -> None:
    rows = [books.row("acme.receivable", "1"), books.row("acme.unbilled", "-1")]
    with books.database.transaction(Role.OPERATOR) as connection:
        transaction = books.header(connection, rows, tenant=books.acme)
        books.postings(connection, transaction, rows[:1])
        with (
            pytest.raises(IntegrityError, match="committed or missing"),
            books.database.transaction(Role.OPERATOR) as other,
        ):
            books.postings(other, transaction, rows[1:], start=1)
        books.postings(connection, transaction, rows[1:], start=1)
    assert books.posted() == 2


def test_L1_not_a_number_balances_nothing(books: Ledger) -> None:
    rows = [books.row("acme.receivable", "NaN"), books.row("acme.unbilled", "NaN")]
    with pytest.raises(DBAPIError, match="does not sum to zero"):
        books.write(rows, tenant=books.acme)
    grant = (
        "INSERT INTO credit_grant (id, tenant_id, legal_entity_id, currency, amount, kind, "
        "cost_basis, counts_toward_commitment, priority, starts_at, recurs, source, "
        "idempotency_key, granted_at) VALUES (gen_random_uuid(), :tenant, 1, 'USD', 'NaN', "
        "'promotional', 0, false, 0, now(), false, '', 'x', now())"
    )
    with (
        pytest.raises(IntegrityError, match="amounts_are_numbers"),
        books.database.transaction(Role.OPERATOR) as connection,
    ):
        connection.execute(sa.text(grant), {"tenant": books.acme})


def test_L1_a_posting_counts_for_a_contract_of_its_own_tenant_only(books: Ledger) -> None:
    rows = [books.row("acme.receivable", "1"), books.row("acme.unbilled", "-1")]
    with books.database.transaction(Role.OPERATOR) as connection:
        contract = connection.execute(
            sa.text("SELECT id FROM contract WHERE tenant_id = :birch"), {"birch": books.birch}
        ).scalar_one()

    def write_for_another() -> None:
        with books.database.transaction(Role.OPERATOR) as connection:
            transaction = books.header(connection, rows, tenant=books.acme)
            connection.execute(
                sa.text(
                    "INSERT INTO posting (transaction_id, ordinal, account_id, tenant_id, "
                    "currency, amount, contract_id, period_start, line_key) VALUES (:id, 0, "
                    ":account, :tenant, 'USD', 1, :contract, now(), 'input')"
                ),
                {
                    "id": transaction,
                    "account": rows[0][0],
                    "tenant": books.acme,
                    "contract": contract,
                },
            )

    with pytest.raises(IntegrityError, match="contract and transaction do not belong together"):
        write_for_another()


def test_L1_rows_are_copied_into_no_book(books: Ledger, login: psycopg.Connection) -> None:
    login.execute("SET ROLE steelyard_operator")
    for table in ("posting", "ledger_transaction", "account", "credit_event", "invoice_line"):
        with (
            pytest.raises(errors.FeatureNotSupported, match="row-level security"),
            login.cursor() as cursor,
            cursor.copy(f"COPY {table} FROM STDIN".encode()) as copy,
        ):
            copy.write(b"\n")


def test_L2_what_is_referred_to_takes_no_ledger_row_with_it(owner: psycopg.Connection) -> None:
    rows = owner.execute(
        "SELECT k.conrelid::regclass::text, k.conname FROM pg_constraint k "
        "JOIN pg_trigger t ON t.tgrelid = k.conrelid AND t.tgname = 'append_only' "
        "WHERE k.contype = 'f' AND (k.confdeltype NOT IN ('a', 'r') OR k.confupdtype NOT IN "
        "('a', 'r'))"
    ).fetchall()
    assert rows == []


def test_L2_no_line_joins_an_invoice_that_is_just_being_issued(
    database: Database, owner: psycopg.Connection
) -> None:
    full = make_full_world(database)
    later = MONTH_END + timedelta(days=3)
    with database.transaction(Role.OPERATOR) as connection:
        december = full.acme.billing_period(later)
        draft = draft_invoice(connection, tenant=full.acme, period=december, now=later)
    line = sa.text("INSERT INTO invoice_quantity VALUES (:id, 99, :tenant, 1, 'requests', NULL, 1)")
    values = {"id": draft.id, "tenant": full.acme.id}

    def add_a_line() -> None:
        with database.transaction(Role.OPERATOR) as other:
            other.execute(line, values)

    with ThreadPoolExecutor(1) as pool:
        with database.transaction(Role.OPERATOR) as connection:
            connection.execute(
                sa.text(
                    "UPDATE invoice SET state = 'issued', number = 'INV-777777', "
                    "issued_at = now(), due_at = now() WHERE id = :id"
                ),
                {"id": draft.id},
            )
            adding = pool.submit(add_a_line)
            wait_until_it_waits(owner)
        with pytest.raises(IntegrityError, match="issued invoice"):
            adding.result()


def wait_until_it_waits(owner: psycopg.Connection) -> None:
    waiting = (
        b"SELECT FROM pg_stat_activity WHERE datname = current_database() "
        b"AND wait_event_type = 'Lock'"
    )
    for _ in range(1_000):
        if owner.execute(waiting).fetchall():
            return
        sleep(0.01)
    pytest.fail("nobody waited")


@pytest.mark.parametrize("change", ["epoch = epoch - 1", "epoch = epoch", "shard = 1"])
def test_L8_no_writer_turns_the_epoch_back(database: Database, change: str) -> None:
    make_full_world(database)
    with (
        pytest.raises(DBAPIError, match="epochs only grow"),
        database.transaction(Role.INGEST) as connection,
    ):
        connection.execute(sa.text(f"UPDATE ledger_epoch SET {change}"))
