"""Table backend_object again: what is over leaves it, a page at a time, and is counted.

An object that is over is marked as deleted first, and its row leaves later: meanwhile nobody finds
it, and nobody else can be given its id.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

import sqlalchemy as sa

from billing.admission.binding import ObjectKind
from billing.store.database import only, query, run


class Span(StrEnum):
    """By which of its instants an object is over; the value is the column."""

    AGE = "created_at"
    END = "expires_at"
    DELETED = "deleted_at"


class Fate(StrEnum):
    """What became of an object: marked as deleted because it was over, or its row is gone."""

    EXPIRED = "expired"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Behind which object a page begins."""

    at: datetime
    backend: str
    object_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """What a page of objects came to.

    Attributes:
        gone: objects that left; others stay because they are still needed.
        last: where the next page begins; None if there was nothing on this one.
    """

    gone: int
    last: Place | None


# What may still be billed stays, and so does everything that leads to it: a batch, its requests,
# and until it is known which files it has written, every file that came to be known since.
_UNBILLED = {
    ObjectKind.RESPONSE: "false",
    ObjectKind.FILE: """
EXISTS (SELECT FROM batch_run b WHERE b.backend = o.backend AND b.input_file_id = o.object_id
    AND b.state IN ('intended', 'open'))
OR EXISTS (SELECT FROM batch_run b WHERE b.backend = o.backend AND b.tenant_id = o.tenant_id
    AND b.state IN ('intended', 'open') AND CASE WHEN b.completed_at IS NULL
        THEN b.submitted_at <= o.created_at ELSE o.object_id IN (b.output_file_id, b.error_file_id)
        END)
""",
    ObjectKind.BATCH: """
EXISTS (SELECT FROM batch_run b WHERE b.backend = o.backend AND b.batch_id = o.object_id
    AND b.state IN ('intended', 'open'))
""",
}
# A batch names its files whenever it is shown: as long as it is there, a file whose row had left
# would be bound anew, and be found again though it was deleted.
_NAMED = """
EXISTS (SELECT FROM batch_run b JOIN backend_object p
    ON p.kind = 'batch' AND p.backend = b.backend AND p.object_id = b.batch_id
    WHERE b.backend = o.backend AND b.output_file_id = o.object_id)
OR EXISTS (SELECT FROM batch_run b JOIN backend_object p
    ON p.kind = 'batch' AND p.backend = b.backend AND p.object_id = b.batch_id
    WHERE b.backend = o.backend AND b.error_file_id = o.object_id)
"""
_PAGE = """
WITH page AS MATERIALIZED (
    SELECT kind, backend, object_id, {at} AS at FROM backend_object
     WHERE kind = :kind AND deleted_at IS {there} AND {at} <= :before
       AND ({at}, backend, object_id) > (coalesce(CAST(:at AS timestamptz), '-infinity'),
            CAST(:backend AS text), CAST(:object_id AS text))
     ORDER BY {at}, backend, object_id LIMIT :most FOR UPDATE SKIP LOCKED
), gone AS (
    {leave}
     WHERE (o.kind, o.backend, o.object_id) = (p.kind, p.backend, p.object_id) AND NOT ({needed})
 RETURNING o.object_id
)
SELECT (SELECT count(*) FROM gone) AS gone, l.at, l.backend, l.object_id
  FROM (VALUES (1)) one LEFT JOIN (
      SELECT at, backend, object_id FROM page
       ORDER BY at DESC, backend DESC, object_id DESC LIMIT 1) l ON true
"""
_MARK = "UPDATE backend_object o SET deleted_at = :now FROM page p"
_REMOVE = "DELETE FROM backend_object o USING page p"


def mark_over(
    connection: sa.Connection,
    kind: ObjectKind,
    span: Span,
    *,
    before: datetime,
    after: Place | None,
    most: int,
    now: datetime,
) -> Left:
    """Mark a page of a kind's objects as deleted whose age or end lies at `before` or earlier."""
    statement = _PAGE.format(at=span.value, there="NULL", leave=_MARK, needed=_UNBILLED[kind])
    left = _page(connection, statement, kind, before=before, after=after, most=most, now=now)
    _count(connection, kind, Fate.EXPIRED, left.gone)
    return left


def remove_deleted(
    connection: sa.Connection, kind: ObjectKind, *, before: datetime, after: Place | None, most: int
) -> Left:
    """Remove a page of a kind's objects that were marked as deleted at `before` or earlier."""
    needed = _UNBILLED[kind]
    if kind is ObjectKind.FILE:
        needed = f"{needed} OR {_NAMED}"
    statement = _PAGE.format(at="deleted_at", there="NOT NULL", leave=_REMOVE, needed=needed)
    left = _page(connection, statement, kind, before=before, after=after, most=most)
    _count(connection, kind, Fate.REMOVED, left.gone)
    return left


def gone_totals(connection: sa.Connection) -> Sequence[tuple[str, str, int]]:
    """Kind, fate and number of all objects that ever left."""
    rows = query(connection, "SELECT kind, fate, objects FROM backend_object_gone ORDER BY 1, 2")
    return [(row.kind, row.fate, row.objects) for row in rows]


def _page(
    connection: sa.Connection,
    statement: str,
    kind: ObjectKind,
    *,
    before: datetime,
    after: Place | None,
    most: int,
    **others: datetime,
) -> Left:
    row = only(
        connection,
        statement,
        kind=kind,
        before=before,
        at=None if after is None else after.at,
        backend="" if after is None else after.backend,
        object_id="" if after is None else after.object_id,
        most=most,
        **others,
    )
    if row.at is None:
        return Left(gone=0, last=None)
    last = Place(at=row.at, backend=row.backend, object_id=row.object_id)
    return Left(gone=row.gone, last=last)


def _count(connection: sa.Connection, kind: ObjectKind, fate: Fate, objects: int) -> None:
    """In the transaction of the page, so that what died with it is not counted."""
    if objects:
        run(
            connection,
            "INSERT INTO backend_object_gone AS g (kind, fate, objects) "
            "VALUES (:kind, :fate, :objects) ON CONFLICT (kind, fate) "
            "DO UPDATE SET objects = g.objects + excluded.objects",
            kind=kind,
            fate=fate,
            objects=objects,
        )
