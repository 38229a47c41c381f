"""Invoices: one per period whoever runs it, numbers without gaps, residuals to the last decimal."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import count, pairwise

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing.errors import Conflict, NotFound
from billing.ledger.account import AccountCode
from billing.ledger.template import Books
from billing.money import currency, from_minor
from billing.operations.catalog.contracts import bind_contract
from billing.operations.invoicing.draft_invoice import draft_invoice
from billing.operations.invoicing.issue_invoice import issue_invoice
from billing.operations.invoicing.read_invoices import (
    InvoiceView,
    list_invoices,
    require_invoice,
)
from billing.operations.rating.accrue_usage import accrue_usage
from billing.period import Period
from billing.store import ledger
from billing.store.database import Database, Role
from billing.store.invoices import InvoiceRow
from billing.tenancy.tenant import Tenant
from tests.operations.test_ingest_usage import EXAMPLES
from tests.strategies import PATIENT
from tests.world import MONTH_END, MONTH_START, World, make_world

YEN = """
slug: yen
name: In yen
currency: JPY
charges:
  - {type: flat_fee, key: platform, description: Platform fee, amount: "20"}
  - {type: per_unit, key: images, description: Images, meter: tokens.cache_write, price: "0.52"}
"""
EXACT_LINES = """
slug: exact
name: Exact lines
currency: USD
charges:
  - {type: per_unit, key: a, description: A, meter: tokens.input, price: "0.001"}
  - {type: per_unit, key: b, description: B, meter: tokens.output, price: "0.0001"}
  - {type: per_unit, key: c, description: C, meter: requests, price: "20"}
"""
ONE_FRACTION = """
slug: fraction
name: A fraction a month
currency: USD
charges:
  - {type: flat_fee, key: platform, description: Platform fee, amount: "1.004"}
"""
NOTHING = """
slug: nothing
name: Nothing until used
currency: USD
charges:
  - {type: per_unit, key: a, description: A, meter: tokens.input, price: "0.001"}
