"""The levels of the rollups: days of any zone, months, totals of runs; all sums of the events."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import msgspec
import psycopg
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from billing.metering.event_id import microseconds, milliseconds, uuid7
from billing.operations.metering.encode_page import append_records
from billing.operations.metering.read_usage import usage_of
from billing.operations.metering.verify_rollups import verify_rollups
from billing.period import Period, local_midnight, zone
from billing.store.database import Database, Role
from billing.store.embedded.address import ServerAddress
from billing.store.usage.append import EventRow, append, ensure_meter_set
from billing.store.usage.levels import run_totals
from billing.store.usage.raw_counts import pack_counts, unpack_counts
from billing.tenancy.tenant import Tenant
from tests.operations.crash_points import attribution_of, usage_record
from tests.world import World, make_world

START = datetime(2026, 10, 1, tzinfo=UTC)
END = datetime(2026, 12, 1, tzinfo=UTC)


@pytest.fixture
def world(database: Database, now: datetime) -> World:
    return make_world(database, now)


def add(
    world: World,
    tenant: Tenant,
    at: datetime,
    quantity: Decimal | int,
    number: int,
    *,
    run: str = "",
) -> UUID:
    """One event of the first meter at an instant; its id."""
    with world.database.transaction(Role.INGEST) as connection:
        event_id = uuid7(milliseconds(world.now), number)
        row = EventRow(
            id=event_id,
            occurred_at=at,
            tenant_id=tenant.id,
            project_id=0,
            key_id=0,
            model_id=0,
            backend_id=0,
            price_version_id=0,
            meter_set_id=ensure_meter_set(connection, [1]),
            kind=0,
            cause=0,
            estimated=False,
            quantities=(quantity,),
            run_id=run or None,
        )
        assert append(connection, [row]).accepted == {event_id}
    return event_id


def used(world: World, tenant: Tenant, period: Period, group: str) -> dict[datetime, Decimal]:
    with world.database.transaction(Role.TENANT, tenant_id=tenant.id) as connection:
        rows = usage_of(connection, tenant=tenant, period=period, group=group)
    return {row.start: row.quantity for row in rows}


def require_exact(world: World) -> None:
    with world.database.transaction(Role.OPERATOR) as connection:
        assert verify_rollups(connection) == []


@pytest.mark.parametrize(
    ("zone_name", "last_of_day"),
    [
        ("Asia/Kathmandu", date(2026, 11, 3)),  # +05:45: midnight is off the hour
        ("Europe/Berlin", date(2026, 10, 25)),  # a day of 25 hours
        ("America/Havana", date(2026, 11, 1)),  # midnight happens twice
        ("Pacific/Kiritimati", date(2026, 11, 3)),
    ],
)
def test_a_day_is_the_tenants_own(world: World, zone_name: str, last_of_day: date) -> None:
    tenant = world.tenant("far", zone=zone_name)
    begins = local_midnight(last_of_day, zone(zone_name))
    ends = local_midnight(last_of_day + timedelta(days=1), zone(zone_name))
    instant = timedelta(microseconds=1)
    for number, at in enumerate((begins - instant, begins, ends - instant, ends)):
        add(world, tenant, at, 10**number, number)
    whole = Period(start=START, end=END)
    assert used(world, tenant, whole, "day")[begins] == 110
    assert sum(used(world, tenant, whole, "day").values()) == 1111
    assert used(world, tenant, Period(start=begins, end=ends), "none") == {begins: Decimal(110)}
    require_exact(world)


def test_a_period_off_the_days_takes_its_ends_from_the_quarter_hours(world: World) -> None:
    tenant = world.tenant("far", zone="Asia/Kathmandu")
    base = datetime(2026, 11, 1, 12, tzinfo=UTC)
    for hour in range(96):
        add(world, tenant, base + timedelta(hours=hour), 1, hour)
    for first, last in ((0, 96), (5, 90), (7, 9), (13, 20), (1, 40)):
        period = Period(start=base + timedelta(hours=first), end=base + timedelta(hours=last))
        for group in ("day", "month", "none", "hour", "bucket"):
            assert sum(used(world, tenant, period, group).values()) == last - first


def test_a_month_is_one_slot_from_its_first_local_day(world: World) -> None:
    tenant = world.tenant("far", zone="Asia/Kathmandu")
    begins = local_midnight(date(2026, 11, 1), zone("Asia/Kathmandu"))
    add(world, tenant, begins - timedelta(microseconds=1), 1, 1)
    add(world, tenant, begins, 2, 2)
    add(world, tenant, begins + timedelta(days=20), 4, 3)
    october = local_midnight(date(2026, 10, 1), zone("Asia/Kathmandu"))
    found = used(world, tenant, Period(start=october, end=END), "month")
    assert found == {october: Decimal(1), begins: Decimal(6)}


def test_a_negative_event_takes_back_on_every_level(world: World) -> None:
    tenant = world.tenant("acme")
    add(world, tenant, world.now, Decimal("10.250"), 1, run="run-1")
    add(world, tenant, world.now, Decimal("-10.25"), 2, run="run-1")
    add(world, tenant, world.now, Decimal("0.000000000000000001"), 3, run="run-1")
    whole = Period(start=START, end=END)
    for group in ("day", "bucket", "none"):
        assert list(used(world, tenant, whole, group).values()) == [Decimal("1E-18")]
    with world.database.transaction(Role.TENANT, tenant_id=tenant.id) as connection:
        totals = run_totals(connection, tenant_id=tenant.id, run_id="run-1")
    assert list(totals.values()) == [Decimal("1E-18")]
    require_exact(world)


def test_totals_of_a_run_are_of_its_events_only_and_count_once(world: World) -> None:
    acme, birch = world.tenant("acme"), world.tenant("birch")
    records = []
    for number, (tenant, run) in enumerate(
        [(acme, "r1"), (acme, "r1"), (acme, "r2"), (acme, ""), (birch, "r1")]
    ):
        named = msgspec.structs.replace(attribution_of(world, tenant), run_id=run)
        records.append(usage_record(world, named, number, output=10**number))
    for _ in range(2):  # the second time changes nothing
        with world.database.transaction(Role.INGEST) as connection:
            append_records(connection, records)
    with world.database.transaction(Role.OPERATOR) as connection:
        for tenant, run, output, requests in (
            (acme, "r1", 11, 2),
            (acme, "r2", 100, 1),
            (birch, "r1", 10_000, 1),
        ):
            totals = run_totals(connection, tenant_id=tenant.id, run_id=run)
            assert totals["tokens.output", "tiny"] == output
            assert totals["requests", "tiny"] == requests
        assert run_totals(connection, tenant_id=acme.id, run_id="") == {}
    require_exact(world)


@pytest.mark.parametrize(
    ("table", "where"),
    [("usage_rollup", "2026-"), ("usage_rollup_day", "day 2026-"), ("usage_run_total", "run r1")],
)
def test_L7_a_changed_rollup_of_any_level_is_named(
    world: World, postgres: ServerAddress, database_name: str, table: str, where: str
) -> None:
    add(world, world.tenant("acme"), world.now, 5, 1, run="r1")
    with psycopg.connect(postgres.owner_conninfo(database_name), autocommit=True) as owner:
        owner.execute(f"UPDATE {table} SET quantity = quantity + 1".encode())
    with world.database.transaction(Role.OPERATOR) as connection:
        (difference,) = verify_rollups(connection)
    assert (difference.tenant, difference.meter) == ("acme", "tokens.input")
    assert str(difference.bucket).startswith(where)


def test_quantities_come_back_as_they_were_written(world: World) -> None:
    tenant = world.tenant("acme")
    written = [
        *(Decimal(text) for text in ("0", "1E+3", "10000", "0.0001", "12345.678901", "-0.5")),
        *(Decimal(text) for text in ("99999999", "100000000.00010000", "1E-18", "-10000.0")),
        10**18,
        -(10**18) + 1,
    ]
    ids = [add(world, tenant, world.now, each, number) for number, each in enumerate(written)]
    with world.database.transaction(Role.OPERATOR) as connection:
        rows = connection.execute(sa.text("SELECT id, quantities FROM usage_event")).all()
    found = {row.id: row.quantities for row in rows}
    assert [found[event_id] for event_id in ids] == [[Decimal(each)] for each in written]
    require_exact(world)


@given(st.lists(st.integers(min_value=-(2**70), max_value=2**70)))
def test_raw_counts_come_back_as_they_were_packed(counts: list[int]) -> None:
    assert unpack_counts(pack_counts(counts)) == counts


def test_an_events_time_keeps_its_microseconds(world: World) -> None:
    at = datetime(2026, 11, 3, 4, 5, 6, 789_123, tzinfo=UTC)
    add(world, world.tenant("acme"), at, 1, 1)
    with world.database.transaction(Role.OPERATOR) as connection:
        stored = connection.execute(sa.text("SELECT occurred_at FROM usage_event")).scalar_one()
    assert microseconds(stored) == microseconds(at)
