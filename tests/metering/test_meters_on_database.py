"""Meters as data on a real database: from a file and events to the quantities that are rated."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import count
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing.errors import Conflict, InvalidInput, InvalidPlan, NotFound
from billing.metering.correction import Correction
from billing.metering.usage_event import UsageReport, VerdictKind
from billing.operations.metering.compiled_meters import CompiledMeters, load_meters
from billing.operations.metering.correct_usage import correct_usage
from billing.operations.metering.define_meter import define_meter, list_meters, require_meter
from billing.period import Period
from billing.store.database import Database, Role
from billing.store.usage.read import QuantityRow, period_usage
from billing.tenancy.tenant import Tenant
from tests.world import MONTH_END, MONTH_START, World, make_world

MONTH = Period(start=MONTH_START, end=MONTH_END)
EARLY = 'effective_from: "2026-10-01T00:00:00Z"\n'

_serials = count(1)


def meter_file(code: str, aggregation: str, more: str = "", *, value: str = "data.v") -> str:
    read = "" if aggregation == "count" else f"value: {value}\n"
    percentile = 'percentile: "95"\n' if aggregation == "percentile" else ""
    return (
        f"code: {code}\nunit: units\nevent_type: t.{code}\naggregation: {aggregation}\n"
        f"{read}{percentile}{EARLY}{more}"
    )


@pytest.fixture
def world(database: Database, now: datetime) -> World:
    return make_world(database, now)


def define(world: World, text: str) -> None:
    with world.database.transaction(Role.OPERATOR) as connection:
        assert define_meter(connection, text, now=world.now).created


def compiled(world: World) -> CompiledMeters:
    with world.database.transaction(Role.INGEST) as connection:
        return load_meters(connection)


def send(world: World, tenant: Tenant, code: str, *events: tuple[object, datetime]) -> list[UUID]:
    """Report (value, instant) events as one batch, in the order given."""
    meters, reports = compiled(world), list[UsageReport]()
    for value, occurred_at in events:
        (measured,) = meters.match(f"t.{code}", {"v": value}, occurred_at)
        reports.append(
            UsageReport(
                source="test",
                foreign_id=f"m-{next(_serials)}",
                meter=measured.code,
                quantity=measured.quantity,
                occurred_at=occurred_at,
            )
        )
    verdicts = world.report(tenant, *reports)
    assert {verdict.kind for verdict in verdicts} <= {VerdictKind.ACCEPTED}, verdicts
    return [verdict.event_id for verdict in verdicts if verdict.event_id is not None]


def quantities(world: World, tenant: Tenant, code: str, **options) -> list[QuantityRow]:
    with world.database.transaction(Role.OPERATOR) as connection:
        used = period_usage(connection, tenant_id=tenant.id, period=MONTH, **options)
    return [row for row in used.quantities if row.meter == code]


def quantity(world: World, tenant: Tenant, code: str, **options) -> Decimal:
    (row,) = quantities(world, tenant, code, **options)
    return row.quantity


def at(hours: int, **more: int) -> datetime:
    return MONTH_START + timedelta(hours=hours, **more)


@pytest.mark.parametrize(
    ("aggregation", "values", "expected"),
    [
        ("sum", [3, "0.5", 3], "6.5"),
        ("count", [3, None, 3], "3"),
        ("unique", ["a", "b", "a"], "2"),
        ("max", [3, 7, 5], "7"),
        ("latest", [3, 7, 0], "0"),
        ("percentile", list(range(1, 21)), "19"),
    ],
)
def test_an_aggregation_from_events_to_the_quantity_that_is_rated(
    world: World, aggregation: str, values: list[object], expected: str
) -> None:
    define(world, meter_file("gauge", aggregation))
    tenant, other = world.tenant("acme"), world.tenant("other")
    events = [(value, at(hours)) for hours, value in enumerate(values)]
    send(world, tenant, "gauge", *reversed(events))
    send(world, other, "gauge", (1000, at(1)))
    assert quantity(world, tenant, "gauge") == Decimal(expected)


def test_levels_carry_over_from_before_the_period_and_end_with_it(world: World) -> None:
    define(world, meter_file("seats", "time_weighted_sum"))
    tenant = world.tenant()
    send(world, tenant, "seats", (9, at(-48)), (2, at(-24)), (5, at(12)), (0, at(24)))
    send(world, tenant, "seats", (100, MONTH_END - timedelta(days=20, hours=12)))
    send(world, tenant, "seats", (1, MONTH_END - timedelta(days=20, hours=11)))
    left = 20 * 24 + 11
    assert quantity(world, tenant, "seats") == 12 * 2 + 12 * 5 + 100 + left
    assert quantity(world, tenant, "seats", until=at(20)) == 12 * 2 + 8 * 5


def test_a_level_is_split_where_contracts_change(world: World) -> None:
    define(world, meter_file("seats", "time_weighted_sum"))
    tenant = world.tenant()
    send(world, tenant, "seats", (2, at(0)))
    rows = quantities(world, tenant, "seats", edges=[at(24)])
    assert [(row.bucket_from, row.quantity) for row in rows] == [
        (at(0), Decimal(48)),
        (at(24), Decimal(29 * 48)),
    ]


def test_ties_go_to_the_event_that_was_committed_last(world: World) -> None:
    define(world, meter_file("gauge", "latest"))
    tenant = world.tenant()
    for value, hours in ((1, 5), (2, 5), (3, 4)):
        send(world, tenant, "gauge", (value, at(hours)))
    assert quantity(world, tenant, "gauge") == 2


def test_a_void_takes_an_event_out_of_what_cannot_be_subtracted(world: World) -> None:
    define(world, meter_file("peak", "max"))
    tenant = world.tenant()
    _, wrong = send(world, tenant, "peak", (3, at(1)), (900, at(2)))
    with world.database.transaction(Role.OPERATOR) as connection:
        correct_usage(
            connection,
            Correction(
                corrects=wrong,
                source="test",
                foreign_id="void-1",
                reason="a typing error",
            ),
            tenant_id=tenant.id,
            actor="test",
            now=world.now,
        )
    assert quantity(world, tenant, "peak") == 3


@pytest.fixture
def gauges(world: World) -> tuple[World, Iterator[Tenant]]:
    for aggregation in ("sum", "unique", "max", "latest", "percentile", "time_weighted_sum"):
        define(world, meter_file(aggregation, aggregation))
    return world, (world.tenant(f"t-{number}") for number in count())


@settings(
    max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    events=st.lists(
        st.tuples(st.integers(0, 50), st.integers(0, 10_000)),
        min_size=1,
        max_size=12,
        unique_by=lambda event: event[1],
    ),
    seed=st.randoms(use_true_random=False),
)
def test_L4_arrival_order_changes_no_quantity(gauges, events, seed) -> None:
    world, tenants = gauges
    seed.shuffle(events)
    readings = [(value, MONTH_START + timedelta(minutes=minute)) for value, minute in events]
    seen = []
    for order in (readings, sorted(readings, key=lambda each: each[1])):
        tenant = next(tenants)
        for code in ("sum", "unique", "max", "latest", "percentile", "time_weighted_sum"):
            send(world, tenant, code, *order[:5])
            send(world, tenant, code, *order[5:])
        with world.database.transaction(Role.OPERATOR) as connection:
            used = period_usage(connection, tenant_id=tenant.id, period=MONTH)
        seen.append({row.meter: row.quantity for row in used.quantities})
    values = [value for value, _ in readings]
    assert seen[0] == seen[1]
    assert seen[0].get("sum", 0) == sum(values)
    assert (seen[0]["unique"], seen[0]["max"]) == (len(set(values)), max(values))


def test_row_21_usage_from_before_a_meter_took_effect_is_not_counted(world: World) -> None:
    define(world, meter_file("late", "sum").replace(EARLY, ""))
    tenant, meters = world.tenant(), compiled(world)
    assert meters.match("t.late", {"v": 5}, world.now - timedelta(microseconds=1)) == ()
    assert not meters.in_force("t.late", world.now - timedelta(microseconds=1))
    send(world, tenant, "late", (7, world.now))
    early = UsageReport(
        source="test",
        foreign_id="early",
        meter="late",
        quantity=Decimal(5),
        occurred_at=world.now - timedelta(microseconds=1),
    )
    assert [verdict.kind for verdict in world.report(tenant, early)] == [VerdictKind.PARKED]
    assert quantity(world, tenant, "late") == 7


def test_a_next_version_reads_events_from_its_instant_on(world: World) -> None:
    define(world, meter_file("gpu", "sum"))
    with world.database.transaction(Role.OPERATOR) as connection:
        text = meter_file("gpu", "sum", value="data.w").replace(EARLY, "")
        second = define_meter(connection, text, now=world.now + timedelta(minutes=1))
        assert not define_meter(connection, text, now=world.now).created
        assert [each.version for each in require_meter(connection, "gpu")] == [1, 2]
    start = world.now + timedelta(minutes=15)
    assert (second.version.version, second.version.effective_from) == (2, start)
    meters, event = compiled(world), {"v": 1, "w": 2}
    (before,) = meters.match("t.gpu", event, start - timedelta(microseconds=1))
    (after,) = meters.match("t.gpu", event, start)
    assert (before.quantity, after.quantity) == (1, 2)
    assert before.meter_version_id != after.meter_version_id


def test_equalities_and_expressions_select_events(world: World) -> None:
    define(world, meter_file("eu", "sum", "where: {region: eu, tier: 2, live: true}\n"))
    define(
        world,
        meter_file("long", "sum", "filter: data.n > 10\n").replace("t.long", "t.eu"),
    )
    meters = compiled(world)

    def codes(**event: object) -> list[str]:
        return [each.code for each in meters.match("t.eu", {"v": 1, "n": 5, **event}, at(0))]

    assert codes(region="eu", tier=2, live=True) == ["eu"]
    assert codes(region="eu", tier=2, live=False) == []
    assert codes(region="us", tier=2, live=True) == []
    assert codes() == []
    assert codes(region="eu", tier=2, live=True, n=11) == ["eu", "long"]
    with pytest.raises(InvalidInput, match="cannot be evaluated"):
        codes(n=None)
    with pytest.raises(InvalidInput, match="meter eu cannot read this event"):
        codes(region="eu", tier=2, live=True, v="many")
    assert meters.match("t.unknown", {}, at(0)) == ()


def test_row_05_random_filters_and_bands_count_every_event_once(world: World) -> None:
    dimension = "dimensions:\n  - {name: context, path: data.n, edges: [8000, 32000]}\n"
    define(world, meter_file("all", "sum", dimension))
    halves = [("small", "data.n < 8000"), ("large", "!(data.n < 8000)")]
    for code, expression in halves:
        text = meter_file(code, "sum", f'filter: "{expression}"\n')
        define(world, text.replace(f"t.{code}", "t.all"))
    meters = compiled(world)
    by_code: dict[str, Decimal] = {}
    by_band: dict[str, Decimal] = {}
    for n in range(0, 40_000, 500):
        for each in meters.match("t.all", {"v": n, "n": n}, at(0)):
            by_code[each.code] = by_code.get(each.code, Decimal(0)) + each.quantity
            for _, band in each.dimensions:
                by_band[band] = by_band.get(band, Decimal(0)) + each.quantity
    assert by_code["all"] == by_code["small"] + by_code["large"] == sum(by_band.values())
    assert sorted(by_band) == ["8000..32000", "<8000", ">=32000"]


@pytest.mark.parametrize(
    ("change", "line", "about"),
    [
        (("unit: units", "unit: units\nunits: units"), 3, "unknown field"),
        (("value: data.v", "value: $.v"), 5, "plain path"),
        (("aggregation: sum", "aggregation: mean"), 4, "unknown aggregation"),
        (("value: data.v", "filter: data.n > 0.5\nvalue: data.v"), 5, "binary float"),
        (("value: data.v\n", ""), 1, "count takes no value"),
        (("2026-10-01T00:00:00Z", "2026-10-01T00:01:00Z"), 6, "15-minute grid"),
        (
            (
                "value: data.v",
                "value: data.v\ndimensions: [{name: n, path: data.n, edges: [2, 1]}]",
            ),
            6,
            "ascend",
        ),
    ],
)
def test_a_file_that_is_refused_names_its_line(
    world: World, change: tuple[str, str], line: int, about: str
) -> None:
    text = meter_file("gpu", "sum")
    assert change[0] in text
    with (
        pytest.raises(InvalidPlan) as refused,
        world.database.transaction(Role.OPERATOR) as connection,
    ):
        define_meter(connection, text.replace(*change), now=world.now)
    assert about in refused.value.message
    assert refused.value.line == line


def test_what_was_counted_stays_counted(world: World) -> None:
    define(world, meter_file("gpu", "sum"))
    with world.database.transaction(Role.OPERATOR) as connection:
        for code in ("requests", "outcome.won"):
            with pytest.raises(Conflict, match="built in"):
                define_meter(connection, meter_file(code, "sum"), now=world.now)
        with pytest.raises(Conflict, match="never change"):
            define_meter(connection, meter_file("gpu", "max"), now=world.now)
        with pytest.raises(InvalidPlan, match="begins in the future"):
            define_meter(connection, meter_file("gpu", "sum", value="data.w"), now=world.now)
        with pytest.raises(NotFound):
            require_meter(connection, "nothing")
        kinds = {each.meter.code: each.reading is None for each in list_meters(connection)}
    assert kinds["tokens.input"]
    assert not kinds["gpu"]


def test_a_plan_can_price_a_defined_meter(world: World) -> None:
    plan = """
slug: levels
name: Levels
currency: USD
charges:
  - {type: per_unit, key: gpu, description: Peak, meter: gpu.peak, price: "2"}
"""
    with pytest.raises(InvalidPlan, match="unknown meter"):
        world.plan(plan)
    define(world, meter_file("gpu.peak", "max"))
    world.plan(plan)


def test_nothing_is_aggregated_where_nothing_happened(world: World) -> None:
    define(world, meter_file("gpu", "time_weighted_sum"))
    tenant = world.tenant()
    assert quantities(world, tenant, "gpu") == []
