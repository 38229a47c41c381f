"""Tables stripe_customer, invoice_mirror, stripe_event."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from billing.store.database import first, members, only, run


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorRow:
    """How far an invoice has been mirrored.

    Attributes:
        state: pending → created → filled → finalized, or failed.
        attempt_epoch: part of every idempotency key; a new one after an answer that stuck.
    """

    invoice_id: UUID
    tenant_id: int
    state: str
    stripe_id: str | None
    attempt_epoch: int
    first_tried_at: datetime | None
    stripe_total_minor: int | None
    hosted_url: str | None
    last_error: str | None
    requested_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxRow:
    """A webhook event that Stripe delivered: a hint to look at an object."""

    id: str
    type: str
    object_id: str
    applied_at: datetime | None


_MIRROR = (
    "SELECT invoice_id, tenant_id, state, stripe_id, attempt_epoch, first_tried_at, "
    "stripe_total_minor, "
    "hosted_url, last_error, requested_at, updated_at FROM invoice_mirror"
)


def request_mirror(
    connection: sa.Connection, invoice_id: UUID, *, tenant_id: int, now: datetime
) -> None:
    """Ask for an invoice to be mirrored; asking twice changes nothing."""
    run(
        connection,
        "INSERT INTO invoice_mirror (invoice_id, tenant_id, state, requested_at, updated_at) "
        "VALUES (:id, :tenant, 'pending', :now, :now) ON CONFLICT DO NOTHING",
        id=invoice_id,
        tenant=tenant_id,
        now=now,
    )


def mirror(connection: sa.Connection, invoice_id: UUID) -> MirrorRow | None:
    """The mirror of an invoice."""
    row = first(connection, f"{_MIRROR} WHERE invoice_id = :id", id=invoice_id)
    return None if row is None else MirrorRow(**members(row))


def mirror_by_stripe_id(connection: sa.Connection, stripe_id: str) -> MirrorRow | None:
    """The mirror that has this Stripe invoice."""
    row = first(connection, f"{_MIRROR} WHERE stripe_id = :id", id=stripe_id)
    return None if row is None else MirrorRow(**members(row))


def begin_mirror_attempt(connection: sa.Connection, invoice_id: UUID, *, now: datetime) -> None:
    """Note when the first attempt began, before it begins."""
    run(
        connection,
        "UPDATE invoice_mirror SET first_tried_at = coalesce(first_tried_at, :now) "
        "WHERE invoice_id = :id",
        id=invoice_id,
        now=now,
    )


def save_mirror(
    connection: sa.Connection,
    invoice_id: UUID,
    *,
    state: str,
    stripe_id: str | None = None,
    stripe_total_minor: int | None = None,
    hosted_url: str | None = None,
    last_error: str | None = None,
    attempt_epoch: int | None = None,
    now: datetime,
) -> None:
    """Record a step; ids, totals and epochs that are None keep what is stored."""
    run(
        connection,
        "UPDATE invoice_mirror SET state = :state, stripe_id = coalesce(:stripe_id, stripe_id), "
        "stripe_total_minor = coalesce(:total, stripe_total_minor), "
        "hosted_url = coalesce(:url, hosted_url), last_error = :error, "
        "attempt_epoch = coalesce(:epoch, attempt_epoch), updated_at = :now "
        "WHERE invoice_id = :id",
        id=invoice_id,
        state=state,
        stripe_id=stripe_id,
        total=stripe_total_minor,
        url=hosted_url,
        error=last_error,
        epoch=attempt_epoch,
        now=now,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomerRow:
    """A tenant at Stripe; `stripe_id` is None until it is known to exist."""

    tenant_id: int
    stripe_id: str | None
    attempt_epoch: int
    first_tried_at: datetime | None


def stripe_customer(connection: sa.Connection, tenant_id: int) -> CustomerRow:
    """A tenant at Stripe; the row is made if need be."""
    run(
        connection,
        "INSERT INTO stripe_customer (tenant_id) VALUES (:tenant) ON CONFLICT DO NOTHING",
        tenant=tenant_id,
    )
    row = only(
        connection,
        "SELECT tenant_id, stripe_id, attempt_epoch, first_tried_at FROM stripe_customer "
        "WHERE tenant_id = :tenant",
        tenant=tenant_id,
    )
    return CustomerRow(**members(row))


def save_stripe_customer(
    connection: sa.Connection,
    *,
    tenant_id: int,
    stripe_id: str | None = None,
    attempt_epoch: int | None = None,
    now: datetime,
) -> None:
    """Note an attempt, its outcome or the next epoch; values that are None keep what is stored."""
    run(
        connection,
        "UPDATE stripe_customer SET stripe_id = coalesce(:id, stripe_id), "
        "attempt_epoch = coalesce(:epoch, attempt_epoch), "
        "first_tried_at = coalesce(first_tried_at, :now) WHERE tenant_id = :tenant",
        id=stripe_id,
        epoch=attempt_epoch,
        tenant=tenant_id,
        now=now,
    )


def receive_event(
    connection: sa.Connection,
    *,
    event_id: str,
    event_type: str,
    object_id: str,
    payload: bytes,
    created_at: datetime,
    now: datetime,
) -> bool:
    """Store a webhook event; False if it was delivered before."""
    row = first(
        connection,
        "INSERT INTO stripe_event (id, type, object_id, payload, created_at, received_at) "
        "VALUES (:id, :type, :object, :payload, :created, :now) ON CONFLICT DO NOTHING "
        "RETURNING id",
        id=event_id,
        type=event_type,
        object=object_id,
        payload=payload,
        created=created_at,
        now=now,
    )
    return row is not None


def received_event(connection: sa.Connection, event_id: str) -> InboxRow | None:
    """A delivered event."""
    row = first(
        connection,
        "SELECT id, type, object_id, applied_at FROM stripe_event WHERE id = :id",
        id=event_id,
    )
    return None if row is None else InboxRow(**members(row))


def mark_applied(connection: sa.Connection, event_id: str, *, now: datetime) -> None:
    """An event has been acted on."""
    run(
        connection, "UPDATE stripe_event SET applied_at = :now WHERE id = :id", id=event_id, now=now
    )
