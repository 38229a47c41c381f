"""What windows left unused, from rating to the ledger: its line, its account, its corrections."""

from __future__ import annotations

import csv
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from io import StringIO

import pytest

from billing.ledger.account import AccountCode
from billing.ledger.template import Books
from billing.operations.exports.export_csv import export_invoices
from billing.operations.invoicing.draft_invoice import draft_invoice
from billing.operations.invoicing.explain_line import explain_lines
from billing.operations.invoicing.read_invoices import InvoiceView
from billing.operations.invoicing.verify_invoice import verify_invoices
from billing.operations.rating.accrue_usage import accrue_usage
from billing.operations.rating.live_balance import live_balance
from billing.period import Period
from billing.store import ledger
from billing.store.database import Database, Role
from billing.tenancy.tenant import Tenant
from tests.credits.grants import give, require_ties
from tests.world import MONTH_END, MONTH_START, World, issue, make_world

DECEMBER_END = MONTH_END + timedelta(days=31)
# 720 hours of a million tokens at 2.00 each in November: 1,440.00 used or not.
HELD = """
slug: held
name: Reserved by the hour
currency: USD
charges:
  - {type: reserved, key: held, description: Held, meter: tokens.output, models: [tiny],
     per: 1000000, window: hour, committed: "1000000", price: "2.00", overage: "5.00"}
"""
_EARNED = {"revenue": AccountCode.REVENUE, "unused": AccountCode.UNUSED_COMMITMENT}


@pytest.fixture
def world(database: Database, now: datetime) -> World:
    made = make_world(database, now)
    made.plan(HELD)
    return made


def earned(world: World, tenant: Tenant) -> dict[str, Decimal]:
    books = Books(legal_entity_id=1, tenant_id=tenant.id, currency="USD")
    with world.database.transaction(Role.OPERATOR) as connection:
        return {
            name: -ledger.balance(connection, books.account(code)) for name, code in _EARNED.items()
        }


def lines(view: InvoiceView) -> dict[str, tuple[str, int]]:
    return {line.key.split("/", 1)[1]: (line.kind, line.amount_minor) for line in view.lines}


def require_proved(world: World, *views: InvoiceView) -> None:
    """Every line can be redone, and every invoice is what raw events make of it."""
    with world.database.transaction(Role.OPERATOR, snapshot=True) as connection:
        told = [each for view in views for each in explain_lines(connection, view)]
        verified = list(verify_invoices(connection))
    assert [check for each in told for check in each.checks if not check.agrees] == []
    assert len(verified) == len(views)
    assert [finding for check in verified for finding in check.findings] == []


def test_C2_an_open_period_earns_what_is_used_and_its_end_what_is_not(world: World) -> None:
    acme = world.tenant(plan="held")
    world.use(acme, {"tokens.output": 1_500_000})
    period = acme.billing_period(world.now)
    with world.database.transaction(Role.OPERATOR) as connection:
        accrue_usage(connection, tenant=acme, period=period, now=world.now)
        draft = draft_invoice(connection, tenant=acme, period=period, now=world.now)
    assert draft.total_minor == 450
    (due,) = draft.inputs["due_at_end"]
    assert (due["key"], due["kind"], due["amount"]) == ("held:shortfall", "shortfall", "1438")
    assert due["text"] == "720 windows x 1 = 720 committed = 1 used + 719 unused"
    assert earned(world, acme) == {"revenue": Decimal("4.5"), "unused": 0}

    invoice = issue(world, acme)

    # One million at its price and half of one beyond it; 719 of 720 hours were not used.
    assert lines(invoice) == {"held": ("charge", 450), "held:shortfall": ("shortfall", 143_800)}
    assert earned(world, acme) == {"revenue": Decimal("4.5"), "unused": Decimal(1438)}
    require_proved(world, invoice)
    with world.database.transaction(Role.OPERATOR) as connection:
        text = export_invoices(connection, period=Period(start=MONTH_START, end=DECEMBER_END))
    rows = list(csv.DictReader(StringIO(text)))
    assert [(row["line_kind"], row["quantity"]) for row in rows] == [
        ("charge", "1500000"),
        ("shortfall", ""),
    ]


def test_late_usage_moves_what_was_unused_to_what_is_used_and_costs_nothing_more(
    world: World,
) -> None:
    acme = world.tenant(plan="held")
    world.use(acme, {"tokens.output": 1_500_000})
    november = issue(world, acme)
    late = replace(world, now=MONTH_END + timedelta(days=1))
    late.use(acme, {"tokens.output": 250_000}, occurred_at=world.now - timedelta(hours=5))

    december = issue(world, acme, DECEMBER_END)

    assert lines(december) == {
        # 744 hours of December.
        "held:shortfall": ("shortfall", 148_800),
        "held@2026-11-01": ("charge", 50),
        "held:shortfall@2026-11-01": ("shortfall", -50),
    }
    assert earned(world, acme) == {
        "revenue": Decimal(5),
        "unused": Decimal(1438) - Decimal("0.5") + 1488,
    }
    assert december.invoice.residual_after == 0
    require_proved(world, november, december)


def test_a_shortfall_that_is_gone_is_taken_back_where_it_was_earned(world: World) -> None:
    """The one window of a month is filled after it was invoiced."""
    world.plan(HELD.replace("slug: held", "slug: month").replace("window: hour", "window: period"))
    acme = world.tenant(plan="month")
    november = issue(world, acme)
    assert lines(november) == {"held:shortfall": ("shortfall", 200)}
    world.use(acme, {"tokens.output": 1_000_000})

    december = issue(world, acme, DECEMBER_END)

    assert lines(december) == {
        "held:shortfall": ("shortfall", 200),
        "held@2026-11-01": ("charge", 200),
        "held:shortfall@2026-11-01": ("shortfall", -200),
    }
    assert earned(world, acme) == {"revenue": 2, "unused": 2}
    require_proved(world, november, december)


def test_C1_credit_pays_what_was_used_and_what_was_not(world: World) -> None:
    acme = world.tenant(plan="held")
    world.use(acme, {"tokens.output": 1_500_000})
    with world.database.transaction(Role.OPERATOR) as connection:
        give(connection, acme, "1000.00", key="k", now=world.now, starts_at=MONTH_START)
    invoice = issue(world, acme)
    assert sorted(kind for kind, _ in lines(invoice).values()) == ["charge", "credit", "shortfall"]
    assert invoice.invoice.total_minor == 144_250 - 100_000
    with world.database.transaction(Role.OPERATOR) as connection:
        require_ties(connection, acme)
    require_proved(world, invoice)


def test_a_forecast_holds_the_reservation_once(world: World) -> None:
    """Half of the month is over. What it used and left unused both go on as they began."""
    idle, busy = world.tenant("idle", plan="held"), world.tenant("busy", plan="held")
    for day in range(14):
        at = MONTH_START + timedelta(days=day, hours=9)
        world.use(busy, {"tokens.output": 1_000_000}, occurred_at=at)
    found = {}
    for tenant in (idle, busy):
        with world.database.transaction(Role.TENANT, tenant_id=tenant.id) as connection:
            found[tenant.slug] = live_balance(connection, tenant=tenant, now=world.now)
    assert (found["idle"].rated, found["busy"].rated) == (0, 28)
    assert found["idle"].forecast.likely_minor == 144_000
    # The quarter hour that runs counts as its hour, and today's usage is still to come.
    assert 143_900 <= found["busy"].forecast.likely_minor <= 144_700
