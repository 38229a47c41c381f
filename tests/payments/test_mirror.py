"""An issued invoice becomes one Stripe invoice with our lines and our total."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import stripe

from billing.errors import (
    AmountOutOfRange,
    InvalidInput,
    PaymentMismatch,
    StripeRefused,
    StripeUnavailable,
)
from billing.money import CURRENCIES
from billing.payments import (
    Attempt,
    InvoiceStatus,
    MirrorCustomer,
    MirroredInvoice,
    MirrorInvoice,
    MirrorLine,
    add_lines,
    check_totals,
    ensure_customer,
    ensure_invoice,
    finalize,
    look_up_customer,
    look_up_invoice,
    retrieve_invoice,
)
from tests.fake_stripe import FakeStripe, Fault, FaultKind
from tests.payments.builders import make_invoice

ACME = MirrorCustomer(tenant_id="tenant-1", name="Acme", email="billing@acme.example")
FIRST = Attempt()


def again(epoch: int = 0) -> Attempt:
    return Attempt(epoch=epoch, first_tried_at=datetime.now(UTC))


def drafted(
    client: stripe.StripeClient, invoice: MirrorInvoice, attempt: Attempt = FIRST
) -> MirroredInvoice:
    customer_id = ensure_customer(client, ACME, FIRST)
    now = datetime.now(UTC)
    return ensure_invoice(client, invoice, customer_id=customer_id, attempt=attempt, now=now)


def mirrored(client: stripe.StripeClient, invoice: MirrorInvoice) -> MirroredInvoice:
    draft = add_lines(client, invoice, drafted(client, invoice), FIRST)
    return finalize(client, invoice, draft, FIRST)


def test_I1_the_mirrored_invoice_equals_ours(fake: FakeStripe, client: stripe.StripeClient) -> None:
    invoice = make_invoice(amounts=(1200, 345, -45))
    opened = mirrored(client, invoice)
    assert opened.status is InvoiceStatus.OPEN
    assert opened.invoice_id == invoice.id
    assert opened.total_minor == opened.amount_due_minor == 1500
    assert opened.number is not None
    assert opened.hosted_url is not None
    (sent,) = fake.invoices()
    assert [(li["metadata"]["line_key"], li["amount"]) for li in sent["lines"]["data"]] == [
        ("line-0", 1200),
        ("line-1", 345),
        ("line-2", -45),
    ]
    assert sent["auto_advance"] is False
    assert sent["collection_method"] == "send_invoice"
    assert sent["custom_fields"] == [{"name": "Invoice number", "value": invoice.number}]
    assert sent["metadata"] == {"invoice_id": invoice.id, "invoice_number": invoice.number}
    assert sent["due_date"] == int(invoice.due_at.timestamp())
    assert fake.customers()[0]["email"] == ACME.email
    assert len(fake.requests) == 4


def test_payment_by_the_customer_is_seen_in_amounts(
    fake: FakeStripe, client: stripe.StripeClient
) -> None:
    opened = mirrored(client, make_invoice())
    fake.pay_invoice(opened.stripe_id)
    paid = retrieve_invoice(client, opened.stripe_id)
    assert paid.status is InvoiceStatus.PAID
    assert (paid.amount_paid_minor, paid.amount_remaining_minor) == (1500, 0)
    assert paid.paid_at is not None
    assert paid.paid_at.tzinfo is not None


def test_an_invoice_of_zero_is_mirrored_and_nothing_is_paid(client: stripe.StripeClient) -> None:
    settled = mirrored(client, make_invoice(amounts=(500, -500)))
    assert settled.status is InvoiceStatus.PAID
    assert settled.total_minor == settled.amount_paid_minor == 0


def test_a_total_below_the_minimum_is_paid_without_cash_and_owed_later(
    client: stripe.StripeClient,
) -> None:
    small = mirrored(client, make_invoice("inv-1", (30,)))
    assert (small.status, small.amount_paid_minor) == (InvoiceStatus.PAID, 0)
    assert (small.total_minor, small.ending_balance_minor) == (30, 30)
    following = mirrored(client, make_invoice("inv-2", (100,)))
    assert (following.total_minor, following.starting_balance_minor) == (100, 30)
    assert following.amount_due_minor == 130


def test_a_zero_decimal_currency_keeps_its_amounts(client: stripe.StripeClient) -> None:
    opened = mirrored(client, make_invoice(amounts=(1200, 345), currency="JPY"))
    assert (opened.currency, opened.total_minor) == (CURRENCIES["JPY"], 1545)


@pytest.mark.parametrize("due_in", [timedelta(days=-3), timedelta(minutes=1)])
def test_a_due_date_that_has_passed_means_on_receipt(
    fake: FakeStripe, client: stripe.StripeClient, due_in: timedelta
) -> None:
    drafted(client, make_invoice(due_in=due_in))
    (sent,) = fake.invoices()
    assert sent["due_date"] == sent["created"]


def test_many_lines_go_in_batches_of_a_hundred(
    fake: FakeStripe, client: stripe.StripeClient
) -> None:
    invoice = make_invoice(amounts=tuple(range(1, 251)))
    opened = mirrored(client, invoice)
    assert opened.total_minor == 31_375
    assert fake.count("POST /v1/invoices/{invoice}/add_lines") == 3
    keys = [r.idempotency_key for r in fake.requests if r.operation.endswith("add_lines")]
    assert keys == [f"invoice:inv-1:lines-{start}:0" for start in (0, 100, 200)]


def test_I2_a_step_repeated_has_one_effect(fake: FakeStripe, client: stripe.StripeClient) -> None:
    invoice = make_invoice()
    first = mirrored(client, invoice)
    second = drafted(client, invoice, again())
    assert second == first
    assert add_lines(client, invoice, second, again()) == first
    assert finalize(client, invoice, second, again()) == first
    assert ensure_customer(client, ACME, again(epoch=7)) == first.customer_id
    assert (len(fake.customers()), len(fake.invoices())) == (1, 1)
    assert fake.count("POST /v1/invoices/{invoice}/finalize") == 1


def test_only_the_missing_lines_are_sent_again(
    fake: FakeStripe, client: stripe.StripeClient
) -> None:
    invoice = make_invoice(amounts=(1, 2, 3, 4, 500))
    draft = drafted(client, invoice)
    fake.faults.add(
        Fault(kind=None, operation="POST /v1/invoices/{invoice}/add_lines"),
        Fault(kind=FaultKind.LOCKED, operation="POST /v1/invoices/{invoice}/add_lines", times=3),
    )
    with pytest.raises(StripeUnavailable):
        add_lines(client, invoice, draft, FIRST, per_request=2)
    held = [line["amount"] for line in fake.invoices()[0]["lines"]["data"]]
    assert held == [1, 2]
    full = add_lines(client, invoice, draft, again(), per_request=2)
    assert full.total_minor == 510
    assert [line["amount"] for line in fake.invoices()[0]["lines"]["data"]] == [1, 2, 3, 4, 500]


def test_lookups_read_past_the_first_page(client: stripe.StripeClient) -> None:
    invoice = make_invoice("inv-wanted")
    draft = drafted(client, invoice)
    since = datetime.now(UTC)
    for serial in range(101):
        client.v1.customers.create({"name": f"Other {serial}"})
        client.v1.invoices.create({"customer": draft.customer_id})
    found = look_up_customer(client, tenant_id=ACME.tenant_id, created_since=since)
    assert found == draft.customer_id
    known = look_up_invoice(client, invoice_id=invoice.id, customer_id=draft.customer_id)
    assert known == draft
    assert look_up_customer(client, tenant_id="nobody", created_since=since) is None
    absent = look_up_invoice(client, invoice_id="inv-none", customer_id=draft.customer_id)
    assert absent is None


def test_two_of_one_are_shown_to_a_person(client: stripe.StripeClient) -> None:
    draft = drafted(client, make_invoice())
    for _ in range(2):
        client.v1.invoices.create(
            {"customer": draft.customer_id, "metadata": {"invoice_id": "twin"}}
        )
    with pytest.raises(PaymentMismatch):
        look_up_invoice(client, invoice_id="twin", customer_id=draft.customer_id)
    client.v1.customers.create({"metadata": {"tenant_id": ACME.tenant_id}})
    with pytest.raises(PaymentMismatch):
        look_up_customer(client, tenant_id=ACME.tenant_id, created_since=datetime.now(UTC))


@pytest.mark.parametrize(
    "foreign",
    [
        {"amount": 5, "description": "by hand"},
        {"amount": 1201, "metadata": {"line_key": "line-0"}},
    ],
)
def test_I1_a_line_that_is_not_ours_stops_the_mirror_before_finalisation(
    fake: FakeStripe, client: stripe.StripeClient, foreign: Any
) -> None:
    invoice = make_invoice()
    draft = drafted(client, invoice)
    client.v1.invoices.add_lines(draft.stripe_id, {"lines": [foreign]})
    with pytest.raises(PaymentMismatch):
        add_lines(client, invoice, draft, again())
    changed = add_lines(client, invoice, draft, FIRST)
    with pytest.raises(PaymentMismatch):
        finalize(client, invoice, changed, FIRST)
    assert fake.invoices()[0]["status"] == "draft"


def test_I1_a_draft_finalised_by_hand_without_its_lines_is_a_mismatch(
    client: stripe.StripeClient,
) -> None:
    invoice = make_invoice(amounts=(700, 800))
    draft = drafted(client, invoice)
    line: Any = {"amount": 700, "metadata": {"line_key": "line-0"}}
    client.v1.invoices.add_lines(draft.stripe_id, {"lines": [line]})
    client.v1.invoices.finalize_invoice(draft.stripe_id)
    with pytest.raises(PaymentMismatch, match="without all its lines"):
        add_lines(client, invoice, retrieve_invoice(client, draft.stripe_id), FIRST)


def test_I1_totals_are_compared_with_currency_and_owner(client: stripe.StripeClient) -> None:
    invoice = make_invoice()
    draft = add_lines(client, invoice, drafted(client, invoice), FIRST)
    check_totals(invoice, draft)
    for other in (
        replace(draft, total_minor=draft.total_minor + 1),
        replace(draft, currency=CURRENCIES["EUR"]),
        replace(draft, invoice_id="inv-other"),
    ):
        with pytest.raises(PaymentMismatch):
            check_totals(invoice, other)


def test_a_refusal_names_stripes_code_and_not_what_we_sent(client: stripe.StripeClient) -> None:
    now = datetime.now(UTC)
    with pytest.raises(StripeRefused) as caught:
        ensure_invoice(client, make_invoice(), customer_id="cus_secret", attempt=FIRST, now=now)
    assert "resource_missing" in str(caught.value)
    assert "cus_secret" not in str(caught.value)
    assert caught.value.field == "customer"


@pytest.mark.parametrize(
    ("amounts", "change", "refusal"),
    [
        ((), {}, InvalidInput),
        ((1,) * 251, {}, InvalidInput),
        ((100, -101), {}, InvalidInput),
        ((100,), {"total_minor": 101}, PaymentMismatch),
        ((60_000_000, 60_000_000), {}, AmountOutOfRange),
        ((100,), {"due_at": datetime(2030, 1, 1)}, InvalidInput),  # noqa: DTZ001  it is the point
        (
            (200,),
            {"lines": (MirrorLine(key="k", description="d", amount_minor=100),) * 2},
            InvalidInput,
        ),
    ],
)
def test_what_stripe_cannot_carry_is_refused_before_it_is_asked(
    amounts: tuple[int, ...], change: Any, refusal: type[Exception]
) -> None:
    with pytest.raises(refusal):
        replace(make_invoice(amounts=amounts), **change)


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        ({"amount_minor": 100_000_000}, AmountOutOfRange),
        ({"amount_minor": -100_000_000}, AmountOutOfRange),
        ({"key": ""}, InvalidInput),
        ({"key": "k" * 501}, InvalidInput),
        ({"description": ""}, InvalidInput),
        ({"description": "d" * 5_001}, InvalidInput),
    ],
)
def test_a_line_that_stripe_would_cut_or_refuse_is_refused_here(
    change: Any, refusal: type[Exception]
) -> None:
    line = MirrorLine(key="k", description="d", amount_minor=99_999_999)
    with pytest.raises(refusal):
        replace(line, **change)
