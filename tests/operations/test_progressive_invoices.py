"""Invoices on the way: with the one that closes the period they come to what one alone would."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.catalog.price_plan import PricePlan
from billing.errors import InvalidPlan
from billing.invoicing.document_kind import DocumentKind, LineGroup, credited
from billing.invoicing.invoice import LineBasis, draft_credit_note, draft_invoice
from billing.money import EXACT, currency, from_minor, to_ledger, to_minor
from billing.operations.catalog.contracts import end_contract, list_contracts
from billing.operations.invoicing.issue_corrections import issue_corrections
from billing.operations.invoicing.issue_invoice import issue_invoice
from billing.operations.invoicing.verify_invoice import verify_invoices
from billing.planfiles.plan_diff import plan_differences
from billing.planfiles.plan_dump import dump
from billing.planfiles.plan_file import load_document, read_plan
from billing.rating.line import RatedLine
from billing.rating.pipeline import Slice, rate
from billing.rating.quantity import MeteredQuantity
from billing.store import invoices as store
from billing.store.database import Database, Role
from billing.store.invoices import InvoiceRow
from billing.tenancy.tenant import Tenant
from tests.operations.crash_points import dying_everywhere
from tests.world import MONTH_END, World, make_world
from workers.rating import accrue_changes

MINUTE = timedelta(minutes=1)
USD = currency("USD")
PLAN = """
slug: way
name: On the way
currency: USD
progressive_invoicing: {threshold: "25.00"}
charges:
  - {type: flat_fee, key: platform, description: Platform fee, amount: "20.00"}
  - type: graduated
    key: output
    description: Output tokens
    meter: tokens.output
    models: [tiny]
    per: 1000000
    minimum: "12.00"
    tiers:
      - {up_to: "1000000", unit: "0.805"}
      - {unit: "0.601"}
"""
FORMS = {
    "graduated": 'tiers: [{up_to: "1000", unit: "0.00707", flat: "1"}, {unit: "0.00333"}]',
    "volume": 'tiers: [{up_to: "1000", unit: "0.02"}, {unit: "0.00333"}]',
    "package": 'size: 70\n    price: "0.333"',
    "per_unit": 'price: "0.00777"',
}
BENT = """
slug: bent
name: Bent
currency: USD
charges:
  - {{type: flat_fee, key: platform, description: Platform fee, amount: "3.335"}}
  - type: {form}
    key: usage
    description: Usage
    meter: tokens.output
    models: [tiny]
    {price}
    minimum: "{minimum}"
    maximum: "{maximum}"
commitments:
  - {{key: spend, description: Committed, amount: "{committed}", overage_factor: "1.5"}}
coupons:
  - {{key: deal, description: Deal, percent_off: "{percent}"}}
