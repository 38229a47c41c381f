"""Canonical records of events and transactions, rebuilt from the columns of the ledgers.

The form is that of `billing.ledger.seal_record`; here it is built by the database, since a fold
hashes many thousands at once. Events follow each other by (epoch, id), transactions as the fold
that took them wrote down: that order is data, so it survives a restore into another cluster.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from billing.period import Period
from billing.store.database import only, query, run
from billing.store.usage.append import SHARD


@dataclass(frozen=True, slots=True, kw_only=True)
class LeafRun:
    """Leaves of one log, in order.

    Attributes:
        owner: row id of the tenant or of the legal entity.
        leaves: their hashes, joined.
        ids: of the events or transactions, in the same order.
    """

    owner: int
    leaves: bytes
    ids: tuple[UUID, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """An event and its canonical record."""

    epoch: int
    id: UUID
    record: str


_EVENTS = """
WITH fresh AS MATERIALIZED (
    SELECT * FROM usage_event
     WHERE epoch > :after AND epoch <= :to
       AND (CAST(:tenant AS integer) IS NULL OR tenant_id = :tenant)
), reported AS (
    SELECT k.* FROM reported_event k
     WHERE k.event_id >= (SELECT id FROM fresh ORDER BY id LIMIT 1)
       AND k.event_id <= (SELECT id FROM fresh ORDER BY id DESC LIMIT 1)
), carried AS (
    SELECT p.*, c.paths FROM usage_property p
      LEFT JOIN usage_shape c ON c.id = p.shape_id
     WHERE p.event_id >= (SELECT id FROM fresh ORDER BY id LIMIT 1)
       AND p.event_id <= (SELECT id FROM fresh ORDER BY id DESC LIMIT 1)
       -- A tenant's month lies among everybody's: his own index finds it.
       AND (CAST(:tenant AS integer) IS NULL OR p.tenant_id = :tenant)
), named AS (
    SELECT s.id, array_agg(v.code ORDER BY n) AS codes
      FROM meter_set s
     CROSS JOIN LATERAL unnest(s.meter_version_ids) WITH ORDINALITY AS u (version_id, n)
      JOIN meter_version v ON v.id = u.version_id
     GROUP BY s.id
), recorded AS (
    SELECT e.tenant_id AS owner, e.epoch, e.id, (jsonb_build_array(
        'usage v1', e.id, e.tenant_id, e.epoch,
        (extract(epoch FROM e.occurred_at) * 1000000)::bigint, e.kind, e.cause, e.estimated,
        e.project_id, e.key_id, e.model_id, m.name, e.backend_id, b.name, e.price_version_id,
        e.ttft_us, e.duration_us, e.run_id, e.meter_set_id,
        (SELECT coalesce(jsonb_agg(jsonb_build_array(code, CAST(trim_scale(quantity) AS text))
                                   ORDER BY n), '[]')
           FROM unnest(s.codes, e.quantities) WITH ORDINALITY AS q (code, quantity, n)),
        e.raw_shape_id, coalesce(h.paths, '{}'), encode(e.raw_counts, 'hex'),
        r.source, r.foreign_id, encode(r.body_hash, 'hex'),
        CASE WHEN c.event_id IS NOT NULL THEN jsonb_build_array(
            c.kind, c.corrects, (extract(epoch FROM c.corrects_at) * 1000000)::bigint,
            c.replacement_id, c.source, c.foreign_id, c.reason, c.actor,
            (extract(epoch FROM c.corrected_at) * 1000000)::bigint, c.tenant_id) END)
        -- An event that carries nothing has no member for it: most of them carry nothing.
        || CASE WHEN p.event_id IS NULL THEN '[]' ELSE jsonb_build_array(jsonb_build_array(
            p.tenant_id, p.shape_id, p.paths, p.texts)) END)::text AS record
      FROM fresh e
      LEFT JOIN named s ON s.id = e.meter_set_id
      LEFT JOIN model m ON m.id = e.model_id
      LEFT JOIN backend b ON b.id = e.backend_id
      LEFT JOIN usage_shape h ON h.id = e.raw_shape_id
      LEFT JOIN reported r ON r.event_id = e.id AND r.tenant_id = e.tenant_id
      LEFT JOIN usage_correction c ON c.event_id = e.id
      LEFT JOIN carried p ON p.event_id = e.id
)
"""

# A statement that the driver has prepared keeps reading the table it was prepared for, also where a
# temporary one bears the same name since: so the staged rows of an archive are named as such.
_ARCHIVED_EVENTS = _EVENTS.replace("FROM usage_event\n", "FROM pg_temp.usage_event\n").replace(
    "FROM usage_property p\n", "FROM pg_temp.usage_property p\n"
)

_TRANSACTION = """
SELECT t.legal_entity_id AS owner, t.id, taken.ordinal AS epoch, jsonb_build_array(
    'transaction v1', t.id, t.legal_entity_id, t.tenant_id, t.kind, t.idempotency_key,
    t.reference, (extract(epoch FROM t.effective_at) * 1000000)::bigint,
    (extract(epoch FROM t.posted_at) * 1000000)::bigint,
    (extract(epoch FROM t.originated_at) * 1000000)::bigint,
    CAST(trim_scale(t.fx_rate) AS text), t.reverses,
    encode(t.postings_hash, 'hex'),
    (SELECT coalesce(jsonb_agg(jsonb_build_array(p.ordinal, p.account_id, a.code, p.tenant_id,
                p.currency, CAST(p.amount AS text), p.contract_id,
                (extract(epoch FROM p.period_start) * 1000000)::bigint, p.line_key)
            ORDER BY p.ordinal), '[]')
       FROM posting p JOIN account a ON a.id = p.account_id
      WHERE p.transaction_id = t.id))::text AS record
  FROM taken JOIN ledger_transaction t ON t.id = taken.transaction_id
