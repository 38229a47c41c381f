"""Mirror an issued invoice at Stripe, one committed step after another.

Stripe is called between transactions. Before each call the attempt is on record, after it the
outcome; whatever happens between the two, the next run looks at what Stripe holds before it
creates anything (unknown outcome is not failure).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

import sqlalchemy as sa

from billing.errors import Conflict, InvalidInput, NotFound, PaymentError, StripeUnavailable
from billing.money import currency, to_minor
from billing.operations.invoicing.read_invoices import require_invoice
from billing.payments.classification import next_epoch
from billing.payments.mirror import add_lines, ensure_customer, ensure_invoice, finalize
from billing.payments.mirrored import Attempt, MirrorCustomer, MirrorInvoice, MirrorLine
from billing.store import jobs
from billing.store import payments as store
from billing.store import tenancy as tenancy_store
from billing.store.database import Database, Role
from billing.store.invoices import InvoiceRow
from billing.store.payments import CustomerRow, MirrorRow
from billing.tenancy.tenant import Tenant

if TYPE_CHECKING:
    import stripe


def enqueue_mirror(connection: sa.Connection, invoice: InvoiceRow) -> None:
    """Ask the worker to mirror an invoice; jobs of one tenant run one after another."""
    jobs.enqueue(
        connection,
        jobs.MIRROR_INVOICE,
        lock=f"stripe-{invoice.tenant}",
        invoice_id=str(invoice.id),
    )


def mirror_invoice(
    database: Database, client: stripe.StripeClient, invoice_id: UUID, *, now: datetime
) -> MirrorRow:
    """Bring an invoice's mirror to `finalized`; does nothing if it is there.

    Raises:
        NotFound: the invoice was never meant to be mirrored.
        Conflict: another process mirrors for this tenant; try again.
        StripeUnavailable: try again later.
        StripeRefused, PaymentMismatch: a person must look; the mirror is marked `failed`.
    """
    mirroring = _Mirroring(database=database, client=client, invoice_id=invoice_id, now=now)
    tenant_id = mirroring.row().tenant_id
    # Stripe answers `lock_timeout` to two requests on one customer: one tenant at a time.
    with database.exclusive(f"stripe-tenant-{tenant_id}") as held:
        if not held:
            raise Conflict("another process mirrors for this tenant", remedy="try again")
        return mirroring.run()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mirroring:
    database: Database
    client: stripe.StripeClient
    invoice_id: UUID
    now: datetime

    def run(self) -> MirrorRow:
        row = self.row()
        if row.state == "finalized":
            return row
        try:
            customer_id = self._customer()
            self._invoice(customer_id)
        except (PaymentError, InvalidInput) as error:
            # An invoice that cannot be mirrored at all (too many lines, too large) is for a person.
            epoch = row.attempt_epoch
            self._save(
                state=row.state if isinstance(error, StripeUnavailable) else "failed",
                last_error=f"{error.code}: {error.message}",
                attempt_epoch=next_epoch(error, epoch)
                if isinstance(error, PaymentError)
                else epoch,
            )
            raise
        return self.row()

    def row(self) -> MirrorRow:
        with self.database.transaction(Role.OPERATOR) as connection:
            row = store.mirror(connection, self.invoice_id)
        if row is None:
            raise NotFound(
                "this invoice is not to be mirrored",
                field="invoice",
                remedy="issue it with Stripe's key set",
            )
        return row

    def _customer(self) -> str:
        with self.database.transaction(Role.OPERATOR) as connection:
            tenant = tenancy_store.tenant_by_id(connection, self.row().tenant_id)
            customer = store.stripe_customer(connection, tenant.id)
            store.save_stripe_customer(connection, tenant_id=tenant.id, now=self.now)
        if customer.stripe_id is not None:
            return customer.stripe_id
        stripe_id = self._ensure_customer(tenant, customer)
        with self.database.transaction(Role.OPERATOR) as connection:
            store.save_stripe_customer(
                connection, tenant_id=tenant.id, stripe_id=stripe_id, now=self.now
            )
        return stripe_id

    def _ensure_customer(self, tenant: Tenant, customer: CustomerRow) -> str:
        attempt = Attempt(epoch=customer.attempt_epoch, first_tried_at=customer.first_tried_at)
        try:
            return ensure_customer(
                self.client, MirrorCustomer(tenant_id=tenant.slug, name=tenant.name), attempt
            )
        except PaymentError as error:
            with self.database.transaction(Role.OPERATOR) as connection:
                store.save_stripe_customer(
                    connection,
                    tenant_id=tenant.id,
                    attempt_epoch=next_epoch(error, customer.attempt_epoch),
                    now=self.now,
                )
            raise

    def _invoice(self, customer_id: str) -> None:
        row = self.row()
        attempt = Attempt(epoch=row.attempt_epoch, first_tried_at=row.first_tried_at)
        invoice = self._our_invoice()
        with self.database.transaction(Role.OPERATOR) as connection:
            store.begin_mirror_attempt(connection, self.invoice_id, now=self.now)
        mirrored = ensure_invoice(
            self.client, invoice, customer_id=customer_id, attempt=attempt, now=self.now
        )
        self._save(state="created", stripe_id=mirrored.stripe_id)
        mirrored = add_lines(self.client, invoice, mirrored, attempt)
        self._save(state="filled")
        mirrored = finalize(self.client, invoice, mirrored, attempt)
        self._save(
            state="finalized",
            stripe_total_minor=mirrored.total_minor,
            hosted_url=mirrored.hosted_url,
        )

    def _our_invoice(self) -> MirrorInvoice:
        with self.database.transaction(Role.OPERATOR) as connection:
            view = require_invoice(connection, str(self.invoice_id), tenant_id=None)
        head = view.invoice
        if head.number is None or head.due_at is None:
            raise Conflict("a draft is not mirrored", field="invoice", remedy="issue it first")
        in_currency = currency(head.currency)
        return MirrorInvoice(
            id=str(head.id),
            number=head.number,
            currency=in_currency,
            lines=(
                *(
                    MirrorLine(
                        key=line.key, description=line.description, amount_minor=line.amount_minor
                    )
                    for line in view.lines
                ),
                *(
                    MirrorLine(
                        key=f"redeemed.{paid.grant_id}",
                        description=f"Paid with credit: {paid.source}",
                        amount_minor=-to_minor(paid.amount, in_currency),
                    )
                    for paid in view.redeemed
                ),
            ),
            total_minor=head.amount_due_minor,
            due_at=head.due_at,
        )

    def _save(
        self,
        *,
        state: str,
        stripe_id: str | None = None,
        stripe_total_minor: int | None = None,
        hosted_url: str | None = None,
        last_error: str | None = None,
        attempt_epoch: int | None = None,
    ) -> None:
        with self.database.transaction(Role.OPERATOR) as connection:
            store.save_mirror(
                connection,
                self.invoice_id,
                state=state,
                stripe_id=stripe_id,
                stripe_total_minor=stripe_total_minor,
                hosted_url=hosted_url,
                last_error=last_error,
                attempt_epoch=attempt_epoch,
                now=self.now,
            )
