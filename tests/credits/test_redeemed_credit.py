"""Paid credit taxed at redemption: reserved by usage, a means of payment when it is invoiced."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from billing.errors import Conflict
from billing.invoicing.invoice import InvoiceTotals, check_mirrors, check_sums
from billing.ledger.account import AccountCode
from billing.ledger.credit_grant import CreditScope, TaxedAt
from billing.operations.credits.apply_credits import apply_credits
from billing.operations.credits.grant_credit import require_grant, void_grant
from billing.operations.credits.lapse_credits import expire_grants
from billing.operations.credits.read_credits import read_credit
from billing.operations.invoicing.draft_invoice import draft_invoice
from billing.operations.invoicing.read_invoices import InvoiceView, list_invoices
from billing.operations.payments.mirror_invoice import mirror_invoice
from billing.operations.payments.receive_payment import open_minor, receive_payment
from billing.operations.rating.accrue_usage import accrue_usage
from billing.payments import open_client
from billing.store import payments as payment_store
from billing.store import tenancy
from billing.store.credits import GrantRow
from billing.store.database import Database, Role
from billing.tenancy.tenant import Tenant
from tests.credits.grants import give, require_ties
from tests.credits.test_credit_on_invoices import balance, issue
from tests.fake_stripe import FakeStripe
from tests.operations.crash_points import Crash, crash_before
from tests.world import MONTH_END, World, make_world

JANUARY = datetime(2027, 1, 1, tzinfo=UTC)


@pytest.fixture
def world(database: Database, now: datetime) -> World:
    return make_world(database, now)


@pytest.fixture
def acme(world: World) -> Tenant:
    tenant = world.tenant("acme")
    world.use(tenant, {"tokens.input": 50_000_123})
    return tenant


def buy(world: World, tenant: Tenant, amount: str, *, key: str = "k", **terms: object) -> GrantRow:
    with world.database.transaction(Role.OPERATOR) as connection:
        start = tenant.billing_period(world.now).start
        return give(
            connection,
            tenant,
            amount,
            **{
                "key": key,
                "now": world.now,
                "paid": True,
                "taxed_at": TaxedAt.REDEMPTION,
                "starts_at": start,
                **terms,
            },
        )


def apply(world: World, tenant: Tenant, *, at: datetime) -> None:
    period = tenant.billing_period(world.now)
    with world.database.transaction(Role.OPERATOR) as connection:
        accrue_usage(connection, tenant=tenant, period=period, now=at)
        apply_credits(connection, tenant=tenant, period=period, now=at)
        require_ties(connection, tenant)


def again(world: World, row: GrantRow) -> GrantRow:
    with world.database.transaction(Role.OPERATOR) as connection:
        require_ties(connection, tenancy.tenant_by_id(connection, row.grant.tenant_id))
        return require_grant(connection, row.grant.id)


def available(world: World, tenant: Tenant, at: datetime) -> Decimal:
    with world.database.transaction(Role.OPERATOR) as connection:
        return read_credit(connection, tenant=tenant, now=at).balances[0].available


def require_paid_by_credit(world: World, tenant: Tenant, view: InvoiceView, minor: int) -> None:
    """R1 and I1: lines, tax and total are as without credit; what is due, and is owed, is less."""
    head = view.invoice
    totals = InvoiceTotals(
        subtotal_minor=head.subtotal_minor,
        tax_minor=head.tax_minor,
        total_minor=head.total_minor,
        amount_due_minor=head.amount_due_minor,
    )
    check_sums([line.amount_minor for line in view.lines], totals)
    assert head.total_minor - head.amount_due_minor == minor
    assert sum(row.amount for row in view.redeemed) * 100 == minor
    assert balance(world, tenant, AccountCode.RECEIVABLE) * 100 == head.amount_due_minor
    assert balance(world, tenant, AccountCode.UNBILLED) == head.residual_after


@pytest.mark.parametrize("amount_minor", [2300, None])
def test_R1_a_part_is_paid_and_the_rest_is_due(
    world: World, acme: Tenant, amount_minor: int | None
) -> None:
    row = buy(world, acme, "7.00")
    view = issue(world, acme)
    assert view.invoice.total_minor == 3000
    require_paid_by_credit(world, acme, view, 700)
    after = again(world, row)
    assert (after.used, after.remaining) == (7, 0)
    assert balance(world, acme, AccountCode.CONTRACT_LIABILITY) == 0
    assert -balance(world, acme, AccountCode.REVENUE) == Decimal("30.0000246")
    with world.database.transaction(Role.OPERATOR) as connection:
        paid = receive_payment(
            connection,
            invoice=str(view.invoice.id),
            amount_minor=amount_minor,
            into=AccountCode.BANK,
            idempotency_key="p",
            now=MONTH_END,
        )
        # What credit paid is not open any more.
        assert open_minor(connection, paid) == 0
    assert paid.state == "paid"
    assert balance(world, acme, AccountCode.RECEIVABLE) == 0


def test_R1_all_is_paid_to_the_minor_unit_and_nothing_is_mirrored(
    world: World, acme: Tenant
) -> None:
    row = buy(world, acme, "500.005", cost_basis=Decimal(500))
    view = issue(world, acme)
    assert (view.invoice.state, view.invoice.amount_due_minor) == ("paid", 0)
    require_paid_by_credit(world, acme, view, 3000)
    assert again(world, row).remaining == Decimal("470.005")


def test_R1_what_was_given_beyond_the_price_is_promotion(world: World, acme: Tenant) -> None:
    buy(world, acme, "9.00", cost_basis=Decimal(6))
    view = issue(world, acme)
    require_paid_by_credit(world, acme, view, 900)
    assert balance(world, acme, AccountCode.CONTRA_PROMOTION) == 3


def test_C1_scope_and_validity_bound_what_is_redeemed(world: World, acme: Tenant) -> None:
    scope = CreditScope(meters=frozenset({"tokens.input"}))
    scoped = buy(world, acme, "50.00", scope=scope)
    ended = buy(world, acme, "50.00", key="e", expires_at=world.now - timedelta(days=10))
    view = issue(world, acme)
    # Ten of input tokens, and of twenty of the platform fee what fell on the first days.
    assert again(world, scoped).used == 10
    assert again(world, ended).used == 0
    require_paid_by_credit(world, acme, view, 1000)


def test_C1_usage_reserves_and_neither_holds_nor_expiry_count_it_as_free(
    world: World, acme: Tenant
) -> None:
    ends = world.now + timedelta(hours=1)
    row = buy(world, acme, "50.00", expires_at=ends)
    earned = Decimal("30.0000246")
    for _ in range(2):
        apply(world, acme, at=world.now)
        assert available(world, acme, world.now) == 50 - earned
    assert again(world, row).used == 0
    with world.database.transaction(Role.OPERATOR) as connection:
        with pytest.raises(Conflict, match="not invoiced"):
            void_grant(connection, grant_id=row.grant.id, now=world.now)
        assert len(expire_grants(connection, now=ends)) == 1
        assert expire_grants(connection, now=ends) == []
    assert again(world, row).remaining == earned
    view = issue(world, acme)
    require_paid_by_credit(world, acme, view, 3000)
    with world.database.transaction(Role.OPERATOR) as connection:
        assert len(expire_grants(connection, now=MONTH_END)) == 1
    after = again(world, row)
    assert (after.used, after.remaining) == (30, 0)
    assert -balance(world, acme, AccountCode.BREAKAGE) == 20


def test_R4_later_invoices_redeem_only_what_they_bill(world: World, acme: Tenant) -> None:
    row = buy(world, acme, "100.00")
    issue(world, acme)
    apply(world, acme, at=MONTH_END)
    assert available(world, acme, MONTH_END) == 70
    world.use(acme, {"tokens.input": 5_000_000})
    apply(world, acme, at=MONTH_END)
    assert available(world, acme, MONTH_END) == 69
    view = issue(world, acme, JANUARY)
    assert view.invoice.total_minor - view.invoice.amount_due_minor == 2100
    assert again(world, row).remaining == 49
    assert available(world, acme, JANUARY) == 49


def test_I2_runs_repeated_and_raced_redeem_once(world: World, acme: Tenant) -> None:
    row = buy(world, acme, "7.00")
    with world.database.transaction(Role.OPERATOR) as connection:
        period = acme.billing_period(world.now)
        draft = draft_invoice(connection, tenant=acme, period=period, now=world.now)
        assert draft.amount_due_minor == draft.total_minor
    with ThreadPoolExecutor(4) as pool:
        views = list(pool.map(lambda _: issue(world, acme), range(4)))
    assert all(view == views[0] for view in views)
    require_paid_by_credit(world, acme, views[0], 700)
    assert again(world, row).used == 7


def test_L5_a_crash_at_any_statement_of_issuing_and_a_replay_redeem_once(
    world: World, acme: Tenant
) -> None:
    row = buy(world, acme, "7.00")
    number = 0
    while True:
        number += 1
        try:
            with crash_before(world.database.engine, number):
                view = issue(world, acme)
        except Crash:
            if number % 7 == 0:
                assert again(world, row).used == 0
            with world.database.transaction(Role.OPERATOR) as connection:
                assert list_invoices(connection, tenant_id=acme.id) == []
            continue
        break
    assert number > 30
    assert issue(world, acme) == view
    require_paid_by_credit(world, acme, view, 700)


def test_I1_the_mirror_shows_the_credit_as_a_line_and_the_amount_due(
    world: World, acme: Tenant
) -> None:
    buy(world, acme, "7.00")
    head = issue(world, acme).invoice
    with world.database.transaction(Role.OPERATOR) as connection:
        payment_store.request_mirror(connection, head.id, tenant_id=acme.id, now=MONTH_END)
    with FakeStripe() as fake, open_client(fake.api_key, fake.url) as client:
        mirror = mirror_invoice(world.database, client, head.id, now=MONTH_END)
        assert mirror.stripe_id is not None
        held = client.v1.invoices.line_items.list(mirror.stripe_id).data
        total = client.v1.invoices.retrieve(mirror.stripe_id).total
    assert [line.amount for line in held].count(-700) == 1
    totals = InvoiceTotals(
        subtotal_minor=head.subtotal_minor,
        tax_minor=head.tax_minor,
        total_minor=head.total_minor,
        amount_due_minor=head.amount_due_minor,
    )
    check_mirrors(totals, receivable_minor=head.total_minor, stripe_minor=total)
