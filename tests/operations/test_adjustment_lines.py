"""Lines that bend a charge, from rating to the ledger: kinds, accounts, and what is still open."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest

from billing.ledger.account import AccountCode
from billing.ledger.template import Books
from billing.margin.report import GroupBy
from billing.operations.invoicing.draft_invoice import draft_invoice
from billing.operations.invoicing.issue_invoice import issue_invoice
from billing.operations.invoicing.read_invoices import InvoiceView, require_invoice
from billing.operations.margin.costs import record_costs
from billing.operations.margin.report_margin import report_margin
from billing.operations.rating.accrue_usage import accrue_usage
from billing.period import Period
from billing.store import ledger
from billing.store.database import Database, Role
from billing.tenancy.tenant import Tenant
from tests.world import MONTH_END, MONTH_START, World, make_world

BENT = """
slug: bent
name: Every kind of line
currency: USD
charges:
  - {type: per_unit, key: input, description: Input, meter: tokens.input, models: [tiny],
     price: "0.0001", maximum: "40.00"}
  - {type: per_unit, key: output, description: Output, meter: tokens.output, models: [tiny],
     price: "0.0001", minimum: "5.00"}
  - {type: per_unit, key: cached, description: Cached, meter: tokens.cached_input, models: [tiny],
     price: "0.0001", commitment: {amount: "10.00", overage_factor: "1.5"}}
commitments:
  - {key: together, description: Committed together, amount: "100.00", charges: [input, output]}
coupons:
  - {key: welcome, description: Welcome, percent_off: "10"}
"""
COSTS = f"""
currency: USD
period: {{from: "{MONTH_START:%Y-%m-%dT%H:%M:%SZ}", to: "{MONTH_END:%Y-%m-%dT%H:%M:%SZ}"}}
pools:
  - slug: chat
    gpu: {{hours: 10, rate: "2.10"}}
    models:
      tiny: {{input: 52000, output: 9800}}
