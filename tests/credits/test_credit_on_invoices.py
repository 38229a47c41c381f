"""Credit on invoices: what was applied is billed no more, to the residual, and mirrored."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from billing.errors import Conflict
from billing.invoicing.invoice import LineBasis, LineKind, draft_invoice
from billing.ledger.account import AccountCode
from billing.ledger.template import Books
from billing.money import currency
from billing.operations.credits.apply_credits import apply_credits
from billing.operations.credits.grant_credit import require_grant
from billing.operations.exports.export_csv import export_hledger, export_invoices
from billing.operations.invoicing.read_invoices import InvoiceView
from billing.operations.payments.mirror_invoice import mirror_invoice
from billing.payments import open_client
from billing.period import Period
from billing.store import ledger
from billing.store import payments as payment_store
from billing.store.credits import GrantRow
from billing.store.database import Database, Role, only
from billing.tenancy.tenant import Tenant
from tests.credits.grants import give, require_ties
from tests.fake_stripe import FakeStripe
from tests.world import MONTH_END, World, issue, make_world

JANUARY = datetime(2027, 1, 1, tzinfo=UTC)
USD = currency("USD")


@pytest.fixture
def world(database: Database, now: datetime) -> World:
    return make_world(database, now)


@pytest.fixture
def acme(world: World) -> Tenant:
    tenant = world.tenant("acme")
    world.use(tenant, {"tokens.input": 5_000_123, "tokens.output": 1_237})
    return tenant


def grant(world: World, tenant: Tenant, amount: str, *, key: str, paid: bool = False) -> GrantRow:
    with world.database.transaction(Role.OPERATOR) as connection:
        return give(
            connection,
            tenant,
            amount,
            key=key,
            now=world.now,
            paid=paid,
            starts_at=tenant.billing_period(world.now).start,
        )


def balance(world: World, tenant: Tenant, code: AccountCode) -> Decimal:
    with world.database.transaction(Role.OPERATOR) as connection:
        entity = only(connection, "SELECT id FROM legal_entity").id
        books = Books(legal_entity_id=entity, tenant_id=tenant.id, currency="USD")
        return ledger.balance(connection, books.account(code))


def require_sums(world: World, tenant: Tenant, view: InvoiceView) -> None:
    """R1, and Unbilled holds the residual that the invoice carries, exactly."""
    head = view.invoice
    assert sum(line.amount_minor for line in view.lines) == head.subtotal_minor == head.total_minor
    assert head.total_minor >= 0
    assert balance(world, tenant, AccountCode.UNBILLED) == head.residual_after
    with world.database.transaction(Role.OPERATOR) as connection:
        require_ties(connection, tenant)


def credit_minor(view: InvoiceView) -> list[int]:
    return [line.amount_minor for line in view.lines if line.kind == LineKind.CREDIT]


@pytest.mark.parametrize("paid", [False, True])
def test_R1_credit_that_pays_a_part_is_a_line(world: World, acme: Tenant, paid: bool) -> None:
    row = grant(world, acme, "7.00", key="k", paid=paid)
    view = issue(world, acme)

    assert credit_minor(view) == [-700]
    assert view.lines[-1].key.endswith(f"/credit.{row.grant.id}")
    assert balance(world, acme, AccountCode.RECEIVABLE) == Decimal(view.invoice.total_minor) / 100
    used_from = AccountCode.CONTRACT_LIABILITY if paid else AccountCode.CONTRA_PROMOTION
    assert balance(world, acme, used_from) == (0 if paid else 7)
    require_sums(world, acme, view)


def test_R1_credit_that_pays_all_leaves_nothing_due(world: World, acme: Tenant) -> None:
    row = grant(world, acme, "500.00", key="k")
    view = issue(world, acme)

    assert view.invoice.total_minor == 0
    assert len(credit_minor(view)) == 1
    assert balance(world, acme, AccountCode.UNBILLED) == 0
    with world.database.transaction(Role.OPERATOR) as connection:
        used = require_grant(connection, row.grant.id).used
    assert used == -balance(world, acme, AccountCode.REVENUE)
    require_sums(world, acme, view)


def test_I2_runs_repeated_and_raced_bill_credit_once(world: World, acme: Tenant) -> None:
    for key in ("a", "b"):
        grant(world, acme, "3.00", key=key)
    with ThreadPoolExecutor(4) as pool:
        views = list(pool.map(lambda _: issue(world, acme), range(4)))

    assert all(view == views[0] for view in views)
    assert credit_minor(issue(world, acme)) == [-300, -300]
    require_sums(world, acme, views[0])


def test_R4_credit_applied_after_issue_is_on_the_next_invoice_once(
    world: World, acme: Tenant
) -> None:
    first = issue(world, acme)
    row = grant(world, acme, "4.00", key="late")
    with world.database.transaction(Role.OPERATOR) as connection:
        period = acme.billing_period(world.now)
        apply_credits(connection, tenant=acme, period=period, now=MONTH_END + timedelta(days=1))
    second = issue(world, acme, JANUARY)
    third = issue(world, acme, datetime(2027, 2, 1, tzinfo=UTC))

    assert credit_minor(first) == credit_minor(third) == []
    assert credit_minor(second) == [-400]
    assert f"credit.{row.grant.id}@2026-11-01" in second.lines[-1].key
    require_sums(world, acme, third)


def test_I1_the_mirror_has_the_credit_line_and_the_total(world: World, acme: Tenant) -> None:
    grant(world, acme, "7.00", key="k")
    view = issue(world, acme)
    head = view.invoice
    with world.database.transaction(Role.OPERATOR) as connection:
        payment_store.request_mirror(connection, head.id, tenant_id=acme.id, now=MONTH_END)
    with FakeStripe() as fake, open_client(fake.api_key, fake.url) as client:
        mirror = mirror_invoice(world.database, client, head.id, now=MONTH_END)
        assert mirror.stripe_id is not None
        held = client.v1.invoices.line_items.list(mirror.stripe_id).data
        total = client.v1.invoices.retrieve(mirror.stripe_id).total

    assert sorted(line.amount for line in held) == sorted(line.amount_minor for line in view.lines)
    assert total == head.total_minor


def test_exports_carry_the_credit(world: World, acme: Tenant) -> None:
    row = grant(world, acme, "7.00", key="k")
    issue(world, acme)
    with world.database.transaction(Role.OPERATOR) as connection:
        lines = export_invoices(connection, period=acme.billing_period(world.now))
        journal = export_hledger(
            connection, period=Period(start=world.now - timedelta(days=40), end=JANUARY)
        )

    assert any(f"credit.{row.grant.id}" in line and "-7.00" in line for line in lines.splitlines())
    contra = [line.split() for line in journal.splitlines() if "contra" in line and "USD" in line]
    assert sum(Decimal(amount) for _, amount, *_ in contra) == 7


def _basis(key: str, exact: str, kind: LineKind) -> LineBasis:
    return LineBasis(key=key, description=key, quantity=None, exact=Decimal(exact), kind=kind)


def test_credit_that_rounds_above_the_charges_is_cut_to_them() -> None:
    draft = draft_invoice(
        [
            _basis("a", "10.004", LineKind.CHARGE),
            _basis("b", "5.004", LineKind.CHARGE),
            _basis("c", "-15.008", LineKind.CREDIT),
        ],
        currency=USD,
    )

    assert [line.amount_minor for line in draft.lines] == [1000, 500, -1500]
    assert (draft.totals.total_minor, draft.residual_after) == (0, 0)


def test_credit_beyond_the_charges_stays_behind_and_pays_later_invoices() -> None:
    first = draft_invoice(
        [_basis("a", "3", LineKind.CHARGE), _basis("c", "-10", LineKind.CREDIT)], currency=USD
    )
    assert (first.totals.total_minor, first.residual_after) == (0, -7)
    second = draft_invoice(
        [_basis("a", "2", LineKind.CHARGE)], currency=USD, residual_before=first.residual_after
    )
    assert (second.totals.total_minor, second.residual_after) == (0, -5)


def test_charges_below_zero_are_refused_with_credit_too() -> None:
    with pytest.raises(Conflict):
        draft_invoice(
            [_basis("a", "-1", LineKind.CHARGE), _basis("c", "-1", LineKind.CREDIT)], currency=USD
        )
