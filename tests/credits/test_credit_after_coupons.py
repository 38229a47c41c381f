"""The order of steps on an invoice: coupons, then credit, tax, means of payment."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from billing.invoicing.invoice import LineKind
from billing.operations.credits.apply_credits import apply_credits
from billing.operations.credits.grant_credit import require_grant
from billing.operations.invoicing.issue_invoice import issue_invoice
from billing.operations.invoicing.read_invoices import InvoiceView, require_invoice
from billing.operations.rating.accrue_usage import accrue_usage
from billing.store.credits import GrantRow
from billing.store.database import Database, Role
from billing.store.embedded.address import ServerAddress
from billing.tenancy.tenant import Tenant
from tests.conftest import migrated_copy
from tests.credits.grants import give, require_ties
from tests.world import MONTH_END, MONTH_START, World, make_world

NOW = datetime(2026, 11, 15, 12, 0, tzinfo=UTC)
PLAN = """
slug: reduced
name: Bounded and reduced
currency: USD
charges:
  - {type: per_unit, key: requests, description: Requests, meter: requests, price: "0.1",
     maximum: "80.00"}
  - {type: per_unit, key: input, description: Input, meter: tokens.input, price: "0.001"}
coupons:
  - {key: tenth, description: A tenth off, percent_off: "10"}
"""


@pytest.fixture(scope="module")
def world(postgres: ServerAddress) -> Iterator[World]:
    with migrated_copy(postgres) as name:
        database = Database(postgres.app_url(name))
        made = make_world(database, NOW)
        made.plan(PLAN)
        yield made
        database.close()


def grant(world: World, owner: Tenant, amount: str, *, paid: bool = False) -> GrantRow:
    with world.database.transaction(Role.OPERATOR) as connection:
        return give(
            connection, owner, amount, key=owner.slug, now=NOW, paid=paid, starts_at=MONTH_START
        )


def issue(world: World, owner: Tenant) -> InvoiceView:
    with world.database.transaction(Role.OPERATOR) as connection:
        period = owner.billing_period(NOW)
        row = issue_invoice(connection, tenant=owner, period=period, now=MONTH_END)
        require_ties(connection, owner)
        return require_invoice(connection, str(row.id), tenant_id=None)


def used(world: World, row: GrantRow) -> Decimal:
    with world.database.transaction(Role.OPERATOR) as connection:
        return require_grant(connection, row.grant.id).used


def by_kind(view: InvoiceView) -> dict[str, int]:
    found: dict[str, int] = {}
    for line in view.lines:
        found[line.kind] = found.get(line.kind, 0) + line.amount_minor
    return found


@pytest.mark.parametrize("paid", [False, True])
@pytest.mark.parametrize(("amount", "credit"), [("500.00", 9000), ("90.00", 9000), ("89.99", 8999)])
def test_C1_credit_covers_what_bounds_and_coupons_leave(
    world: World, amount: str, credit: int, *, paid: bool
) -> None:
    """Credit first would take 100.00, and a tenth off nothing."""
    owner = world.tenant(
        f"covers-{credit}-{amount.partition('.')[0]}-{paid}".lower(), plan="reduced"
    )
    world.use(owner, {"requests": 1000, "tokens.input": 20_000})
    row = grant(world, owner, amount, paid=paid)
    view = issue(world, owner)
    assert by_kind(view) == {
        LineKind.CHARGE: 12000,
        LineKind.MAXIMUM: -2000,
        LineKind.COUPON: -1000,
        LineKind.CREDIT: -credit,
    }
    assert view.invoice.total_minor == 9000 - credit
    assert view.invoice.residual_after == 0
    assert used(world, row) == Decimal(credit) / 100


def test_C1_credit_applied_day_by_day_pays_as_much_as_at_the_end(world: World) -> None:
    owner = world.tenant("daily", plan="reduced")
    row = grant(world, owner, "500.00")
    for day in range(3):
        now = MONTH_START + timedelta(days=day, hours=12)
        today = replace(world, now=now)
        today.use(owner, {"requests": 300, "tokens.input": 7001})
        with world.database.transaction(Role.OPERATOR) as connection:
            period = owner.billing_period(now)
            accrue_usage(connection, tenant=owner, period=period, now=now)
            apply_credits(connection, tenant=owner, period=period, now=now)
            require_ties(connection, owner)
    view = issue(world, owner)
    # 90.00 of requests are 80.00 at most; with 21.00 of input less a tenth.
    assert by_kind(view)[LineKind.COUPON] == -1010
    assert view.invoice.total_minor == 0
    assert used(world, row) == Decimal("80.00") + Decimal("21.003") - Decimal("10.10")


def test_usage_that_a_coupon_had_lowered_gives_back_what_credit_paid_too_much(world: World) -> None:
    """The maximum is reached after credit paid all that was due until then."""
    owner = world.tenant("reached", plan="reduced")
    row = grant(world, owner, "500.00")
    period = owner.billing_period(NOW)
    for requests, covered in ((700, "63.00"), (800, "72.00")):
        world.use(owner, {"requests": requests})
        with world.database.transaction(Role.OPERATOR) as connection:
            for _ in range(2):
                accrue_usage(connection, tenant=owner, period=period, now=NOW)
                apply_credits(connection, tenant=owner, period=period, now=NOW)
        assert used(world, row) == Decimal(covered)
