"""Accounting periods: closed once, in order, for good, and posters cannot slip in."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from decimal import Decimal
from threading import Event
from uuid import uuid4

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError

from billing.errors import Conflict, TieOutFailed
from billing.ledger.account import Account, AccountCode
from billing.ledger.posting import Transaction
from billing.ledger.template import Books, invoice_issued
from billing.operations.ledger.accounting_periods import close_period, verify_closed_periods
from billing.operations.ledger.read_books import read_balances, read_statement, trial_balance
from billing.operations.tenancy.tenants import require_legal_entity
from billing.period import Period, month, zone
from billing.store import books as store
from billing.store import ledger
from billing.store.books import Balance
from billing.store.database import Database, Role
from billing.store.embedded.address import ServerAddress
from billing.tenancy.tenant import LegalEntity, Tenant
from tests.world import make_world

OCTOBER = month(2026, 10, zone("UTC"))
NOVEMBER = month(2026, 11, zone("UTC"))
DECEMBER = month(2026, 12, zone("UTC"))
LATER = DECEMBER.end + timedelta(days=3)

Invoice = Callable[[sa.Connection, str, datetime], Transaction]


@pytest.fixture
def acme(database: Database, now: datetime) -> Tenant:
    return make_world(database, now).tenant("acme")


@pytest.fixture
def entity(database: Database, acme: Tenant) -> LegalEntity:
    with database.transaction(Role.OPERATOR) as connection:
        return require_legal_entity(connection, acme.legal_entity)


@pytest.fixture
def invoice(acme: Tenant, entity: LegalEntity) -> Invoice:
    books = Books(legal_entity_id=entity.id, tenant_id=acme.id, currency="USD")

    def post(connection: sa.Connection, amount: str, at: datetime) -> Transaction:
        transaction = Transaction(
            id=uuid4(),
            legal_entity_id=entity.id,
            tenant_id=acme.id,
            kind="invoice_issued",
            idempotency_key=str(uuid4()),
            effective_at=at,
            postings=invoice_issued(books, subtotal=Decimal(amount), tax=Decimal(0)),
        )
        assert ledger.post(connection, transaction, now=LATER)
        stored = ledger.stored_transaction(connection, transaction.id)
        assert stored is not None
        return stored

    return post


def close(database: Database, entity: LegalEntity, period: Period) -> None:
    with database.transaction(Role.OPERATOR) as connection:
        close_period(connection, entity=entity, period=period, closed_by="controller", now=LATER)


def test_B4_11_what_is_late_lands_in_the_open_period_with_its_own_time(
    database: Database, entity: LegalEntity, invoice: Invoice, now: datetime
) -> None:
    with database.transaction(Role.OPERATOR) as connection:
        on_time = invoice(connection, "10", now)
    close(database, entity, NOVEMBER)
    with database.transaction(Role.OPERATOR) as connection:
        late = invoice(connection, "5", now)
    assert (on_time.effective_at, on_time.originated_at) == (now, None)
    assert (late.effective_at, late.originated_at) == (NOVEMBER.end, now)


def test_B4_11_direct_sql_posts_nothing_into_a_closed_period(
    database: Database, entity: LegalEntity, invoice: Invoice, now: datetime
) -> None:
    with database.transaction(Role.OPERATOR) as connection:
        invoice(connection, "10", now)
    close(database, entity, NOVEMBER)
    copy = (
        "INSERT INTO ledger_transaction (id, legal_entity_id, tenant_id, kind, idempotency_key, "
        "reference, effective_at, posted_at, posting_count, postings_hash) "
        "SELECT gen_random_uuid(), legal_entity_id, tenant_id, kind, 'copy', reference, "
        "effective_at - CAST(:earlier AS interval), posted_at, posting_count, postings_hash "
        "FROM ledger_transaction"
    )
    for earlier in ("0 days", "400 days"):
        with (
            pytest.raises(IntegrityError, match="closed period"),
            database.transaction(Role.OPERATOR) as connection,
        ):
            connection.execute(sa.text(copy), {"earlier": earlier})
    # An old snapshot would not see a period that is being closed.
    with (
        pytest.raises(DBAPIError, match="READ COMMITTED only"),
        database.transaction(Role.OPERATOR, snapshot=True) as connection,
    ):
        invoice(connection, "1", NOVEMBER.end)


def test_B4_12_a_balance_as_of_a_closed_period_never_changes(
    database: Database, entity: LegalEntity, invoice: Invoice, now: datetime
) -> None:
    with database.transaction(Role.OPERATOR) as connection:
        invoice(connection, "10", now)
    close(database, entity, NOVEMBER)

    def at_the_end() -> list[store.Balance]:
        with database.transaction(Role.OPERATOR) as connection:
            assert verify_closed_periods(connection, entity=entity) >= 1
            return read_balances(connection, entity=entity, before=NOVEMBER.end, now=LATER)

    before = at_the_end()
    with database.transaction(Role.OPERATOR) as connection:
        for at in (now, OCTOBER.start, DECEMBER.start, LATER):
            invoice(connection, "7", at)
    close(database, entity, DECEMBER)
    assert at_the_end() == before
    assert {each.amount for each in before} == {Decimal(10), Decimal(-10)}


def test_a_closed_period_whose_balances_were_changed_is_found(
    database: Database,
    postgres: ServerAddress,
    database_name: str,
    entity: LegalEntity,
    invoice: Invoice,
) -> None:
    with database.transaction(Role.OPERATOR) as connection:
        invoice(connection, "10", NOVEMBER.start)
    close(database, entity, NOVEMBER)
    with psycopg.connect(postgres.owner_conninfo(database_name)) as owner:
        # Only the owner can, and only after it has switched off what refuses it.
        owner.execute("ALTER TABLE posting DISABLE TRIGGER append_only")
        owner.execute("UPDATE posting SET amount = 2 * amount")
    with (
        pytest.raises(TieOutFailed),
        database.transaction(Role.OPERATOR) as connection,
    ):
        verify_closed_periods(connection, entity=entity)
    with database.transaction(Role.OPERATOR) as connection:
        assert len(store.account_differences(connection)) == 2


@pytest.mark.parametrize(
    ("period", "first_closed"),
    [
        pytest.param(DECEMBER, None, id="an-earlier-one-is-open"),
        pytest.param(OCTOBER, None, id="before-the-books-begin"),
        pytest.param(NOVEMBER, NOVEMBER, id="closed-already"),
        pytest.param(OCTOBER, NOVEMBER, id="before-a-closed-one"),
        pytest.param(
            Period(start=NOVEMBER.start, end=NOVEMBER.start + timedelta(days=15)),
            None,
            id="half-a-month",
        ),
        pytest.param(month(2027, 1, zone("UTC")), DECEMBER, id="not-ended"),
    ],
)
def test_only_the_next_month_that_has_ended_closes(
    database: Database,
    entity: LegalEntity,
    invoice: Invoice,
    period: Period,
    first_closed: Period | None,
) -> None:
    with database.transaction(Role.OPERATOR) as connection:
        invoice(connection, "10", NOVEMBER.start)
    for each in (NOVEMBER, DECEMBER) if first_closed else ():
        close(database, entity, each)
        if each == first_closed:
            break
    with pytest.raises(Conflict):
        close(database, entity, period)


def test_direct_sql_closes_no_period_out_of_order(
    database: Database, entity: LegalEntity, invoice: Invoice, now: datetime
) -> None:
    with database.transaction(Role.OPERATOR) as connection:
        invoice(connection, "10", now)
    close(database, entity, NOVEMBER)
    for period in (NOVEMBER, OCTOBER, month(2027, 1, zone("UTC"))):
        with (
            pytest.raises(IntegrityError),
            database.transaction(Role.OPERATOR) as connection,
        ):
            store.insert_closed_period(
                connection,
                legal_entity_id=entity.id,
                period=period,
                closed_by="x",
                now=period.end,
            )


def test_closing_waits_for_a_poster_and_counts_what_it_posted(
    database: Database, entity: LegalEntity, invoice: Invoice, now: datetime
) -> None:
    begun = Event()

    def close_after_begin() -> None:
        begun.wait()
        close(database, entity, NOVEMBER)

    with ThreadPoolExecutor(1) as threads:
        with database.transaction(Role.OPERATOR) as connection:
            invoice(connection, "10", now)
            closing = threads.submit(close_after_begin)
            begun.set()
            waiting = sa.text(
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            )
            while not connection.execute(waiting).scalar_one():
                assert not closing.done()
            assert invoice(connection, "1", now).originated_at is None
        closing.result()
    with database.transaction(Role.OPERATOR) as connection:
        assert verify_closed_periods(connection, entity=entity) == 1
        found = read_balances(connection, entity=entity, before=NOVEMBER.end, now=LATER)
    assert {each.amount for each in found} == {Decimal(11), Decimal(-11)}


def test_a_statement_opens_with_what_was_and_closes_with_what_is(
    database: Database, acme: Tenant, entity: LegalEntity, invoice: Invoice, now: datetime
) -> None:
    with database.transaction(Role.OPERATOR) as connection:
        for amount, at in (("1", OCTOBER.start), ("10", now), ("20", now), ("40", NOVEMBER.end)):
            invoice(connection, amount, at)
        statement = read_statement(
            connection,
            entity=entity,
            code=AccountCode.RECEIVABLE.value,
            currency="USD",
            period=NOVEMBER,
            tenant=acme,
        )
        rows = trial_balance(read_balances(connection, entity=entity, now=LATER))
    assert (statement.opening, statement.closing) == (Decimal(1), Decimal(31))
    assert [line.amount for line in statement.lines] == [Decimal(10), Decimal(20)]
    assert [(row.code, row.debit, row.credit) for row in rows] == [
        (AccountCode.RECEIVABLE, Decimal(71), Decimal(0)),
        (AccountCode.UNBILLED, Decimal(0), Decimal(71)),
    ]


def test_a_trial_balance_has_no_zero_below_zero() -> None:
    account = Account(legal_entity_id=1, code=AccountCode.BANK, tenant_id=None, currency="USD")
    balances = [
        Balance(account=account, version=1, amount=Decimal(amount).quantize(Decimal("1E-12")))
        for amount in ("5", "-5")
    ]
    (row,) = trial_balance(balances)
    assert (row.debit, row.credit) == (0, 0)
    assert not row.debit.is_signed()
    assert not row.credit.is_signed()
