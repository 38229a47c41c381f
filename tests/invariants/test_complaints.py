"""What users of other billing engines complained about, each as a test that fails if we do it.

Numbers are those of the rows of complaints that the project collected; the rest of them are
tested where the code is that they concern.
"""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from decimal import Decimal
from time import sleep

import psycopg
import pytest

from billing.errors import AmountOutOfRange, InvalidInput
from billing.ledger.account import AccountCode
from billing.ledger.posting import Posting
from billing.ledger.template import Books
from billing.operations.catalog.contracts import bind_contract
from billing.operations.invoicing.issue_invoice import issue_invoice
from billing.operations.metering.read_usage import usage_of
from billing.operations.rating.accrue_usage import accrue_usage
from billing.operations.tenancy.tenants import create_legal_entity, create_tenant
from billing.period import Period
from billing.store import ledger
from billing.store.database import Database, Role, become, query
from billing.store.embedded.address import ServerAddress
from billing.store.invoices import InvoiceRow, lines, settled
from billing.store.usage.read import events, period_usage
from billing.tenancy.tenant import Tenant
from tests.operations.crash_points import Crash, crash_before
from tests.world import MONTH_END, MONTH_START, World, make_world, usage_report

FINE = """
slug: fine
name: Fine prices
currency: USD
charges:
  - {type: per_unit, key: input, description: In, meter: tokens.input, price: "0.000000000001"}
  - {type: per_unit, key: output, description: Out, meter: tokens.output, price: "0.005"}
"""
ABSENT_ON_PURPOSE = {
    # A draft has no number yet, and any number of drafts may have none.
    ("invoice_legal_entity_id_number_key", "number"),
    # Null says that there is none of what may be there once: a grant that was not rolled over, a
    # transaction that reverses nothing, a top-up that was declined, a hold that ended otherwise.
    ("credit_grant_rolled_from_key", "rolled_from"),
    ("ledger_transaction_reverses_key", "reverses"),
    ("top_up_resolution_grant_id_key", "grant_id"),
    ("hold_extended_once", "extension_id"),
    # Stripe has not answered yet.
    ("invoice_mirror_stripe_id_key", "stripe_id"),
    ("stripe_customer_stripe_id_key", "stripe_id"),
}
"""Unique columns that may be null, where any number of rows may have no value."""
NOVEMBER = Period(start=MONTH_START, end=MONTH_END)


@pytest.fixture
def world(database: Database, now: datetime) -> World:
    return make_world(database, now)


