"""Which invoiced billing periods got something that is not on an invoice yet.

Found by epochs and clocks; what it comes to is for whoever rates them again.
"""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from billing.period import Period
from billing.store.database import query

_READINGS_OF = ("time_weighted_sum", "latest", "percentile")
"""Aggregations that a reading of zero changes, though it is in no rollup."""

# Of tenants who never had such a meter no event is read, and no rollup where there is none.
_SETS = """
WITH reading AS MATERIALIZED (
    SELECT id FROM meter_version WHERE aggregation = ANY(CAST(:readings AS text[])))
SELECT array_agg(s.id) AS ids FROM meter_set s
 WHERE EXISTS (SELECT FROM reading m WHERE m.id = ANY(s.meter_version_ids))
   AND EXISTS (SELECT FROM reading m CROSS JOIN LATERAL (
                   SELECT FROM usage_rollup_day r
                    WHERE r.tenant_id = :tenant AND r.meter_version_id = m.id LIMIT 1) used)
"""
# A level goes on: a reading that came late changes every period after it, in whose rollups it is
# not.
_READINGS = """
WITH reading AS MATERIALIZED (
    SELECT occurred_at, epoch FROM usage_event
     WHERE tenant_id = :tenant AND meter_set_id = ANY(CAST(:sets AS integer[])))
"""
_LATE_READING = """
    OR EXISTS (SELECT FROM reading r
                WHERE r.occurred_at < s.period_end AND r.epoch > max(s.watermark))
"""
_CHANGED = """
SELECT s.period_start, s.period_end FROM invoice_scope s JOIN invoice i ON i.id = s.invoice_id
 WHERE s.tenant_id = :tenant AND i.state <> 'draft' AND s.period_start < :before GROUP BY 1, 2
-- What a period invoiced on the way still owes is on the invoice that closes it.
HAVING bool_or(i.kind <> 'progressive') AND (
    EXISTS (SELECT FROM usage_rollup r WHERE r.tenant_id = :tenant
               AND r.bucket >= s.period_start AND r.bucket < s.period_end
               AND r.epoch > max(s.watermark))
    {late}
    OR EXISTS (SELECT FROM contract c WHERE c.tenant_id = :tenant
                  AND c.valid_from < s.period_end
                  AND (c.valid_until IS NULL OR c.valid_until > s.period_start)
                  AND c.created_at > max(i.issued_at) - interval '1 hour')
    OR EXISTS (SELECT FROM credit_event e WHERE e.tenant_id = :tenant
                  AND e.kind IN ('applied', 'restored') AND e.period_start = s.period_start
                GROUP BY e.contract_id, e.grant_id
               HAVING sum(CASE e.kind WHEN 'applied' THEN e.amount ELSE -e.amount END) <> -(
                    SELECT coalesce(sum(n.accrued), 0) FROM invoice_settlement n
                      JOIN invoice j ON j.id = n.invoice_id
                     WHERE j.state <> 'draft' AND n.contract_id = e.contract_id
                       AND n.period_start = s.period_start
                       AND n.line_key = 'credit.' || e.grant_id)))
 ORDER BY 1
"""


def changed_periods(connection: sa.Connection, *, tenant_id: int, before: datetime) -> list[Period]:
    """Invoiced billing periods, begun before an instant, with usage, contracts or credit not yet
    on an invoice.

    A contract that was bound backwards owes its fees there too. Clocks differ: one that was bound
    shortly before the invoice is looked at again, which changes nothing (R4).
    """
    bounds: dict[str, object] = {"tenant": tenant_id, "before": before}
    sql = _CHANGED.format(late="")
    sets = query(connection, _SETS, tenant=tenant_id, readings=list(_READINGS_OF))[0].ids
    if sets:
        bounds["sets"] = list(sets)
        sql = _READINGS + _CHANGED.format(late=_LATE_READING)
    rows = query(connection, sql, **bounds)
    return [Period(start=row.period_start, end=row.period_end) for row in rows]
