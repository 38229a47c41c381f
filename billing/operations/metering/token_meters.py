"""Which versions of the built-in meters count an operation of the proxy, and what it carries.

Decides: an operation counts under versions that declare dimensions only where a contract that was
in force when it was admitted prices tokens by them; then it carries the length of its prompt and
its service tier. All others count under the versions without, which nothing was ever asked of: a
row of what each event carries, and rollups by each dimension, would double what they take.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import sqlalchemy as sa

from billing.metering.event_id import microseconds
from billing.metering.meter import BUILT_IN
from billing.operations.catalog.plans import plan_of
from billing.rating.needs import NO_NEEDS, needs_of
from billing.store import catalog
from billing.store.meters import MeterVersionRow, versions_of_meters
from billing.store.usage.append import ensure_meter_set

PLAIN: Final = 0
"""The span of operations that count under the versions without dimensions."""

_CODES: Final = tuple(meter.code for meter in BUILT_IN)


@dataclass(frozen=True, slots=True)
class TokenMeters:
    """The versions of the built-in meters, and whose operations are split by their dimensions.

    Attributes:
        starts: instants (µs) from which on others count, ascending; none if none was defined.
        versions: by span (`PLAIN`, then one from each start on) the rows of `BUILT_IN`.
        split: by price version, whether its contracts price tokens by a dimension.
    """

    starts: tuple[int, ...] = ()
    versions: tuple[tuple[int, ...], ...] = ()
    split: Mapping[int, bool] = field(default_factory=dict[int, bool])

    def span_of(self, price_version_id: int, at_us: int) -> int:
        """In which span an operation counts that ended at an instant."""
        if not self.starts or not self.split[price_version_id]:
            return PLAIN
        return bisect_right(self.starts, at_us)

    def knows(self, price_version_ids: Iterable[int]) -> bool:
        """Whether `span_of` can answer for operations of these price versions."""
        return not self.starts or all(each in self.split for each in price_version_ids)


def token_meters(
    connection: sa.Connection, price_version_ids: Iterable[int], *, known: TokenMeters | None = None
) -> TokenMeters:
    """The versions as they are now; contracts of a price version never change, so that those
    known are not read again."""
    split = {} if known is None else dict(known.split)
    rows = versions_of_meters(connection, _CODES)
    starts = sorted(
        {
            microseconds(row.defined.effective_from)
            for row in rows
            if row.defined.reading is not None
        }
    )
    if starts and (unknown := set(price_version_ids) - split.keys()):
        split |= _split(connection, unknown)
    return TokenMeters(
        starts=tuple(starts),
        versions=(_plain(rows), *(_at(rows, start) for start in starts)),
        split=split,
    )


def _plain(rows: Iterable[MeterVersionRow]) -> tuple[int, ...]:
    found = {row.defined.meter.code: row.id for row in rows if row.defined.reading is None}
    return tuple(found[code] for code in _CODES)


def _at(rows: Iterable[MeterVersionRow], start: int) -> tuple[int, ...]:
    """The newest version of each that counts at an instant; rows come by version."""
    found = {
        row.defined.meter.code: row.id
        for row in rows
        if microseconds(row.defined.effective_from) <= start
    }
    return tuple(found[code] for code in _CODES)


def _split(connection: sa.Connection, price_version_ids: Collection[int]) -> dict[int, bool]:
    plans = catalog.plan_versions_of(connection, price_version_ids)
    splits: dict[int, bool] = {}
    for row in {row.id: row for rows in plans.values() for row in rows}.values():
        needs = needs_of([plan_of(row)])
        splits[row.id] = any(needs.get(code, NO_NEEDS).dimensions for code in _CODES)
    return {
        price_version: any(splits[row.id] for row in plans.get(price_version, ()))
        for price_version in price_version_ids
    }


def ensure_token_set(
    connection: sa.Connection, meters: TokenMeters, span: int, units: Sequence[str]
) -> int:
    """The row of the built-in meters in a span and, behind them, those of the units."""
    of_units = catalog.meters(connection) if units else {}
    ids = (*meters.versions[span], *(of_units[unit].id for unit in units))
    return ensure_meter_set(connection, ids)