"""


def rated_lines(plan: PricePlan, used: int, *, closes: bool) -> tuple[RatedLine, ...]:
    quantity = MeteredQuantity(meter="tokens.output", model="tiny", quantity=Decimal(used))
    return rate(plan, [quantity] if used else [], of=Slice(closes_period=closes)).lines


@given(
    form=st.sampled_from(sorted(FORMS)),
    uses=st.lists(st.integers(0, 900), min_size=1, max_size=8),
    minimum=st.sampled_from(["0", "7.005"]),
    maximum=st.sampled_from(["8.00", "1000"]),
    committed=st.sampled_from(["1.00", "50"]),
    percent=st.sampled_from(["10", "100"]),
)
def test_R2_invoices_on_the_way_add_up_to_the_one_at_the_end(
    *, form: str, uses: list[int], minimum: str, maximum: str, committed: str, percent: str
) -> None:
    plan = read_plan(
        BENT.format(
            form=form,
            price=FORMS[form],
            minimum=minimum,
            maximum=maximum,
            committed=committed,
            percent=percent,
        )
    )
    settled: dict[str, tuple[Decimal, int]] = {}
    residual, total = Decimal(0), 0
    for number, used in enumerate([*(sum(uses[:n]) for n in range(1, len(uses) + 1)), sum(uses)]):
        closes = number == len(uses)
        lines = {line.key: line for line in rated_lines(plan, used, closes=closes)}
        bases = tuple(
            LineBasis(
                key=key,
                description=key,
                quantity=None,
                exact=lines[key].exact if key in lines else Decimal(0),
                accrued_before=settled.get(key, (Decimal(0), 0))[0],
                invoiced_minor=settled.get(key, (Decimal(0), 0))[1],
            )
            for key in [*lines, *(key for key in settled if key not in lines)]
        )
        (away,) = credited([LineGroup(bases=bases, is_correction=False)], USD)
        if away and not closes:
            continue
        make = draft_credit_note if away else draft_invoice
        made = make(bases, currency=USD, residual_before=residual)
        residual, total = made.residual_after, total + made.totals.subtotal_minor
        settled = {base.key: (to_ledger(base.exact), to_minor(base.exact, USD)) for base in bases}
    final = rated_lines(plan, sum(uses), closes=True)
    for line in final:
        assert settled[line.key][1] == line.amount.minor
    earned = sum((to_ledger(line.exact) for line in final), Decimal(0))
    assert EXACT.add(from_minor(total, USD), residual) == earned


@pytest.fixture
def world(database: Database, now: datetime) -> World:
    return make_world(database, now, plan=PLAN)


def documents(world: World, tenant: Tenant) -> list[InvoiceRow]:
    with world.database.transaction(Role.OPERATOR) as connection:
        rows = store.invoices(connection, tenant_id=tenant.id)
    return sorted(rows, key=lambda row: row.number or "")


def close(world: World, tenant: Tenant) -> None:
    with world.database.transaction(Role.OPERATOR) as connection:
        issue_invoice(
            connection, tenant=tenant, period=tenant.billing_period(world.now), now=MONTH_END
        )


def test_the_worker_invoices_on_the_way_and_the_last_invoice_the_rest(world: World) -> None:
    acme, once = world.tenant("acme", plan="way"), world.tenant("once", plan="way")
    for minutes, millions in enumerate((2, 10, 1, 50)):
        world.use(acme, {"tokens.output": millions * 1_000_000 + 333_333})
        accrue_changes(world.database, now=world.now + minutes * MINUTE)
    made = documents(world, acme)
    assert [(row.kind, row.ordinal, row.state) for row in made] == [
        (DocumentKind.PROGRESSIVE, 1, "issued"),
        (DocumentKind.PROGRESSIVE, 2, "issued"),
    ]
    assert [row.subtotal_minor >= 2500 for row in made] == [True, True]
    # Nothing new, nothing invoiced.
    accrue_changes(world.database, now=world.now + timedelta(hours=1))
    assert documents(world, acme) == made
    close(world, acme)
    world.use(once, {"tokens.output": 63 * 1_000_000 + 4 * 333_333})
    close(world, once)
    (whole,) = documents(world, once)
    assert sum(row.subtotal_minor for row in documents(world, acme)) == whole.subtotal_minor
    assert documents(world, acme)[-1].kind == DocumentKind.PERIOD
    with world.database.transaction(Role.OPERATOR, snapshot=True) as connection:
        checked = list(verify_invoices(connection))
    assert [check.findings for check in checked] == [()] * 4


def test_L5_a_worker_that_dies_anywhere_invoices_once(world: World) -> None:
    acme = world.tenant("acme", plan="way")
    world.use(acme, {"tokens.output": 30_000_000})
    dying_everywhere(world.database.engine, lambda: accrue_changes(world.database, now=world.now))
    (made,) = documents(world, acme)
    assert (made.kind, made.number) == (DocumentKind.PROGRESSIVE, "INV-000001")


def test_unrated_usage_is_in_the_way_of_the_invoice_alone(world: World) -> None:
    acme = world.tenant("acme", plan="way")
    world.use(acme, {"tokens.output": 30_000_000})
    world.use(acme, {"tokens.output": 1}, model="unpriced")
    assert accrue_changes(world.database, now=world.now).posted == 1
    assert documents(world, acme) == []


def test_a_contract_may_end_in_a_period_that_was_invoiced_on_the_way(world: World) -> None:
    acme = world.tenant("acme", plan="way")
    world.use(acme, {"tokens.output": 30_000_000})
    accrue_changes(world.database, now=world.now)
    with world.database.transaction(Role.OPERATOR) as connection:
        (contract,) = list_contracts(connection, tenant_id=acme.id)
        end_contract(connection, contract.id, valid_until=world.now)
        assert issue_corrections(connection, tenant=acme, now=MONTH_END) == ()
    close(replace(world, now=world.now), acme)
    kinds = [row.kind for row in documents(world, acme)]
    # The fee of the days that are gone comes back.
    assert kinds == [DocumentKind.PROGRESSIVE, DocumentKind.PERIOD, DocumentKind.CREDIT_NOTE]
    assert sum(row.subtotal_minor for row in documents(world, acme)) == 1000 + 1823


def test_a_plan_says_from_which_amount_on() -> None:
    plan = read_plan(PLAN)
    assert dump(plan)["progressive_invoicing"] == {"threshold": "25"}
    assert load_document(dump(plan)) == plan
    (changed,) = plan_differences(plan, read_plan(PLAN.replace("25.00", "30.00")))
    assert (changed.field, changed.before, changed.after) == (
        "progressive_invoicing.threshold",
        "25",
        "30",
    )
    with pytest.raises(InvalidPlan) as refused:
        read_plan(PLAN.replace("25.00", "0"))
    assert "progressive_invoicing.threshold" in (refused.value.field or "")
