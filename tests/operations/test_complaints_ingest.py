"""What users of other engines complained about, where it is ingestion that must do better."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import permutations

import psycopg
import pytest
from psycopg.errors import IntegrityConstraintViolation, UniqueViolation

from billing.errors import AmountOutOfRange
from billing.operations.metering.ingest_usage import ingest_usage
from billing.operations.metering.parking import release_ready
from billing.operations.metering.read_usage import usage_of
from billing.operations.metering.unrated_usage import unrated_usage
from billing.period import BUCKET, Period
from billing.store.catalog import insert_meter
from billing.store.database import Database, Role, only
from billing.store.embedded.address import ServerAddress
from billing.tenancy.tenant import Tenant
from tests.operations.crash_points import Crash, crash_before
from tests.world import World, make_world, usage_report


@pytest.fixture
def world(database: Database, now: datetime) -> World:
    return make_world(database, now)


@pytest.fixture
def owner(postgres: ServerAddress, database_name: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(postgres.owner_conninfo(database_name), autocommit=True) as connection:
        yield connection


def used(world: World, tenant: Tenant, period: Period) -> Decimal:
    with world.database.transaction(Role.OPERATOR) as connection:
        rows = usage_of(connection, tenant=tenant, period=period, group="none")
    return sum((row.quantity for row in rows), Decimal(0))


def around(now: datetime) -> Period:
    return Period(start=now - timedelta(days=10), end=now + timedelta(days=10))


def test_row_01_a_release_that_dies_between_statements_counts_once(world: World) -> None:
    acme = world.tenant()
    engine = world.database.engine

    def release() -> None:
        with world.database.transaction(Role.OPERATOR) as connection:
            release_ready(connection, now=world.now)

    def park(number: int) -> None:
        report = usage_report(foreign_id=f"p-{number}", meter=f"m-{number}", occurred_at=world.now)
        assert world.report(acme, report)[0].kind == "parked"
        with world.database.transaction(Role.OPERATOR) as connection:
            insert_meter(
                connection, code=f"m-{number}", unit="n", informational=True, now=world.now
            )

    park(0)
    release()  # what is made once for everybody is made here
    park(1)
    with crash_before(engine, None) as statements:
        release()
    for number in range(1, statements.sent + 1):
        park(number + 1)
        with pytest.raises(Crash), crash_before(engine, number):
            release()
        release()
        release()
    assert used(world, acme, around(world.now)) == statements.sent + 2


def test_row_02_one_id_in_two_tenants_is_two_events(world: World) -> None:
    for slug in ("acme", "birch"):
        tenant = world.tenant(slug)
        report = usage_report(meter="requests", model=None, occurred_at=world.now)
        assert [v.kind for v in world.report(tenant, report)] == ["accepted"]
        assert used(world, tenant, around(world.now)) == 1


def test_row_03_a_second_correction_of_one_event_fails_in_the_database(
    world: World, owner: psycopg.Connection
) -> None:
    insert = (
        "INSERT INTO usage_correction SELECT gen_random_uuid(), 1, 'void', %s, now(), NULL, 's', "
        "%s, 'r', 'a', now()"
    )
    original = "00000000-0000-7000-8000-000000000001"
    owner.execute(insert, [original, "a"])
    for foreign_id in ("a", "b"):
        with pytest.raises(UniqueViolation):
            owner.execute(insert, [original, foreign_id])


def test_row_06_events_of_one_instant_add_up_in_any_order(world: World) -> None:
    reports = [
        usage_report(foreign_id=str(n), quantity=10**n, occurred_at=world.now) for n in range(3)
    ]
    for number, order in enumerate(permutations(reports)):
        tenant = world.tenant(f"order-{number}")
        world.report(tenant, *order)
        assert used(world, tenant, around(world.now)) == 111


def test_row_07_a_microsecond_decides_the_bucket(world: World) -> None:
    acme, edge = world.tenant(), world.now
    for name, offset in (("before", -1), ("at", 0), ("after", 1)):
        at = edge + timedelta(microseconds=offset)
        world.report(acme, usage_report(foreign_id=name, occurred_at=at))
    assert used(world, acme, Period(start=edge - BUCKET, end=edge)) == 1
    assert used(world, acme, Period(start=edge, end=edge + BUCKET)) == 2


def test_row_08_long_decimals_add_up_digit_by_digit(world: World) -> None:
    acme = world.tenant()
    parts = [Decimal("0.115999999999999999"), Decimal("17.96"), Decimal("0.01499")]
    for part in parts:
        world.use(acme, {"requests": part})
    assert used(world, acme, around(world.now)) == Decimal("18.090989999999999999")


@pytest.mark.parametrize(
    "table", ["usage_correction", "parked_decision", "usage_key", "usage_source"]
)
def test_row_15_no_clean_up_can_delete(owner: psycopg.Connection, table: str) -> None:
    with pytest.raises(IntegrityConstraintViolation):
        owner.execute(f"DELETE FROM {table}".encode())


def test_row_21_usage_from_before_its_meter_waits(world: World) -> None:
    acme = world.tenant()
    with world.database.transaction(Role.OPERATOR) as connection:
        insert_meter(connection, code="pages", unit="pages", informational=True, now=world.now)
    for offset, kind in ((-1, "parked"), (0, "accepted")):
        at = world.now + timedelta(microseconds=offset)
        report = usage_report(foreign_id=kind, meter="pages", occurred_at=at)
        assert world.report(acme, report)[0].kind == kind
    assert used(world, acme, around(world.now)) == 1


def test_rows_22_and_23_no_event_is_without_a_price_or_a_place_in_the_queue(world: World) -> None:
    acme = world.tenant(plan=None)
    world.use(acme, {"tokens.input": 7})
    with world.database.transaction(Role.OPERATOR) as connection:
        (waiting,) = unrated_usage(connection, instant=world.now, now=world.now)
    assert (waiting.tenant, waiting.quantity.quantity) == ("acme", 7)


def test_row_27_one_fact_is_one_event(world: World) -> None:
    acme = world.tenant()
    report = usage_report(quantity=5, occurred_at=world.now)
    kinds = [v.kind for v in world.report(acme, *[report] * 4)]
    assert kinds == ["accepted", *["duplicate"] * 3]
    with world.database.transaction(Role.OPERATOR) as connection:
        assert only(connection, "SELECT count(*) AS n FROM usage_event").n == 1


def test_row_31_what_is_out_of_range_raises(world: World) -> None:
    acme = world.tenant()
    with pytest.raises(AmountOutOfRange):
        usage_report(quantity=10**18 + 1, occurred_at=world.now)
    with world.database.transaction(Role.INGEST) as connection:
        reports = [
            usage_report(foreign_id=str(n), quantity=10**18, occurred_at=world.now)
            for n in range(3)
        ]
        ingest_usage(connection, reports, tenant=acme, now=world.now)
    assert used(world, acme, around(world.now)) == 3 * 10**18
