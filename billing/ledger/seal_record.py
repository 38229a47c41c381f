"""Canonical texts of what is sealed: an event's, a transaction's, a head's, a signed head's.

Decides their form and version. A record is a JSON array with its version first, as PostgreSQL
writes `jsonb`: instants are whole microseconds since 1970, quantities plain decimals without
trailing zeros, byte strings hexadecimal. The same text is built in SQL where millions are needed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from billing.metering.event_id import microseconds


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedUsage:
    """What the leaf of a usage event says. Ids of rows; 0 means none.

    Attributes:
        model, backend: their names, or None.
        quantities: (meter code, plain decimal) in the order of the event's meter set.
        raw_paths, raw_counts: the engine's own figures: their paths, and the stored bytes in
            hexadecimal.
        source, foreign_id, body_hash: the reporter's identity of the event, or None if minted.
        correction: what a correction says that made the event, or None: its kind, the event that
            it takes back and its instant, the replacement, the corrector's source and id, the
            reason, who corrected, when, and the tenant.
        carried: what the event carried for dimensions, or None: the tenant, the id of the shape,
            the paths, and the text at each of them.
    """

    id: UUID
    tenant_id: int
    epoch: int
    occurred_at: datetime
    kind: int
    cause: int
    estimated: bool
    project_id: int
    key_id: int
    model_id: int
    model: str | None
    backend_id: int
    backend: str | None
    price_version_id: int
    ttft_us: int
    duration_us: int
    run_id: str
    meter_set_id: int
    quantities: Sequence[tuple[str, str]]
    raw_shape_id: int
    raw_paths: Sequence[str]
    raw_counts: str
    source: str | None = None
    foreign_id: str | None = None
    body_hash: str | None = None
    correction: Sequence[str | int | None] | None = None
    carried: Sequence[int | Sequence[str]] | None = None


def usage_record(event: SealedUsage) -> str:
    """The canonical text of a usage event; one that carries nothing is a member shorter."""
    return _text(
        "usage v1",
        str(event.id),
        event.tenant_id,
        event.epoch,
        microseconds(event.occurred_at),
        event.kind,
        event.cause,
        event.estimated,
        event.project_id,
        event.key_id,
        event.model_id,
        event.model,
        event.backend_id,
        event.backend,
        event.price_version_id,
        event.ttft_us,
        event.duration_us,
        event.run_id,
        event.meter_set_id,
        [list(pair) for pair in event.quantities],
        event.raw_shape_id,
        list(event.raw_paths),
        event.raw_counts,
        event.source,
        event.foreign_id,
        event.body_hash,
        event.correction,
        *(() if event.carried is None else (event.carried,)),
    )


def head_record(*, tree: str, size: int, root: bytes, folded_at: datetime) -> str:
    """The canonical text of a tree's head, which is a leaf of the operator's tree."""
    return _text("head v1", tree, size, root.hex(), microseconds(folded_at))


def signed_text(
    *,
    size: int,
    root: bytes,
    folded_at: datetime,
    epochs: tuple[int, int],
    transactions: tuple[int, int],
    key_id: str,
) -> str:
    """What is signed: the head of the operator's tree, and which part of the ledgers it added."""
    return (
        f"steelyard-head v1\n{size}\n{root.hex()}\n{microseconds(folded_at)}\n"
        f"{epochs[0]} {epochs[1]}\n{transactions[0]} {transactions[1]}\n{key_id}\n"
    )


def _text(*members: object) -> str:
    return json.dumps(members, ensure_ascii=False)