"""
_slugs = (f"tenant-{number}" for number in count(1))


@pytest.fixture
def world(database: Database, now: datetime) -> World:
    return make_world(database, now)


def issue(world: World, tenant: Tenant, period: Period | None = None) -> InvoiceRow:
    chosen = period or tenant.billing_period(world.now)
    with world.database.transaction(Role.OPERATOR) as connection:
        return issue_invoice(connection, tenant=tenant, period=chosen, now=chosen.end)


def accrue(world: World, tenant: Tenant) -> Decimal:
    with world.database.transaction(Role.OPERATOR) as connection:
        return accrue_usage(
            connection, tenant=tenant, period=tenant.billing_period(world.now), now=world.now
        )


def balances(world: World, tenant: Tenant, currency_code: str = "USD") -> dict[str, Decimal]:
    books = Books(legal_entity_id=1, tenant_id=tenant.id, currency=currency_code)
    codes = (AccountCode.UNBILLED, AccountCode.RECEIVABLE, AccountCode.REVENUE)
    with world.database.transaction(Role.OPERATOR) as connection:
        return {
            code.name.lower(): ledger.balance(connection, books.account(code)) for code in codes
        }


def view(world: World, invoice: InvoiceRow) -> InvoiceView:
    with world.database.transaction(Role.OPERATOR) as connection:
        return require_invoice(connection, str(invoice.id), tenant_id=None)


def require_ties(world: World, tenant: Tenant, *invoices: InvoiceRow) -> None:
    """R1: lines, totals, receivable, revenue and residual agree to the last decimal."""
    for invoice in invoices:
        lines = view(world, invoice).lines
        assert sum(line.amount_minor for line in lines) == invoice.subtotal_minor
        assert invoice.subtotal_minor + invoice.tax_minor == invoice.total_minor
    code = invoices[-1].currency
    total = sum(from_minor(i.total_minor, currency(code)) for i in invoices)
    assert balances(world, tenant, code) == {
        "receivable": total,
        "unbilled": invoices[-1].residual_after,
        "revenue": -(total + invoices[-1].residual_after),
    }


def test_R1_the_worked_example_ties(world: World) -> None:
    world.plan(EXACT_LINES)
    acme = world.tenant(plan="exact")
    world.use(acme, {"tokens.input": 10_004, "tokens.output": 50_061})
    world.use(acme, {"requests": 1})
    invoice = issue(world, acme)
    # 10.004, 5.0061 and 20: accrued 35.0101, billed 35.01, and 0.0001 stays in Unbilled.
    assert [line.amount_minor for line in view(world, invoice).lines] == [1000, 501, 2000]
    assert (invoice.total_minor, invoice.residual_after) == (3501, Decimal("0.0001"))
    assert balances(world, acme)["revenue"] == Decimal("-35.0101")
    require_ties(world, acme, invoice)


def test_R1_the_residual_is_carried_until_it_is_a_cent(world: World) -> None:
    world.plan(ONE_FRACTION)
    acme = world.tenant(plan="fraction")
    period = acme.billing_period(world.now)
    issued: list[InvoiceRow] = []
    for _ in range(5):
        issued.append(issue(world, acme, period))
        period = acme.billing_period(period.end)
    residuals = [(invoice.residual_before, invoice.residual_after) for invoice in issued]
    kept = [Decimal(text) for text in ("0", "0.004", "0.008", "0.012", "0.006", "0.010")]
    assert residuals == list(pairwise(kept))
    lines = [[(line.kind, line.amount_minor) for line in view(world, i).lines] for i in issued]
    charge, residual = ("charge", 100), ("residual", 1)
    # What is left before an invoice is billed by it, once it is a whole cent: the fourth.
    assert lines == [[charge], [charge], [charge], [charge, residual], [charge]]
    assert [invoice.number for invoice in issued] == [f"INV-{n:06d}" for n in range(1, 6)]
    require_ties(world, acme, *issued)


def test_yen_have_no_minor_unit(world: World) -> None:
    world.plan(YEN)
    acme = world.tenant(plan="yen")
    world.use(acme, {"tokens.cache_write": 1})
    invoice = issue(world, acme)
    # The fee of 20 and 0.52, which is 1 yen: 20.52 accrued, 21 billed.
    assert (invoice.currency, invoice.total_minor) == ("JPY", 21)
    assert invoice.residual_after == Decimal("-0.48")
    require_ties(world, acme, invoice)


def test_a_period_without_usage_is_an_invoice_over_nothing(world: World) -> None:
    world.plan(NOTHING)
    acme = world.tenant(plan="nothing")
    invoice = issue(world, acme)
    assert (invoice.state, invoice.number, invoice.total_minor) == ("issued", "INV-000001", 0)
    assert view(world, invoice).lines == ()
    with world.database.transaction(Role.OPERATOR) as connection:
        assert ledger.totals(connection) == {}


def test_a_period_that_is_not_over_is_refused(world: World) -> None:
    acme = world.tenant()
    period = acme.billing_period(world.now)
    with (
        pytest.raises(Conflict, match="not over"),
        world.database.transaction(Role.OPERATOR) as connection,
    ):
        issue_invoice(
            connection, tenant=acme, period=period, now=period.end - timedelta(microseconds=1)
        )
    assert issue(world, acme).issued_at == period.end


def test_what_cannot_be_invoiced_is_refused_and_takes_no_number(world: World) -> None:
    world.plan(YEN)
    nobody = world.tenant("nobody", plan=None)
    with pytest.raises(NotFound):
        issue(world, nobody)
    world.tenant("both")
    with (
        pytest.raises(Conflict, match="currency"),
        world.database.transaction(Role.OPERATOR) as connection,
    ):
        bind_contract(connection, tenant="both", plan="yen", valid_from=MONTH_START, now=world.now)
    assert issue(world, world.tenant("acme")).number == "INV-000001"


def test_I2_a_race_gives_one_invoice_with_one_number(world: World) -> None:
    acme = world.tenant()
    world.use(acme, {"tokens.input": 1_234_567})
    runs = 6
    start = threading.Barrier(runs)

    def race(_: int) -> InvoiceRow:
        start.wait()
        return issue(world, acme)

    with ThreadPoolExecutor(runs) as threads:
        issued = list(threads.map(race, range(runs)))
    assert all(invoice == issued[0] for invoice in issued)
    with world.database.transaction(Role.OPERATOR) as connection:
        assert len(list_invoices(connection, tenant_id=None)) == 1
        taken = connection.execute(sa.text("SELECT next_number FROM number_series")).scalar_one()
    assert taken == 2
    require_ties(world, acme, issued[0])


def test_I2_tenants_issued_at_once_get_numbers_without_gaps(world: World) -> None:
    tenants = [world.tenant(f"racer-{number}") for number in range(8)]
    with ThreadPoolExecutor(4) as threads:
        numbers = [invoice.number for invoice in threads.map(lambda t: issue(world, t), tenants)]
    assert sorted(str(number) for number in numbers) == [f"INV-{n:06d}" for n in range(1, 9)]


def test_a_rolled_back_issue_gives_its_number_back(world: World) -> None:
    acme, birch = world.tenant("acme"), world.tenant("birch")

    class PowerCut(Exception):
        pass

    def issue_then_fail() -> None:
        with world.database.transaction(Role.OPERATOR) as connection:
            period = acme.billing_period(world.now)
            invoice = issue_invoice(connection, tenant=acme, period=period, now=MONTH_END)
            assert invoice.number == "INV-000001"
            raise PowerCut

    with pytest.raises(PowerCut):
        issue_then_fail()
    assert balances(world, acme) == {"unbilled": 0, "receivable": 0, "revenue": 0}
    assert issue(world, birch).number == "INV-000001"
    assert issue(world, acme).number == "INV-000002"


def test_R6_what_is_issued_is_what_was_drafted(world: World) -> None:
    acme = world.tenant()
    world.use(acme, {"tokens.input": 1_234_567, "tokens.output": 1_500_001})
    period = acme.billing_period(world.now)
    drafts: list[InvoiceView] = []
    for _ in range(2):
        with world.database.transaction(Role.OPERATOR) as connection:
            drafted = draft_invoice(connection, tenant=acme, period=period, now=world.now)
            drafts.append(require_invoice(connection, str(drafted.id), tenant_id=acme.id))
            assert ledger.totals(connection) == {}
    assert drafts[0].lines == drafts[1].lines
    issued = view(world, issue(world, acme))
    assert issued.lines == drafts[-1].lines
    changes = {
        name: getattr(issued.invoice, name)
        for name in ("id", "state", "number", "drafted_at", "issued_at", "due_at")
    }
    assert replace(drafts[-1].invoice, **changes) == issued.invoice
    assert changes["due_at"] == MONTH_END + timedelta(days=30)
    with world.database.transaction(Role.OPERATOR) as connection:
        assert len(list_invoices(connection, tenant_id=acme.id)) == 1
        # Drafting after the issue shows what was issued.
        again = draft_invoice(connection, tenant=acme, period=period, now=MONTH_END)
    assert again == issued.invoice


def test_usage_after_the_draft_is_in_the_invoice_and_usage_after_the_issue_is_not(
    world: World,
) -> None:
    acme = world.tenant()
    period = acme.billing_period(world.now)
    world.use(acme, {"tokens.input": 1_000_000})
    with world.database.transaction(Role.OPERATOR) as connection:
        draft = draft_invoice(connection, tenant=acme, period=period, now=world.now)
    world.use(acme, {"tokens.input": 1_000_000})
    issued = issue(world, acme)
    assert (draft.total_minor, issued.total_minor) == (2020, 2040)
    assert issued.watermark > draft.watermark
    world.use(acme, {"tokens.input": 1_000_000})
    assert issue(world, acme) == issued
    require_ties(world, acme, issued)


def test_accruing_often_posts_what_accruing_once_posts(world: World) -> None:
    often, once = world.tenant("often"), world.tenant("once")
    for tenant in (often, once):
        world.use(tenant, {"tokens.input": 1_234_567})
    assert accrue(world, often) == Decimal("20.2469134")
    assert accrue(world, often) == 0
    for tenant in (often, once):
        world.use(tenant, {"tokens.output": 999_999})
    assert accrue(world, often) == Decimal("0.7999992")
    for tenant in (often, once):
        world.use(tenant, {"tokens.output": 2})
    invoices = [issue(world, tenant) for tenant in (often, once)]
    assert balances(world, often) == balances(world, once)
    assert [i.total_minor for i in invoices] == [2105, 2105]
    for tenant, invoice in zip((often, once), invoices, strict=True):
        require_ties(world, tenant, invoice)


@given(
    parts=st.lists(
        st.tuples(
            st.sampled_from(["tokens.input", "tokens.cached_input", "tokens.output"]),
            st.one_of(st.integers(0, 10**4), st.integers(0, 10**12)),
            st.booleans(),
        ),
        max_size=8,
    )
)
@settings(
    PATIENT,
    max_examples=EXAMPLES,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
def test_R2_however_usage_is_split_over_accruals_the_ledger_is_the_same(
    world: World, parts: list[tuple[str, int, bool]]
) -> None:
    split, whole = world.tenant(next(_slugs)), world.tenant(next(_slugs))
    sums: dict[str, int | Decimal] = {}
    for meter, quantity, accrue_now in parts:
        world.use(split, {meter: quantity})
        sums[meter] = sums.get(meter, 0) + quantity
        if accrue_now:
            accrue(world, split)
    if sums:
        world.use(whole, sums)
    invoices = [issue(world, tenant) for tenant in (split, whole)]
    assert balances(world, split) == balances(world, whole)
    lines = [[(li.amount_minor, li.exact) for li in view(world, i).lines] for i in invoices]
    assert lines[0] == lines[1]
    for tenant, invoice in zip((split, whole), invoices, strict=True):
        require_ties(world, tenant, invoice)
