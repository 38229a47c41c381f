"""The key table: which event each id of a reporter stands for, for ever.

A key is (tenant, source, 16 bytes for the id); what the bytes are, `metering.reported_id` decides.
Where the text of an id stands beside its bytes it is compared, so that two ids with one
fingerprint never pass for one: the second is known under another id, and nobody counts it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

import sqlalchemy as sa

from billing.metering.reported_id import reported_key
from billing.store.database import query, run


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedKey:
    """An id that a reporter has used."""

    event_id: UUID
    body_hash: bytes


class Known(NamedTuple):
    """What stands where a report belongs.

    Attributes:
        event_id: the event that holds the fact.
        same_id: the id is the one reported, not another one with its fingerprint.
        same_body: the body is the one reported.
    """

    event_id: UUID
    same_id: bool
    same_body: bool


CLAIM = """
    INSERT INTO usage_key (foreign_key, event_id, body_hash, tenant_id, source_id, foreign_id)
    SELECT DISTINCT ON (source, foreign_key) foreign_key, id, body_hash, tenant_id,
           (CAST(:sources AS integer[]))[source], foreign_id
      FROM usage_staging WHERE foreign_key IS NOT NULL
     ORDER BY source, foreign_key, ordinal
    ON CONFLICT DO NOTHING
    RETURNING event_id
"""
"""Claims the ids of the staged reports; of several with one id, the first."""

_KNOWN = """
SELECT s.ordinal, k.event_id, k.foreign_id IS NOT DISTINCT FROM s.foreign_id AS same_id,
       k.body_hash = s.body_hash AS same_body
  FROM usage_staging s
  JOIN usage_key k ON (k.tenant_id, k.source_id, k.foreign_key)
                    = (s.tenant_id, (CAST(:sources AS integer[]))[s.source], s.foreign_key)
 WHERE k.event_id <> s.id
"""

_SOURCES = """
SELECT u.id FROM unnest(CAST(:tenants AS integer[]), CAST(:sources AS text[]))
            WITH ORDINALITY AS n (tenant_id, source, number)
  LEFT JOIN usage_source u USING (tenant_id, source) ORDER BY n.number
"""
_NAME_SOURCES = """
INSERT INTO usage_source (tenant_id, source)
SELECT tenant_id, source FROM unnest(CAST(:tenants AS integer[]), CAST(:sources AS text[]))
       AS n (tenant_id, source)
 WHERE NOT EXISTS (SELECT FROM usage_source u
                    WHERE (u.tenant_id, u.source) = (n.tenant_id, n.source))
"""

_CLAIMED = """
SELECT n.number, k.event_id, k.body_hash
  FROM unnest(CAST(:sources AS text[]), CAST(:keys AS uuid[]), CAST(:texts AS text[]))
       WITH ORDINALITY AS n (source, foreign_key, foreign_id, number)
  JOIN usage_source u ON (u.tenant_id, u.source) = (:tenant, n.source)
  JOIN usage_key k ON (k.tenant_id, k.source_id, k.foreign_key)
                    = (u.tenant_id, u.id, n.foreign_key)
 WHERE k.foreign_id IS NOT DISTINCT FROM n.foreign_id
"""


def source_ids(connection: sa.Connection, sources: Iterable[tuple[int, str]]) -> list[int]:
    """Row ids of (tenant, source), in order; those that are new are written down.

    To be called under the lock on the epoch, which keeps two writers from naming one source, or
    from waiting for each other's.
    """
    named = list(sources)
    values = {
        "tenants": [tenant_id for tenant_id, _ in named],
        "sources": [source for _, source in named],
    }
    found = [row.id for row in query(connection, _SOURCES, **values)]
    if None in found:
        run(connection, _NAME_SOURCES, **values)
        found = [row.id for row in query(connection, _SOURCES, **values)]
    return found


def known_reports(
    connection: sa.Connection, sources: Mapping[tuple[int, str], int]
) -> dict[int, Known]:
    """What stands where those staged reports belong that were not new, by their ordinals."""
    rows = query(connection, _KNOWN, sources=source_ids(connection, sources))
    return {
        row.ordinal: Known(event_id=row.event_id, same_id=row.same_id, same_body=row.same_body)
        for row in rows
    }


def claimed_key(
    connection: sa.Connection, *, tenant_id: int, source: str, foreign_id: str
) -> ClaimedKey | None:
    """Which event a reporter's id stands for."""
    key = (source, foreign_id)
    return claimed_keys(connection, tenant_id=tenant_id, keys=[key]).get(key)


def claimed_keys(
    connection: sa.Connection, *, tenant_id: int, keys: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], ClaimedKey]:
    """Which events reporters' ids stand for, those among `keys` that were used."""
    asked = list(dict.fromkeys(keys))
    reported = [reported_key(foreign_id) for _, foreign_id in asked]
    rows = query(
        connection,
        _CLAIMED,
        tenant=tenant_id,
        sources=[source for source, _ in asked],
        keys=[UUID(bytes=key) for key, _ in reported],
        texts=[text for _, text in reported],
    )
    return {
        asked[row.number - 1]: ClaimedKey(event_id=row.event_id, body_hash=row.body_hash.bytes)
        for row in rows
    }
