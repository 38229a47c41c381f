"""Usage of many tenants at once, from the level of days: one statement for a page of periods.

Decides: how spans of many tenants are read in one snapshot, and which tenants have usage that is
no sum and so has to be read by itself. The same rows as `period_usage` reads for one tenant.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from functools import lru_cache
from typing import TypeAlias, cast

import sqlalchemy as sa

from billing.money import EXACT
from billing.period import Period, local_midnight, zone
from billing.store.arrays import plain_array
from billing.store.database import query
from billing.store.usage.aggregates import QuantityRow
from billing.store.usage.append import SHARD
from billing.store.usage.levels import whole_days
from billing.store.usage.read import PeriodUsage


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantSpans:
    """What is asked of one tenant: spans of one period, over whose ends no quantity reaches."""

    tenant_id: int
    zone_name: str
    spans: tuple[Period, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Names:
    """What the numbers in rows of a page stand for; all of it is written once and never changed.

    Attributes:
        meters: (code, informational) by version, of meters that add up.
        contracts: contracts in force by price version.
        units: of a meter, by code.
    """

    meters: Mapping[int, tuple[str, bool]]
    models: Mapping[int, str]
    contracts: Mapping[int, tuple[int, ...]]
    units: Mapping[str, str]


Sum: TypeAlias = tuple[str, str | None, int, tuple[int, ...], bool, Decimal]
"""Meter, model, kind, contracts that were in force, whether it is informational, quantity."""

_Row: TypeAlias = tuple[int, int | None, int, int, int, int, Decimal]
"""A row of `_SUMS`; without usage at all there is one, with a watermark and no span."""

_PlacedRow: TypeAlias = tuple[int, int, int, int, Decimal]
"""Meter version, model, price version and kind with their quantity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeriodSums:
    """What a tenant used of meters that add up, as it was read: values are made when asked for.

    Attributes:
        watermark: newest epoch that is in it.
        spans: those that were asked, each with its rows.
    """

    watermark: int
    spans: tuple[tuple[Period, list[_PlacedRow]], ...]
    names: _Names

    def sums(self) -> Iterator[Sum]:
        """Every quantity; the same meter and model may come repeatedly."""
        return self._named(rows for _, rows in self.spans)

    def _named(self, of_spans: Iterable[Sequence[_PlacedRow]]) -> Iterator[Sum]:
        meters, models, contracts = self.names.meters, self.names.models, self.names.contracts
        for rows in of_spans:
            for version, model, price, kind, quantity in rows:
                if (meter := meters.get(version)) is not None:
                    yield (
                        meter[0], models.get(model), kind, contracts.get(price, ()), meter[1],
                        quantity,
                    )  # fmt: skip

    def usage(self) -> PeriodUsage:
        """The same by meter, model, kind and contracts, as `period_usage` tells it."""
        found: dict[tuple[str, bool, str, int, tuple[int, ...], datetime], QuantityRow] = {}
        for span, rows in self.spans:
            for meter, model, kind, contract_ids, informational, quantity in self._named((rows,)):
                place = (meter, model is not None, model or "", kind, contract_ids, span.start)
                before = found.get(place)
                found[place] = QuantityRow(
                    meter=meter,
                    model=model,
                    kind=kind,
                    contract_ids=contract_ids,
                    quantity=quantity if before is None else EXACT.add(before.quantity, quantity),
                    informational=informational,
                    bucket_from=span.start,
                )
        return PeriodUsage(
            watermark=self.watermark,
            quantities=tuple(found[place] for place in sorted(found)),
            units=self.names.units,
        )


# Summed for each span by itself, so that what is kept at once is one span's rows. The epoch is
# read by the same statement: one statement sees one snapshot (D10). Names are not joined to it:
# there are few, and a row for each line of everybody's invoice.
_SUMS = """
SELECT head.watermark, used.place, used.meter_version_id, used.model_id, used.price_version_id,
       used.kind, used.quantity
  FROM (SELECT epoch AS watermark FROM ledger_epoch WHERE shard = :shard) AS head
  LEFT JOIN (
       SELECT s.place, u.*
         FROM unnest(CAST(:tenants AS integer[]), CAST(:starts AS timestamptz[]),
                     CAST(:stops AS timestamptz[]), CAST(:first_days AS date[]),
                     CAST(:end_days AS date[]), CAST(:whole_starts AS timestamptz[]),
                     CAST(:whole_ends AS timestamptz[]))
              WITH ORDINALITY AS s (tenant_id, start, stop, first_day, end_day, whole_start,
                                    whole_end, place)
        CROSS JOIN LATERAL (
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
               GROUP BY meter_version_id, model_id, price_version_id, kind) AS u) AS used ON true
"""


def sums_of_tenants(
    connection: sa.Connection, asked: Sequence[TenantSpans]
) -> tuple[PeriodSums, ...]:
    """What tenants used of meters that add up, one answer for each of those asked, in order."""
    rows = cast("Sequence[_Row]", query(connection, _SUMS, shard=SHARD, **_bounds(asked)))
    placed: list[list[_PlacedRow]] = [[] for each in asked for _ in each.spans]
    watermark = rows[0][0]
    # By position: there is a row for each line of everybody's invoice.
    for _, place, version, model, price, kind, quantity in rows:
        if place is not None:
            placed[place - 1].append((version, model, price, kind, quantity))
    names = _names(connection, {row[4] for row in rows if row[1] is not None})
    found = iter(placed)
    return tuple(
        PeriodSums(
            watermark=watermark,
            spans=tuple((span, next(found)) for span in each.spans),
            names=names,
        )
        for each in asked
    )


def _names(connection: sa.Connection, price_versions: Iterable[int]) -> _Names:
    versions = query(
        connection, "SELECT id, code, unit, informational, additive FROM meter_version"
    )
    models = query(connection, "SELECT id, name FROM model")
    prices = query(
        connection,
        "SELECT id, contract_ids FROM price_version WHERE id = ANY(CAST(:ids AS integer[]))",
        ids=plain_array(price_versions),
    )
    return _Names(
        meters={row.id: (row.code, row.informational) for row in versions if row.additive},
        models={row.id: row.name for row in models},
        contracts={row.id: tuple(row.contract_ids) for row in prices},
        units={row.code: row.unit for row in versions},
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
        (each.tenant_id, span.start, span.end, *_whole(span, each.zone_name))
        for each in asked
        for span in each.spans
    ]
    columns = (
        "tenants", "starts", "stops", "first_days", "end_days", "whole_starts", "whole_ends",
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
