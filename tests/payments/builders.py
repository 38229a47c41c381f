"""Invoices to mirror, and the loop that an operation runs around the steps."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import stripe

from billing.errors import StripeUnavailable
from billing.money import CURRENCIES
from billing.payments import (
    Attempt,
    MirrorCustomer,
    MirroredInvoice,
    MirrorInvoice,
    MirrorLine,
    add_lines,
    check_totals,
    ensure_customer,
    ensure_invoice,
    finalize,
    next_epoch,
    retrieve_invoice,
)

ROUNDS_MAX = 200


def make_invoice(
    invoice_id: str = "inv-1",
    amounts: tuple[int, ...] = (1200, 345, -45),
    *,
    currency: str = "USD",
    due_in: timedelta = timedelta(days=30),
) -> MirrorInvoice:
    lines = tuple(
        MirrorLine(key=f"line-{index}", description=f"Line {index}", amount_minor=amount)
        for index, amount in enumerate(amounts)
    )
    return MirrorInvoice(
        id=invoice_id,
        number=f"ACME-{invoice_id}",
        currency=CURRENCIES[currency],
        lines=lines,
        total_minor=sum(amounts),
        due_at=datetime.now(UTC) + due_in,
    )


@dataclass(kw_only=True)
class MirrorRow:
    """What an operation keeps in its row between attempts."""

    customer: MirrorCustomer
    invoice: MirrorInvoice
    customer_attempt: Attempt = field(default_factory=Attempt)
    attempt: Attempt = field(default_factory=Attempt)
    customer_id: str | None = None
    stripe_id: str | None = None
    done: bool = False

    def try_once(
        self, client: stripe.StripeClient, *, forgets: bool = False
    ) -> MirroredInvoice | None:
        """One attempt; `forgets` loses Stripe's ids, as a crash before the commit does."""
        now = datetime.now(UTC)
        customer_attempt, attempt = self.customer_attempt, self.attempt
        if self.customer_id is None:
            self.customer_attempt = _begun(customer_attempt, now)
            try:
                customer_id = ensure_customer(client, self.customer, customer_attempt)
            except StripeUnavailable as error:
                self.customer_attempt = _after(self.customer_attempt, error)
                return None
            if forgets:
                return None
            self.customer_id = customer_id
        self.attempt = _begun(attempt, now)
        try:
            mirrored = self._invoice(client, self.customer_id, attempt, now)
            if forgets:
                self.stripe_id = None
                return None
            self.stripe_id = mirrored.stripe_id
            mirrored = add_lines(client, self.invoice, mirrored, attempt, per_request=2)
            check_totals(self.invoice, mirrored)
            mirrored = finalize(client, self.invoice, mirrored, attempt)
        except StripeUnavailable as error:
            self.attempt = _after(self.attempt, error)
            return None
        self.done = True
        return mirrored

    def _invoice(
        self, client: stripe.StripeClient, customer_id: str, attempt: Attempt, now: datetime
    ) -> MirroredInvoice:
        if self.stripe_id is not None:
            return retrieve_invoice(client, self.stripe_id)
        return ensure_invoice(
            client, self.invoice, customer_id=customer_id, attempt=attempt, now=now
        )


def mirror_until_idle(client: stripe.StripeClient, row: MirrorRow) -> int:
    """Attempts that it took; fails when no end is in sight."""
    for tried in range(ROUNDS_MAX):
        if row.done:
            return tried
        row.try_once(client)
    raise AssertionError("the mirror never became idle")


def _begun(attempt: Attempt, now: datetime) -> Attempt:
    return replace(attempt, first_tried_at=attempt.first_tried_at or now)


def _after(attempt: Attempt, error: StripeUnavailable) -> Attempt:
    return replace(attempt, epoch=next_epoch(error, attempt.epoch))