"""

_SEALED = f"""
WITH taken AS (SELECT ordinal, transaction_id FROM sealed_transaction WHERE fold_size = :fold),
recorded AS ({_TRANSACTION})
"""  # noqa: S608  # our own text

_WAITING = f"""
WITH taken AS (
    SELECT 0 AS ordinal, transaction_id FROM unsealed_transaction
     ORDER BY transaction_id LIMIT :limit
), recorded AS ({_TRANSACTION})
"""  # noqa: S608  # our own text

_RECORDS = "SELECT epoch, id, record FROM recorded ORDER BY epoch, id"
_LEAVES = """
SELECT owner, string_agg(sha256('\\x00'::bytea || convert_to(record, 'UTF8')), ''::bytea
                         ORDER BY epoch, id) AS leaves, array_agg(id ORDER BY epoch, id) AS ids
  FROM recorded GROUP BY owner ORDER BY owner
"""


def usage_leaves(
    connection: sa.Connection, *, after: int, to: int, archived: bool = False
) -> list[LeafRun]:
    """The leaves of every tenant's events of the epochs in (after, to].

    Args:
        archived: of those that are staged from an archive, not of the ledger's.
    """
    events = _ARCHIVED_EVENTS if archived else _EVENTS
    rows = query(connection, events + _LEAVES, after=after, to=to, tenant=None)
    return [_run(row) for row in rows]


def usage_records(
    connection: sa.Connection, *, tenant_id: int, after: int, to: int, archived: bool = False
) -> list[Recorded]:
    """The canonical records of a tenant's events of the epochs in (after, to], in leaf order.

    Args:
        archived: of those that are staged from an archive, not of the ledger's.
    """
    rows = query(
        connection,
        (_ARCHIVED_EVENTS if archived else _EVENTS) + _RECORDS,
        after=after,
        to=to,
        tenant=tenant_id,
    )
    return [Recorded(epoch=row.epoch, id=row.id, record=row.record) for row in rows]


def waiting_leaves(connection: sa.Connection, *, limit: int) -> list[LeafRun]:
    """The leaves of transactions that no fold has taken, of at most so many.

    A transaction that commits later waits for a later fold: nothing appears behind one.
    """
    return [_run(row) for row in query(connection, _WAITING + _LEAVES, limit=limit)]


def write_down(connection: sa.Connection, *, fold_size: int, ids: Sequence[UUID]) -> None:
    """Write down which transactions a fold took, in the order of their leaves.

    Raises:
        IntegrityError: one of them was sealed before.
    """
    run(
        connection,
        "INSERT INTO sealed_transaction (fold_size, ordinal, transaction_id) "
        "SELECT :fold, n - 1, id FROM unnest(CAST(:ids AS uuid[])) WITH ORDINALITY AS u (id, n)",
        fold=fold_size,
        ids=list(ids),
    )


def book_leaves(connection: sa.Connection, *, fold_size: int) -> list[LeafRun]:
    """The leaves of every legal entity's transactions that a fold took."""
    return [_run(row) for row in query(connection, _SEALED + _LEAVES, fold=fold_size)]


