"""Usage of many tenants at once, from the level of days: one statement for a page of periods.

Decides: how spans of many tenants are read in one snapshot, and which tenants have usage that is
no sum and so has to be read by itself. The same rows as `period_usage` reads for one tenant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from functools import lru_cache
from typing import TypeAlias, cast

import sqlalchemy as sa

from billing.period import Period, local_midnight, zone
from billing.store.arrays import plain_array
from billing.store.database import query
from billing.store.usage.aggregates import QuantityRow
from billing.store.usage.append import SHARD
from billing.store.usage.levels import whole_days
from billing.store.usage.read import PeriodUsage, meter_units


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantSpans:
    """What is asked of one tenant: spans of one period, over whose ends no quantity reaches."""

    tenant_id: int
    zone_name: str
    spans: tuple[Period, ...]


# Summed for each span by itself, so that what is kept at once is one span's rows. The epoch is
# read by the same statement: one statement sees one snapshot (D10).
_SUMS = """
WITH head AS (SELECT epoch AS watermark FROM ledger_epoch WHERE shard = :shard),
spans AS (
    SELECT * FROM unnest(CAST(:numbers AS integer[]), CAST(:tenants AS integer[]),
                         CAST(:starts AS timestamptz[]), CAST(:stops AS timestamptz[]),
                         CAST(:first_days AS date[]), CAST(:end_days AS date[]),
                         CAST(:whole_starts AS timestamptz[]), CAST(:whole_ends AS timestamptz[]))
           AS s (number, tenant_id, start, stop, first_day, end_day, whole_start, whole_end)),
used AS (
    SELECT s.number, s.start, u.*
      FROM spans s CROSS JOIN LATERAL (
           SELECT meter_version_id, model_id, price_version_id, kind, sum(quantity) AS quantity
             FROM (SELECT meter_version_id, model_id, price_version_id, kind, quantity
                     FROM usage_rollup_day
                    WHERE tenant_id = s.tenant_id AND day >= s.first_day AND day < s.end_day
                    UNION ALL
                   SELECT meter_version_id, model_id, price_version_id, kind, quantity
                     FROM usage_rollup
                    WHERE tenant_id = s.tenant_id
                      AND bucket >= s.start AND bucket < s.whole_start
                    UNION ALL
                   SELECT meter_version_id, model_id, price_version_id, kind, quantity
                     FROM usage_rollup
                    WHERE tenant_id = s.tenant_id
                      AND bucket >= s.whole_end AND bucket < s.stop) AS r
            GROUP BY meter_version_id, model_id, price_version_id, kind) AS u),
named AS (
    SELECT u.number, u.start, v.code AS meter, m.name AS model, u.kind,
           coalesce(p.contract_ids, '{}') AS contract_ids, v.informational,
           sum(u.quantity) AS quantity
      FROM used u
      JOIN meter_version v ON v.id = u.meter_version_id AND v.additive
      LEFT JOIN model m ON m.id = u.model_id
      LEFT JOIN price_version p ON p.id = u.price_version_id
     GROUP BY u.number, u.start, v.code, m.name, u.kind, p.contract_ids, v.informational)
SELECT head.watermark, named.* FROM head LEFT JOIN named ON true
 ORDER BY number, meter, model NULLS FIRST, kind, contract_ids, start
"""


_Sum: TypeAlias = tuple[int, int | None, datetime, str, str | None, int, list[int], bool, Decimal]
"""A row of `_SUMS`; without usage at all there is one, with a watermark and no number."""


def usage_of_tenants(
    connection: sa.Connection, asked: Sequence[TenantSpans]
) -> tuple[PeriodUsage, ...]:
    """What tenants used of meters that add up, one answer for each of those asked, in order."""
    rows = cast("Sequence[_Sum]", query(connection, _SUMS, shard=SHARD, **_bounds(asked)))
    found: list[list[QuantityRow]] = [[] for _ in asked]
    watermark = rows[0][0]
    # By position: there is a row for each line of everybody's invoice.
    for _, number, start, meter, model, kind, contract_ids, informational, quantity in rows:
        if number is None:
            continue
        found[number].append(
            QuantityRow(
                meter=meter,
                model=model,
                kind=kind,
                contract_ids=tuple(contract_ids),
                quantity=quantity,
                informational=informational,
                bucket_from=start,
            )
        )
    units = meter_units(connection)
    return tuple(
        PeriodUsage(watermark=watermark, quantities=tuple(each), units=units) for each in found
    )


_LEVELS = """
SELECT t.id FROM unnest(CAST(:tenants AS integer[])) AS t (id)
 WHERE EXISTS (SELECT FROM usage_rollup_day r WHERE r.tenant_id = t.id
                  AND r.meter_version_id = ANY(CAST(:versions AS integer[])))
"""


def tenants_beyond_sums(connection: sa.Connection, tenant_ids: Sequence[int]) -> frozenset[int]:
    """Those of the tenants who ever used a meter whose quantities do not add up."""
    versions = query(connection, "SELECT id FROM meter_version WHERE NOT additive")
    if not versions:
        return frozenset()
    rows = query(
        connection,
        _LEVELS,
        tenants=plain_array(tenant_ids),
        versions=[row.id for row in versions],
    )
    return frozenset(row.id for row in rows)


def _bounds(asked: Sequence[TenantSpans]) -> dict[str, str]:
    """One entry of every column for each span."""
    rows = [
        (number, each.tenant_id, span.start, span.end, *_whole(span, each.zone_name))
        for number, each in enumerate(asked)
        for span in each.spans
    ]
    columns = (
        "numbers", "tenants", "starts", "stops", "first_days", "end_days", "whole_starts",
        "whole_ends",
    )  # fmt: skip
    return (
        dict(zip(columns, map(plain_array, zip(*rows, strict=True)), strict=True))
        if rows
        else dict.fromkeys(columns, "{}")
    )


@lru_cache(maxsize=1024)
def _whole(span: Period, zone_name: str) -> tuple[date | None, date | None, datetime, datetime]:
    """The whole local days of a span, and where they begin and end; spans of tenants are few."""
    in_zone = zone(zone_name)
    first_day, end_day = whole_days(span, in_zone)
    if first_day >= end_day:
        return None, None, span.end, span.end
    return (
        first_day,
        end_day,
        local_midnight(first_day, in_zone),
        local_midnight(end_day, in_zone),
    )