@pytest.fixture
def owner(postgres: ServerAddress, database_name: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(postgres.owner_conninfo(database_name), autocommit=True) as connection:
        yield connection


def issue(world: World, tenant: Tenant, period: Period = NOVEMBER) -> InvoiceRow:
    with world.database.transaction(Role.OPERATOR) as connection:
        return issue_invoice(connection, tenant=tenant, period=period, now=period.end)


def balance(world: World, tenant: Tenant, code: AccountCode) -> Decimal:
    books = Books(legal_entity_id=1, tenant_id=tenant.id, currency="USD")
    with world.database.transaction(Role.OPERATOR) as connection:
        return ledger.balance(connection, books.account(code))


def wait_for_a_waiter(owner: psycopg.Connection) -> None:
    """Return once a transaction of this database waits for a lock."""
    waiting = (
        "SELECT FROM pg_stat_activity WHERE datname = current_database() "
        "AND wait_event_type = 'Lock'"
    )
    while not owner.execute(waiting.encode()).fetchall():
        sleep(0.01)


# 3: a unique index over columns that may be null guarded nothing


def test_row_3_no_unique_index_lets_nulls_by(owner: psycopg.Connection) -> None:
    rows = owner.execute(
        "SELECT i.indexrelid::regclass::text, i.indpred IS NOT NULL, "
        "coalesce(pg_get_expr(i.indpred, i.indrelid), ''), "
        "array_agg(a.attname) FILTER (WHERE NOT a.attnotnull) "
        "FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid "
        "LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY (i.indkey) "
        "WHERE i.indisunique AND NOT i.indnullsnotdistinct "
        "AND c.relnamespace = 'public'::regnamespace AND c.relname NOT LIKE 'procrastinate%' "
        "GROUP BY 1, 2, 3"
    ).fetchall()
    assert len(rows) > 60
    holes = {
        (index, column)
        for index, partial, predicate, nullable in rows
        for column in nullable or ()
        # A row that has no such value is outside of a partial index on purpose.
        if not (partial and f"{column} IS NOT NULL" in predicate)
    }
    assert holes == ABSENT_ON_PURPOSE


# 12: a race on pending entries billed them twice; the watermark was older than the lock


def test_row_12_an_invoice_run_that_waited_reads_what_came_meanwhile(
    world: World, owner: psycopg.Connection
) -> None:
    acme = world.tenant()
    world.use(acme, {"tokens.input": 1_000_000})
    with ThreadPoolExecutor(1) as pool:
        with world.database.engine.connect() as connection, connection.begin() as dying:
            become(connection, Role.OPERATOR)
            issue_invoice(connection, tenant=acme, period=NOVEMBER, now=MONTH_END)
            second = pool.submit(issue, world, acme)
            wait_for_a_waiter(owner)
            world.use(acme, {"tokens.input": 2_000_000})
            dying.rollback()
        issued = second.result()
    with world.database.transaction(Role.OPERATOR) as connection:
        read = period_usage(connection, tenant_id=acme.id, period=NOVEMBER)
        billed = {line.key: line.quantity for line in lines(connection, issued.id)}
    assert issued.watermark == read.watermark
    assert issued.number == "INV-000001"
    assert [quantity for key, quantity in billed.items() if "input" in key] == [3_000_000]


def test_row_12_usage_during_two_runs_is_attached_to_one_invoice(
    world: World, owner: psycopg.Connection
) -> None:
    acme = world.tenant()
    world.use(acme, {"tokens.input": 1_000_000})
    with ThreadPoolExecutor(1) as pool:
        with world.database.engine.connect() as connection, connection.begin() as first:
            become(connection, Role.OPERATOR)
            issued = issue_invoice(connection, tenant=acme, period=NOVEMBER, now=MONTH_END)
            second = pool.submit(issue, world, acme)
            wait_for_a_waiter(owner)
            world.use(acme, {"tokens.input": 2_000_000})
            first.commit()
        assert second.result() == issued
    december = issue(world, acme, acme.billing_period(MONTH_END))
    assert december.total_minor - 40 == issued.total_minor - 20
    assert issue(world, acme) == issued


# 13: the invoice run read every event, and its memory grew with them


def test_row_13_an_invoice_takes_no_more_memory_for_more_events(world: World) -> None:
    """What it reads is compared in `test_complaints_growth.py`."""
    most: dict[int, int] = {}
    for per_bucket in (1, 200):
        tenant = world.tenant(f"with-{per_bucket}")
        for bucket in range(4):
            at = world.now - timedelta(minutes=15 * bucket)
            verdicts = world.report(
                tenant,
                *(
                    usage_report(foreign_id=f"{bucket}-{number}", occurred_at=at)
                    for number in range(per_bucket)
                ),
            )
            assert {each.kind for each in verdicts} == {"accepted"}
        with world.database.transaction(Role.OPERATOR) as connection:
            tracemalloc.start()
            issue_invoice(connection, tenant=tenant, period=NOVEMBER, now=MONTH_END)
            _, most[per_bucket] = tracemalloc.get_traced_memory()
            tracemalloc.stop()
    # An event is more than 100 bytes wherever it is kept, and there are 796 more of them.
    assert most[200] - most[1] < 40_000


# 14: an empty filter widened a query to everybody


def test_row_14_a_canary_tenant_is_in_nobodys_answer(world: World) -> None:
    canary, acme = world.tenant("canary"), world.tenant("acme")
    world.use(canary, {"tokens.input": 777_777_777}, model="canary-model")
    for role, whose in ((Role.TENANT, acme.id), (Role.OPERATOR, None)):
        with world.database.transaction(role, tenant_id=whose) as connection:
            answers = [
                usage_of(connection, tenant=acme, period=NOVEMBER, group="day"),
                events(connection, tenant_id=acme.id, period=NOVEMBER, limit=100),
                events(connection, tenant_id=0, period=NOVEMBER, limit=100),
            ]
        assert answers == [[], [], []]
    with world.database.transaction(Role.TENANT, tenant_id=canary.id) as connection:
        (row,) = usage_of(connection, tenant=canary, period=NOVEMBER, group="day")
    assert (row.model, row.quantity) == ("canary-model", 777_777_777)


# 20: an exact 3.685 against a stored 3.69 parked an account


def test_row_20_a_rounded_amount_never_disagrees_with_its_exact_one(world: World) -> None:
    world.plan(FINE)
    acme = world.tenant(plan="fine")
    world.use(acme, {"tokens.output": 737})
    first = issue(world, acme)
    assert (first.total_minor, first.residual_after) == (369, Decimal("-0.005"))
    with world.database.transaction(Role.OPERATOR) as connection:
        (line,) = (one for one in lines(connection, first.id) if one.amount_minor)
    # Both are kept, and neither is derived from the other again.
    assert (line.exact, line.amount_minor) == (Decimal("3.685"), 369)
    assert issue(world, acme) == first
    with world.database.transaction(Role.OPERATOR) as connection:
        period = acme.billing_period(world.now)
        assert accrue_usage(connection, tenant=acme, period=period, now=MONTH_END) == 0
    assert balance(world, acme, AccountCode.UNBILLED) == first.residual_after
    assert balance(world, acme, AccountCode.REVENUE) == Decimal("-3.685")
    december = acme.billing_period(MONTH_END)
    world.report(
        acme,
        usage_report(
            meter="tokens.output", quantity=1, occurred_at=world.now, foreign_id="half-a-cent"
        ),
    )
    second = issue(world, acme, december)
    total = Decimal(first.total_minor + second.total_minor) / 100
    assert total + second.residual_after == Decimal("3.690")
    assert balance(world, acme, AccountCode.UNBILLED) == second.residual_after


# 24: corrections were booked on the current period; numbers had gaps or one global lock


def test_row_24_a_correction_carries_the_period_that_it_corrects(world: World) -> None:
    acme = world.tenant()
    issue(world, acme)
    world.use(acme, {"tokens.input": 5_000_000}, occurred_at=MONTH_START)
    december = issue(world, acme, acme.billing_period(MONTH_END))
    with world.database.transaction(Role.OPERATOR) as connection:
        rows = query(
            connection,
            "SELECT s.period_start, s.contract_id, s.line_key, s.amount_minor "
            "FROM invoice_settlement s WHERE s.invoice_id = :id AND s.line_key LIKE '%input%'",
            id=december.id,
        )
        (posted,) = query(
            connection,
            "SELECT DISTINCT p.period_start FROM posting p WHERE p.line_key LIKE '%input%'",
        )
        assert [(row.period_start, row.amount_minor) for row in rows] == [(MONTH_START, 100)]
        assert posted.period_start == MONTH_START
        done = settled(connection, contract_id=rows[0].contract_id, period_start=MONTH_START)
    assert done[rows[0].line_key] == (Decimal(1), 100)


def test_row_24_numbers_are_gapless_per_series_while_runs_die_and_series_do_not_wait(
    world: World,
) -> None:
    database = world.database
    with database.transaction(Role.OPERATOR) as connection:
        create_legal_entity(
            connection,
            slug="smelter",
            name="Smelter Ltd",
            country="GB",
            currency_code="USD",
            zone_name="UTC",
            invoice_prefix="SM-",
            now=world.now,
        )
    tenants: list[Tenant] = []
    for number in range(12):
        with database.transaction(Role.OPERATOR) as connection:
            tenant = create_tenant(
                connection,
                slug=f"tenant-{number}",
                name="Tenant",
                legal_entity=("foundry", "smelter")[number % 2],
                now=world.now,
            )
            bind_contract(
                connection,
                tenant=tenant.slug,
                plan="standard",
                valid_from=MONTH_START,
                now=world.now,
            )
        tenants.append(tenant)
    with database.engine.connect() as connection, connection.begin() as held:
        become(connection, Role.OPERATOR)
        issue_invoice(connection, tenant=tenants[0], period=NOVEMBER, now=MONTH_END)
        # The other series goes on while this one's number is not decided.
        assert issue(world, tenants[1]).number == "SM-000001"
        held.rollback()
    for boundary in (20, 30, 10_000):
        with crash_before(database.engine, boundary):
            try:
                issue(world, tenants[2])
            except Crash:
                continue
    start = threading.Barrier(4)

    def issue_all(offset: int) -> None:
        start.wait()
        for place in range(len(tenants)):
            issue(world, tenants[(place + offset) % len(tenants)])

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(issue_all, range(0, 12, 3))) == [None] * 4
    with database.transaction(Role.OPERATOR) as connection:
        numbers = {row.number for row in query(connection, "SELECT number FROM invoice")}
    assert numbers == {f"{series}-{n:06d}" for series in ("INV", "SM") for n in range(1, 7)}


