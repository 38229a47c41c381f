"""Usage taken back: the credit that paid it returns to its grants, before and after invoicing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import pytest

from billing.invoicing.invoice import LineKind
from billing.ledger.account import AccountCode
from billing.ledger.credit_grant import Rollover
from billing.metering.correction import Correction
from billing.operations.credits.apply_credits import apply_credits
from billing.operations.credits.grant_credit import require_grant, void_grant
from billing.operations.credits.lapse_credits import expire_grants
from billing.operations.metering.correct_usage import correct_usage
from billing.operations.rating.accrue_usage import accrue_usage
from billing.store import credits as store
from billing.store.credits import GrantRow
from billing.store.database import Database, Role
from billing.tenancy.tenant import Tenant
from tests.credits.grants import give, require_ties
from tests.credits.test_credit_on_invoices import balance, issue, require_sums
from tests.operations.crash_points import Crash, crash_before
from tests.world import MONTH_END, World, make_world, usage_report

JANUARY = datetime(2027, 1, 1, tzinfo=UTC)


@pytest.fixture
def world(database: Database, now: datetime) -> World:
    return make_world(database, now)


@pytest.fixture
def acme(world: World) -> Tenant:
    return world.tenant("acme")


def usage(world: World, tenant: Tenant, millions: int) -> UUID:
    """Input tokens at 0.20 a million; the event's id."""
    (verdict,) = world.report(
        tenant, usage_report(quantity=millions * 1_000_000, occurred_at=world.now)
    )
    assert verdict.event_id is not None
    return verdict.event_id


def void(world: World, event: UUID, *, at: datetime) -> None:
    order = Correction(
        corrects=event, source="desk", foreign_id="v-1", reason="twice", quantities=None
    )
    with world.database.transaction(Role.OPERATOR) as connection:
        correct_usage(connection, order, tenant_id=None, actor="ada", now=at)


def run(world: World, tenant: Tenant, *, at: datetime) -> None:
    period = tenant.billing_period(world.now)
    with world.database.transaction(Role.OPERATOR) as connection:
        accrue_usage(connection, tenant=tenant, period=period, now=at)
        apply_credits(connection, tenant=tenant, period=period, now=at)
        require_ties(connection, tenant)


def grant(world: World, tenant: Tenant, amount: str, **members: object) -> GrantRow:
    with world.database.transaction(Role.OPERATOR) as connection:
        start = tenant.billing_period(world.now).start
        return give(
            connection,
            tenant,
            amount,
            **{"key": f"k-{amount}", "now": world.now, "starts_at": start, **members},
        )


def again(world: World, row: GrantRow) -> GrantRow:
    with world.database.transaction(Role.OPERATOR) as connection:
        return require_grant(connection, row.grant.id)


@pytest.mark.parametrize("paid", [False, True])
def test_C1_usage_taken_back_gives_its_credit_back_once(
    world: World, acme: Tenant, paid: bool
) -> None:
    event = usage(world, acme, 50)
    row = grant(world, acme, "100.00", paid=paid)
    run(world, acme, at=world.now)
    used = again(world, row).used
    void(world, event, at=world.now + timedelta(days=1))
    for days in (1, 1, 2):
        run(world, acme, at=world.now + timedelta(days=days))
    assert again(world, row).used == used - 10
    from_account = AccountCode.CONTRACT_LIABILITY if paid else AccountCode.CONTRA_PROMOTION
    assert balance(world, acme, from_account) == (used - 10 - 100 if paid else used - 10)
    assert balance(world, acme, AccountCode.UNBILLED) == 0


def test_C1_what_comes_back_pays_other_lines_first(world: World, acme: Tenant) -> None:
    event = usage(world, acme, 50)
    row = grant(world, acme, "10.00")
    run(world, acme, at=world.now)
    world.use(acme, {"tokens.output": 1_000_000})
    void(world, event, at=world.now)
    run(world, acme, at=world.now)
    after = again(world, row)
    assert (after.used, after.remaining) == (10, 0)
    unbilled = balance(world, acme, AccountCode.UNBILLED)
    assert unbilled == -balance(world, acme, AccountCode.REVENUE) - 10


def test_R1_credit_that_came_back_is_a_line_on_the_next_invoice(world: World, acme: Tenant) -> None:
    event = usage(world, acme, 50)
    row = grant(world, acme, "500.00")
    first = issue(world, acme)
    void(world, event, at=MONTH_END)
    second = issue(world, acme, JANUARY)
    back = [line for line in second.lines if line.kind == LineKind.CREDIT]
    assert first.invoice.total_minor == second.invoice.total_minor == 0
    assert {line.amount_minor for line in back if "@" in line.key} == {1000}
    assert sum(line.amount_minor for line in second.lines) == 0
    assert again(world, row).used == -balance(world, acme, AccountCode.REVENUE)
    require_sums(world, acme, second)
    third = issue(world, acme, datetime(2027, 2, 1, tzinfo=UTC))
    assert not any("2026-11-01" in line.key for line in third.lines)


def test_C1_credit_that_comes_back_after_its_end_lapses_and_rolls_over_no_more(
    world: World, acme: Tenant
) -> None:
    event = usage(world, acme, 50)
    ends = world.now + timedelta(hours=1)
    row = grant(
        world, acme, "60.00", paid=True, expires_at=ends, rollover=Rollover(fraction=Decimal(1))
    )
    run(world, acme, at=world.now)
    with world.database.transaction(Role.OPERATOR) as connection:
        expire_grants(connection, now=ends)
    void(world, event, at=ends)
    run(world, acme, at=ends)
    assert again(world, row).remaining == 10
    with world.database.transaction(Role.OPERATOR) as connection:
        assert len(expire_grants(connection, now=ends)) == 1
        require_ties(connection, acme)
        assert len(store.grants(connection, tenant_id=acme.id)) == 2
    assert -balance(world, acme, AccountCode.BREAKAGE) == 10


def test_C1_a_voided_grant_that_gets_credit_back_can_be_voided_again(
    world: World, acme: Tenant
) -> None:
    event = usage(world, acme, 50)
    row = grant(world, acme, "60.00", paid=True)
    run(world, acme, at=world.now)
    with world.database.transaction(Role.OPERATOR) as connection:
        void_grant(connection, grant_id=row.grant.id, now=world.now)
    void(world, event, at=world.now)
    run(world, acme, at=world.now)
    with world.database.transaction(Role.OPERATOR) as connection:
        assert void_grant(connection, grant_id=row.grant.id, now=world.now).remaining == 0
        require_ties(connection, acme)
    used = again(world, row).used
    assert (
        balance(world, acme, AccountCode.BANK) == used == -balance(world, acme, AccountCode.REVENUE)
    )


def test_L5_a_crash_while_credit_comes_back_and_a_second_run_give_the_same(
    world: World, acme: Tenant
) -> None:
    event = usage(world, acme, 50)
    row = grant(world, acme, "60.00", paid=True)
    run(world, acme, at=world.now)
    used = again(world, row).used
    void(world, event, at=world.now)
    number = 0
    while True:
        number += 1
        try:
            with crash_before(world.database.engine, number):
                run(world, acme, at=world.now)
        except Crash:
            assert again(world, row).used == used
            continue
        break
    assert number > 10
    run(world, acme, at=world.now)
    assert again(world, row).used == used - 10
