"""What events carry for dimensions of their meters, and the rollups by it.

Written in the transaction and under the epoch of the events, and only where one of their meters
declares a dimension: all others cost one look at their meter sets per batch, and those of the
proxy not even that where no price asks for one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal, localcontext
from typing import NamedTuple

import sqlalchemy as sa

from billing.metering.dimension import Dimension
from billing.money import EXACT
from billing.store.database import query, run
from billing.store.meters import read_reading
from billing.store.usage.staged_rows import Origin, StagedRows


class _Split(NamedTuple):
    """A new event that one of its meters splits."""

    origin: Origin
    quarter: int
    quantities: Sequence[Decimal | int]
    properties: tuple[tuple[str, str], ...]
    id: bytes


class _Key(NamedTuple):
    """Of one bucket; its order is that in which rows are written, or writers would deadlock."""

    tenant_id: int
    dimension: str
    quarter: int
    value: str
    meter_version_id: int
    model_id: int
    price_version_id: int
    project_id: int
    key_id: int
    kind: int


@dataclass(frozen=True, slots=True)
class _Declared:
    """A meter of a set that declares dimensions, by its position in the set."""

    position: int
    meter_version_id: int
    dimensions: tuple[Dimension, ...]


_SETS = """
SELECT s.id, u.position, v.id AS meter_version_id, v.reading
  FROM meter_set s
 CROSS JOIN LATERAL unnest(s.meter_version_ids) WITH ORDINALITY AS u (version_id, position)
  JOIN meter_version v ON v.id = u.version_id
 WHERE s.id = ANY(:sets) AND jsonb_array_length(v.reading -> 'dimensions') > 0
"""

# Asked for before it is inserted: a conflict, too, takes an id.
_SHAPES = """
INSERT INTO usage_shape (paths)
SELECT DISTINCT paths FROM (SELECT ARRAY(SELECT jsonb_array_elements_text(p)) AS paths
                              FROM unnest(CAST(:paths AS jsonb[])) AS p) AS s
 WHERE NOT EXISTS (SELECT FROM usage_shape h WHERE h.paths = s.paths) ORDER BY paths
ON CONFLICT DO NOTHING
"""
_PROPERTIES = """
INSERT INTO usage_property (event_id, tenant_id, shape_id, texts)
SELECT p.event_id, p.tenant_id, h.id, ARRAY[{names}]
  FROM unnest(CAST(:event_id AS uuid[]), CAST(:tenant_id AS integer[]), {texts})
       AS p (event_id, tenant_id, {names})
 CROSS JOIN usage_shape h WHERE h.paths = CAST(:paths AS text[])
