"""Void and amend usage events: the original stays, new events take it back in its own period.

The new events carry the original's time, prices, model, project, key and kind, so that the next
invoice bills the difference as a correction of that period.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID

import sqlalchemy as sa

from billing.errors import Conflict, IdempotencyConflict, NotFound
from billing.metering.correction import Correction, CorrectionKind, replacing
from billing.metering.usage_event import Cause
from billing.operations.minting import mint_id
from billing.store.database import Role, acting_as
from billing.store.usage import append as usage_store
from billing.store.usage import reported as store
from billing.store.usage import reported_keys
from billing.store.usage.append import EventRow
from billing.store.usage.reported import CorrectionRow, OriginalRow
from billing.tenancy.tenant import Tenant


@dataclass(frozen=True, slots=True, kw_only=True)
class Corrected:
    """A correction that is in the ledger.

    Attributes:
        repeated: it was asked for before, with this id and body; nothing was done again (L3).
    """

    correction: CorrectionRow
    repeated: bool


def correct_usage(
    connection: sa.Connection,
    correction: Correction,
    *,
    tenant_id: int | None,
    actor: str,
    now: datetime,
) -> Corrected:
    """Take an event back, and count other quantities instead if it is amended, as the operator.

    Args:
        tenant_id: whose event it must be; None: anybody's.

    Raises:
        NotFound: no such event, or another tenant's, or in a month that was archived.
        Conflict: it was corrected before, or is itself what a correction took back.
        IdempotencyConflict: the correction's id was used for something else.
        InvalidInput: an amended meter that the original does not count.
    """
    original = store.original(connection, correction.corrects)
    if original is None or tenant_id not in {None, original.tenant_id}:
        raise NotFound(
            "no such usage event",
            field="event_id",
            remedy="take its id from `steelyard usage requests`; archived months are closed",
        )
    store.lock_corrections(connection, original.tenant_id)
    repeated = _repeated(connection, correction, original.tenant_id)
    if repeated is not None:
        return Corrected(correction=repeated, repeated=True)
    _require_correctable(connection, original)
    # Not by `-each`, which rounds to 28 digits.
    negated = tuple(each.copy_negate() for each in original.quantities)
    taken_back = _event(original, negated, identity=correction, now=now)
    instead: list[EventRow] = []
    if correction.kind is CorrectionKind.AMEND:
        instead.append(_event(original, replacing(correction, original.codes), now=now))
    row = CorrectionRow(
        event_id=taken_back.id,
        tenant_id=original.tenant_id,
        kind=correction.kind.value,
        corrects=original.id,
        corrects_at=original.occurred_at,
        replacement_id=instead[0].id if instead else None,
        source=correction.source,
        foreign_id=correction.foreign_id,
        reason=correction.reason,
        actor=actor,
        corrected_at=now,
    )
    with acting_as(connection, Role.INGEST):
        appended = usage_store.append(connection, [taken_back, *instead])
        if appended.known:
            # A report took the id between the look and the lock; the rollback undoes all of it.
            raise _other_use()
        store.insert_correction(connection, row)
    return Corrected(correction=row, repeated=False)


def reported_event(
    connection: sa.Connection, *, tenant: Tenant, source: str, foreign_id: str
) -> UUID:
    """The event that a reporter's id stands for.

    Raises:
        NotFound: none.
    """
    key = reported_keys.claimed_key(
        connection, tenant_id=tenant.id, source=source, foreign_id=foreign_id
    )
    if key is None:
        raise NotFound("no such usage event", field="id", remedy="check source and id")
    return key.event_id


def corrections_of(
    connection: sa.Connection, *, tenant_id: int, event_ids: list[UUID]
) -> list[CorrectionRow]:
    """The corrections that these events are part of, as originals or as what was made of them."""
    return store.corrections_naming(connection, tenant_id=tenant_id, event_ids=event_ids)


def _repeated(
    connection: sa.Connection, correction: Correction, tenant_id: int
) -> CorrectionRow | None:
    """The correction that this one repeats, if its id is known."""
    key = reported_keys.claimed_key(
        connection,
        tenant_id=tenant_id,
        source=correction.source,
        foreign_id=correction.foreign_id,
    )
    if key is None:
        return None
    if key.body_hash != correction.body_hash():
        raise _other_use()
    (row,) = store.corrections_naming(connection, tenant_id=tenant_id, event_ids=[key.event_id])
    return row


def _require_correctable(connection: sa.Connection, original: OriginalRow) -> None:
    for row in store.corrections_naming(
        connection, tenant_id=original.tenant_id, event_ids=[original.id]
    ):
        if row.corrects == original.id:
            raise Conflict(
                "this event was corrected before",
                field="event_id",
                remedy="correct what replaced it, or report a new event",
            )
        if row.event_id == original.id:
            raise Conflict(
                "this event takes another one back and cannot be corrected itself",
                field="event_id",
                remedy="report a new event",
            )


def _event(
    original: OriginalRow,
    quantities: tuple[Decimal, ...],
    *,
    identity: Correction | None = None,
    now: datetime,
) -> EventRow:
    """An event beside the original, under the correction's id or under ours alone."""
    return EventRow(
        id=mint_id(now),
        occurred_at=original.occurred_at,
        tenant_id=original.tenant_id,
        project_id=original.project_id,
        key_id=original.key_id,
        model_id=original.model_id,
        backend_id=original.backend_id,
        price_version_id=original.price_version_id,
        meter_set_id=original.meter_set_id,
        kind=original.kind,
        cause=int(Cause.CORRECTED),
        estimated=False,
        quantities=quantities,
        source=None if identity is None else identity.source,
        foreign_id=None if identity is None else identity.foreign_id,
        body_hash=None if identity is None else identity.body_hash(),
        properties=original.properties,
    )


def _other_use() -> IdempotencyConflict:
    return IdempotencyConflict(
        "this id was used for something else", field="id", remedy="give the correction its own id"
    )
