"""Payments: once per key, never beyond what is open, and never lost between two ways to pay."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
import stripe

from billing.errors import Conflict, IdempotencyConflict
from billing.ledger.account import AccountCode
from billing.operations.invoicing.issue_invoice import issue_invoice
from billing.operations.invoicing.read_invoices import require_invoice
from billing.operations.payments.mirror_invoice import mirror_invoice
from billing.operations.payments.receive_payment import receive_payment
from billing.operations.payments.stripe_events import apply_event
from billing.payments import open_client
from billing.store import ledger
from billing.store import payments as store
from billing.store.database import Database, Role
from billing.store.invoices import InvoiceRow
from billing.tenancy.tenant import Tenant
from tests.fake_stripe import FakeStripe
from tests.world import MONTH_END, make_world

JANUARY = datetime(2027, 1, 1, tzinfo=UTC)
FEBRUARY = datetime(2027, 2, 1, tzinfo=UTC)
FEE_MINOR = 2000


def _issue(database: Database, tenant: Tenant, end: datetime) -> InvoiceRow:
    period = tenant.billing_period(end - timedelta(days=1))
    with database.transaction(Role.OPERATOR) as connection:
        return issue_invoice(connection, tenant=tenant, period=period, now=end)


def _pay(database: Database, invoice: InvoiceRow, key: str) -> InvoiceRow:
    with database.transaction(Role.OPERATOR) as connection:
        return receive_payment(
            connection,
            invoice=str(invoice.id),
            amount_minor=FEE_MINOR,
            into=AccountCode.BANK,
            idempotency_key=key,
            now=FEBRUARY,
        )


def test_L3_a_key_of_one_invoice_is_refused_for_another_of_the_same_amount(
    database: Database, now: datetime
) -> None:
    acme = make_world(database, now).tenant()
    november, december = _issue(database, acme, MONTH_END), _issue(database, acme, JANUARY)
    assert november.total_minor == december.total_minor == FEE_MINOR

    assert _pay(database, november, "wire-1").state == "paid"
    assert _pay(database, november, "wire-1").state == "paid"
    with pytest.raises(IdempotencyConflict):
        _pay(database, december, "wire-1")
    assert _pay(database, december, "wire-2").state == "paid"


def test_an_invoice_paid_by_wire_and_at_stripe_is_refused_and_not_forgotten(
    database: Database, now: datetime
) -> None:
    acme = make_world(database, now).tenant()
    invoice = _issue(database, acme, MONTH_END)
    with FakeStripe() as fake, open_client(fake.api_key, fake.url) as client:
        stripe_id = _mirrored(database, client, invoice)
        _pay(database, invoice, "wire-1")
        fake.pay_invoice(stripe_id)
        event_id = _delivered(database, stripe_id)
        with pytest.raises(Conflict):
            apply_event(database, client, event_id, now=FEBRUARY)
    with database.transaction(Role.OPERATOR) as connection:
        event = store.received_event(connection, event_id)
        totals = ledger.totals(connection)
    assert event is not None
    assert event.applied_at is None
    assert totals["accounts_receivable", "USD"] == 0


def test_what_stripe_collected_is_posted_once(database: Database, now: datetime) -> None:
    acme = make_world(database, now).tenant()
    invoice = _issue(database, acme, MONTH_END)
    with FakeStripe() as fake, open_client(fake.api_key, fake.url) as client:
        stripe_id = _mirrored(database, client, invoice)
        fake.pay_invoice(stripe_id)
        for _ in range(2):
            apply_event(database, client, _delivered(database, stripe_id), now=FEBRUARY)
    with database.transaction(Role.OPERATOR) as connection:
        paid = require_invoice(connection, str(invoice.id), tenant_id=None).invoice
        totals = ledger.totals(connection)
    assert paid.state == "paid"
    assert totals["stripe_clearing", "USD"] == FEE_MINOR // 100


def _mirrored(database: Database, client: stripe.StripeClient, invoice: InvoiceRow) -> str:
    with database.transaction(Role.OPERATOR) as connection:
        store.request_mirror(connection, invoice.id, tenant_id=invoice.tenant_id, now=MONTH_END)
    mirror = mirror_invoice(database, client, invoice.id, now=MONTH_END)
    assert mirror.stripe_id is not None
    return mirror.stripe_id


def _delivered(database: Database, stripe_id: str) -> str:
    event_id = f"evt_{uuid4().hex}"
    with database.transaction(Role.OPERATOR) as connection:
        store.receive_event(
            connection,
            event_id=event_id,
            event_type="invoice.paid",
            object_id=stripe_id,
            payload=b"",
            created_at=FEBRUARY,
            now=FEBRUARY,
        )
    return event_id