def unaccounted_transactions(connection: sa.Connection) -> list[UUID]:
    """Transactions that neither a fold has taken nor wait for one."""
    rows = query(
        connection,
        "SELECT t.id FROM ledger_transaction t "
        "WHERE NOT EXISTS (SELECT FROM sealed_transaction s WHERE s.transaction_id = t.id) "
        "AND NOT EXISTS (SELECT FROM unsealed_transaction u WHERE u.transaction_id = t.id) "
        "ORDER BY 1",
    )
    return [row.id for row in rows]


def broken_transactions(connection: sa.Connection) -> list[UUID]:
    """Transactions whose postings are not those that their headers state, or do not balance."""
    rows = query(
        connection,
        """
        WITH stated AS (
            SELECT transaction_id, count(*) AS postings,
                   sha256(convert_to(string_agg(
                       ordinal || '|' || account_id || '|' || amount, E'\\n' ORDER BY ordinal),
                       'UTF8')) AS digest
              FROM posting GROUP BY transaction_id
        ), unbalanced AS (
            SELECT transaction_id FROM posting
             GROUP BY transaction_id, currency HAVING sum(amount) <> 0
        )
        SELECT coalesce(t.id, s.transaction_id) AS id
          FROM ledger_transaction t FULL JOIN stated s ON s.transaction_id = t.id
         WHERE (t.posting_count, t.postings_hash) IS DISTINCT FROM (s.postings, s.digest)
            OR t.id IN (SELECT transaction_id FROM unbalanced)
         ORDER BY 1
        """,
    )
    return [row.id for row in rows]


def rolled_up(connection: sa.Connection, *, tenant_id: int, period: Period) -> dict[str, Decimal]:
    """A tenant's usage of a period by meter, as invoices read it: from the rollups."""
    rows = query(
        connection,
        "SELECT v.code, sum(r.quantity) AS quantity FROM usage_rollup r "
        "JOIN meter_version v ON v.id = r.meter_version_id WHERE r.tenant_id = :tenant "
        "AND r.bucket >= :start AND r.bucket < :end GROUP BY v.code ORDER BY v.code",
        tenant=tenant_id,
        start=period.start,
        end=period.end,
    )
    return {row.code: row.quantity for row in rows}


def newest_epoch(connection: sa.Connection) -> int:
    """The newest epoch that is visible; all before it are, too (L8)."""
    return only(
        connection, "SELECT epoch FROM ledger_epoch WHERE shard = :shard", shard=SHARD
    ).epoch


def _run(row: sa.Row[Any]) -> LeafRun:
    return LeafRun(owner=row.owner, leaves=bytes(row.leaves), ids=tuple(row.ids))