"""

_KEY = "dimension, value, meter_version_id, model_id, price_version_id, project_id, key_id, kind"
_ADDED = (
    "DO UPDATE SET quantity = r.quantity + excluded.quantity, "
    "events = r.events + excluded.events, epoch = excluded.epoch"
)
_ADD = f"""
WITH added AS MATERIALIZED (
    SELECT g.tenant_id, CAST('1970-01-01Z' AS timestamptz) + g.quarter * interval '15 minutes'
           AS bucket, {_KEY}, g.quantity, g.events
      FROM unnest(CAST(:tenant_id AS integer[]), CAST(:quarter AS integer[]),
                  CAST(:dimension AS text[]), CAST(:value AS text[]),
                  CAST(:meter_version_id AS integer[]), CAST(:model_id AS integer[]),
                  CAST(:price_version_id AS integer[]), CAST(:project_id AS integer[]),
                  CAST(:key_id AS integer[]), CAST(:kind AS smallint[]),
                  CAST(:quantity AS numeric[]), CAST(:events AS bigint[]))
           WITH ORDINALITY AS g (tenant_id, quarter, {_KEY}, quantity, events, place)
     ORDER BY g.place
), quarters AS (
    INSERT INTO usage_dimension_rollup AS r (tenant_id, bucket, {_KEY}, quantity, events, epoch)
    SELECT tenant_id, bucket, {_KEY}, quantity, events, :epoch FROM added
    ON CONFLICT (tenant_id, dimension, bucket, value, meter_version_id, model_id,
                 price_version_id, project_id, key_id, kind) {_ADDED}
), days AS (
    INSERT INTO usage_dimension_rollup_day AS r
           (tenant_id, day, {_KEY}, quantity, events, epoch)
    SELECT a.tenant_id, CAST(a.bucket AT TIME ZONE t.zone AS date), {_KEY}, sum(quantity),
           sum(events), :epoch
      FROM added a JOIN tenant t ON t.id = a.tenant_id
     GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 ORDER BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10
    ON CONFLICT (tenant_id, dimension, day, value, meter_version_id, model_id,
                 price_version_id, project_id, key_id, kind) {_ADDED}
)
SELECT 1
"""  # noqa: S608  # our own names


def add_dimensions(
    connection: sa.Connection, staged: StagedRows, accepted: Sequence[bytes], *, epoch: int
) -> None:
    """Keep what events that are new carry, and add them to the rollups by dimension."""
    sets = {origin.meter_set_id for _, origin, _, _ in staged.counted()}
    declared: dict[int, list[_Declared]] = {}
    for row in query(connection, _SETS, sets=sorted(sets)) if accepted else ():
        meter = _Declared(
            position=row.position - 1,
            meter_version_id=row.meter_version_id,
            dimensions=read_reading(row.reading).dimensions,
        )
        declared.setdefault(row.id, []).append(meter)
    if not declared:
        return
    new = frozenset(accepted)
    split = [
        _Split(origin, quarter, quantities, staged.properties.get(id_, ()), id_)
        for id_, origin, quarter, quantities in staged.counted()
        if origin.meter_set_id in declared and id_ in new
    ]
    _keep_properties(connection, [event for event in split if event.properties])
    _add(connection, _sums(split, declared), epoch=epoch)


def _keep_properties(connection: sa.Connection, events: Sequence[_Split]) -> None:
    by_paths: dict[tuple[str, ...], list[_Split]] = {}
    for event in events:
        by_paths.setdefault(tuple(path for path, _ in event.properties), []).append(event)
    if not by_paths:
        return
    run(connection, _SHAPES, paths=sorted(json.dumps(paths) for paths in by_paths))
    # Sorted, because rows of one key in opposite orders would deadlock.
    for paths in sorted(by_paths):
        carriers = by_paths[paths]
        texts = {
            f"text_{number}": [event.properties[number][1] for event in carriers]
            for number in range(len(paths))
        }
        run(
            connection,
            _PROPERTIES.format(
                names=", ".join(texts),
                texts=", ".join(f"CAST(:{name} AS text[])" for name in texts),
            ),
            event_id=[event.id.hex() for event in carriers],
            tenant_id=[event.origin.tenant_id for event in carriers],
            paths=list(paths),
            **texts,
        )


def _sums(
    events: Sequence[_Split], declared: dict[int, list[_Declared]]
) -> dict[_Key, tuple[Decimal, int]]:
    """What events add to the rollups: first those of equal values together, and then each to the
    rows of its values, of which there are several for every meter."""
    valued = {set_id: _Valued(meters) for set_id, meters in declared.items()}
    groups: dict[tuple[Origin, int, tuple[str, ...]], list[tuple[Decimal | int, int]]] = {}
    with localcontext(EXACT):
        for event in events:
            of_set = valued[event.origin.meter_set_id]
            place = (event.origin, event.quarter, of_set.values(event.properties))
            totals = groups.setdefault(place, [(0, 0)] * len(of_set.meters))
            for number, meter in enumerate(of_set.meters):
                quantity = event.quantities[meter.position]
                if quantity:
                    total, count = totals[number]
                    totals[number] = (total + quantity, count + 1)
    sums: dict[_Key, tuple[Decimal, int]] = {}
    for (origin, quarter, values), totals in groups.items():
        of_set = valued[origin.meter_set_id]
        for meter, (quantity, events_) in zip(of_set.meters, totals, strict=True):
            if events_:
                for key in of_set.keys(meter, origin, quarter, values):
                    total, count = sums.get(key, (Decimal(0), 0))
                    sums[key] = (EXACT.add(total, Decimal(quantity)), count + events_)
    return sums


class _Valued:
    """The meters of a set, and the values of their dimensions that were read once."""

    def __init__(self, meters: Sequence[_Declared]) -> None:
        self.meters = meters
        # Meters of one event mostly declare the same: one value serves them all.
        self._each = tuple(
            {
                (each.path, each.edges): each for meter in meters for each in meter.dimensions
            }.values()
        )
        self._known: dict[tuple[tuple[str, str], ...], tuple[str, ...]] = {}

    def values(self, properties: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
        """The values of what an event carries, for each way to read one."""
        found = self._known.get(properties)
        if found is None:
            carried = dict(properties)
            found = tuple(each.value_of(carried.get(each.path)) for each in self._each)
            self._known[properties] = found
        return found

    def keys(
        self, meter: _Declared, origin: Origin, quarter: int, values: tuple[str, ...]
    ) -> Iterator[_Key]:
        """The rows of one meter to which an event with these values is added."""
        read = {
            (each.path, each.edges): value for each, value in zip(self._each, values, strict=True)
        }
        for each in meter.dimensions:
            yield _Key(
                origin.tenant_id,
                each.name,
                quarter,
                read[each.path, each.edges],
                meter.meter_version_id,
                origin.model_id,
                origin.price_version_id,
                origin.project_id,
                origin.key_id,
                origin.kind,
            )


def _add(connection: sa.Connection, sums: dict[_Key, tuple[Decimal, int]], *, epoch: int) -> None:
    if not sums:
        return
    keys = sorted(sums)
    columns = dict(zip(_Key._fields, map(list, zip(*keys, strict=True)), strict=True))
    query(
        connection,
        _ADD,
        epoch=epoch,
        **columns,
        quantity=[sums[key][0] for key in keys],
        events=[sums[key][1] for key in keys],
    )