"""
_CODES = {
    "revenue": AccountCode.REVENUE,
    "unused": AccountCode.UNUSED_COMMITMENT,
    "coupons": AccountCode.CONTRA_PROMOTION,
    "unbilled": AccountCode.UNBILLED,
    "receivable": AccountCode.RECEIVABLE,
}


@pytest.fixture
def world(database: Database, now) -> World:
    made = make_world(database, now)
    made.plan(BENT)
    return made


def balances(world: World, tenant: Tenant) -> dict[str, Decimal]:
    books = Books(legal_entity_id=1, tenant_id=tenant.id, currency="USD")
    with world.database.transaction(Role.OPERATOR) as connection:
        return {
            name: ledger.balance(connection, books.account(code)) for name, code in _CODES.items()
        }


def accrue(world: World, tenant: Tenant) -> Decimal:
    period = tenant.billing_period(world.now)
    with world.database.transaction(Role.OPERATOR) as connection:
        return accrue_usage(connection, tenant=tenant, period=period, now=world.now)


def issue(world: World, tenant: Tenant) -> InvoiceView:
    period = tenant.billing_period(world.now)
    with world.database.transaction(Role.OPERATOR) as connection:
        issued = issue_invoice(connection, tenant=tenant, period=period, now=period.end)
        return require_invoice(connection, str(issued.id), tenant_id=None)


def test_C2_each_kind_of_line_earns_on_its_own_account(world: World) -> None:
    acme = world.tenant(plan="bent")
    # Input 50, at most 40; output 3, at least 5; cached 12, 2 of it beyond the 10 committed.
    usage = {"tokens.input": 500_000, "tokens.output": 30_000, "tokens.cached_input": 120_000}
    world.use(acme, usage)
    invoice = issue(world, acme)
    lines = {line.key.split("/", 1)[1]: (line.kind, line.amount_minor) for line in invoice.lines}
    assert lines == {
        "input": ("charge", 5000),
        "input:maximum": ("maximum", -1000),
        "output": ("charge", 300),
        "output:minimum": ("minimum", 200),
        "cached": ("charge", 1200),
        "cached:overage": ("overage", 100),
        # Used 45 of 100 together.
        "together": ("true_up", 5500),
        # A tenth of 40 + 5 + 13 + 55.
        "welcome": ("coupon", -1130),
    }
    assert balances(world, acme) == {
        "revenue": Decimal(-58),
        "unused": Decimal(-55),
        "coupons": Decimal("11.3"),
        "unbilled": Decimal(0),
        "receivable": Decimal("101.7"),
    }


def test_M2_the_margin_report_holds_what_lines_earned_on_all_accounts(world: World) -> None:
    acme = world.tenant(plan="bent")
    world.use(acme, {"tokens.input": 500_000, "tokens.output": 30_000})
    issue(world, acme)
    with world.database.transaction(Role.OPERATOR) as connection:
        record_costs(connection, COSTS, now=MONTH_END)
    month = Period(start=MONTH_START, end=MONTH_END)
    held = balances(world, acme)
    earned = -(held["revenue"] + held["unused"] + held["coupons"])
    with world.database.transaction(Role.OPERATOR, snapshot=True) as connection:
        reports = {by: report_margin(connection, period=month, group_by=by) for by in GroupBy}
    assert earned == held["receivable"] > 0
    assert {report.posted for report in reports.values()} == {earned}
    by_model = {row.key: row.revenue for row in reports[GroupBy.MODEL].rows}
    # Of no model: 55 together and 10 of the cached commitment are missing, less a tenth of 110.
    assert by_model["tiny"] == Decimal(45)
    assert sum(by_model.values()) == earned


def test_a_line_that_is_no_longer_due_is_taken_back_where_it_was_earned(world: World) -> None:
    acme = world.tenant(plan="bent")
    world.use(acme, {"tokens.input": 10_000})
    end = acme.billing_period(world.now).end
    late = World(database=world.database, now=end)
    with world.database.transaction(Role.OPERATOR) as connection:
        period = acme.billing_period(world.now)
        accrue_usage(connection, tenant=acme, period=period, now=late.now)
    assert balances(world, acme)["unused"] == Decimal(-94 - 10)
    late.use(acme, {"tokens.input": 400_000, "tokens.output": 600_000}, occurred_at=world.now)
    with world.database.transaction(Role.OPERATOR) as connection:
        accrue_usage(connection, tenant=acme, period=period, now=late.now)
        again = accrue_usage(connection, tenant=acme, period=period, now=late.now)
    assert again == 0
    # 100 are used together by now; what is missing is 10 of cached input.
    assert balances(world, acme)["unused"] == Decimal(-10)


def test_a_draft_of_an_open_period_says_what_is_missing_and_an_invoice_bills_it(
    world: World,
) -> None:
    acme = world.tenant(plan="bent")
    world.use(acme, {"tokens.input": 100_000, "tokens.output": 30_000})
    assert accrue(world, acme) == Decimal("11.7")
    period = acme.billing_period(world.now)
    with world.database.transaction(Role.OPERATOR) as connection:
        draft = draft_invoice(connection, tenant=acme, period=period, now=world.now)
    due = {row["key"]: (row["kind"], row["amount"]) for row in draft.inputs["due_at_end"]}
    assert due == {
        "output:minimum": ("minimum", "2"),
        "cached:true_up": ("true_up", "10"),
        "together": ("true_up", "85"),
    }
    with world.database.transaction(Role.OPERATOR) as connection:
        over = draft_invoice(
            connection, tenant=acme, period=period, now=period.end + timedelta(days=1)
        )
    assert over.inputs["due_at_end"] == []
    billed = {line.key.split("/", 1)[1]: line.amount_minor for line in issue(world, acme).lines}
    assert {key: billed[key] for key in due} == {
        "output:minimum": 200,
        "cached:true_up": 1000,
        "together": 8500,
    }
