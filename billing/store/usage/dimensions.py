"""What events carry for dimensions of their meters, and the rollups by it.

Written in the transaction and under the epoch of the events, and only where one of their meters
declares a dimension: all others cost one look at their meter sets per batch, and those of the
proxy not even that where no price asks for one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

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
SELECT p.event_id, p.tenant_id, h.id, ARRAY(SELECT jsonb_array_elements_text(p.texts))
  FROM unnest(CAST(:event_id AS uuid[]), CAST(:tenant_id AS integer[]),
              CAST(:paths AS jsonb[]), CAST(:texts AS jsonb[]))
       AS p (event_id, tenant_id, paths, texts)
  JOIN usage_shape h ON h.paths = ARRAY(SELECT jsonb_array_elements_text(p.paths))
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
    if not events:
        return
    paths = [json.dumps([path for path, _ in event.properties]) for event in events]
    run(connection, _SHAPES, paths=sorted(set(paths)))
    run(
        connection,
        _PROPERTIES,
        event_id=[UUID(bytes=event.id) for event in events],
        tenant_id=[event.origin.tenant_id for event in events],
        paths=paths,
        texts=[json.dumps([text for _, text in event.properties]) for event in events],
    )


def _sums(
    events: Sequence[_Split], declared: dict[int, list[_Declared]]
) -> dict[_Key, tuple[Decimal, int]]:
    sums: dict[_Key, tuple[Decimal, int]] = {}
    for event in events:
        carried, origin = dict(event.properties), event.origin
        for meter in declared[origin.meter_set_id]:
            quantity = Decimal(event.quantities[meter.position])
            if not quantity:
                continue
            for each in meter.dimensions:
                key = _Key(
                    origin.tenant_id,
                    each.name,
                    event.quarter,
                    each.value_of(carried.get(each.path)),
                    meter.meter_version_id,
                    origin.model_id,
                    origin.price_version_id,
                    origin.project_id,
                    origin.key_id,
                    origin.kind,
                )
                total, count = sums.get(key, (Decimal(0), 0))
                sums[key] = (EXACT.add(total, quantity), count + 1)
    return sums


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