# 31: columns that overflowed or truncated without a word


def test_row_31_the_largest_usage_at_the_finest_price_is_exact_to_the_ledger(
    world: World,
) -> None:
    world.plan(FINE)
    acme = world.tenant(plan="fine")
    world.use(acme, {"tokens.input": 10**18 - 1})
    with world.database.transaction(Role.OPERATOR) as connection:
        period = acme.billing_period(world.now)
        assert accrue_usage(connection, tenant=acme, period=period, now=world.now) == Decimal(
            "999999.999999999999"
        )
    assert balance(world, acme, AccountCode.REVENUE) == Decimal("-999999.999999999999")
    assert balance(world, acme, AccountCode.UNBILLED) == Decimal("999999.999999999999")
    invoice = issue(world, acme)
    assert (invoice.total_minor, invoice.residual_after) == (100_000_000, Decimal("-1E-12"))


def test_row_31_what_is_out_of_range_raises_and_books_nothing(world: World) -> None:
    world.plan(FINE)
    acme = world.tenant(plan="fine")
    for quantity, error in (
        (Decimal(10**18 + 1), AmountOutOfRange),
        (Decimal("1E-19"), InvalidInput),
        (Decimal("NaN"), InvalidInput),
    ):
        with pytest.raises(error):
            usage_report(quantity=quantity, occurred_at=world.now)
    world.use(acme, {"tokens.input": 10**18})
    world.use(acme, {"tokens.input": 10**18})
    with world.database.transaction(Role.OPERATOR) as connection:
        read = period_usage(connection, tenant_id=acme.id, period=NOVEMBER)
        assert [row.quantity for row in read.quantities] == [2 * 10**18]
    with pytest.raises(AmountOutOfRange):
        issue(world, acme)
    assert balance(world, acme, AccountCode.REVENUE) == 0
    books = Books(legal_entity_id=1, tenant_id=acme.id, currency="USD")
    with pytest.raises(AmountOutOfRange):
        Posting(account=books.account(AccountCode.REVENUE), amount=Decimal(10) ** 26)
