"""The parking queue: what waits is visible, is released as it was reported, or refused for good."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID

import pytest

from billing.errors import Conflict, InvalidInput, NotFound
from billing.metering.usage_event import UsageReport, Verdict
from billing.operations.metering.ingest_usage import ingest_usage
from billing.operations.metering.parking import reject_parked, release_parked, release_ready
from billing.operations.metering.read_usage import parked_usage, usage_of
from billing.period import Period
from billing.store.catalog import insert_meter
from billing.store.database import Database, Role, query
from billing.store.usage.parked import ParkedRow
from billing.tenancy.tenant import Tenant
from tests.world import World, make_world, usage_report

NOBODY = UUID(int=7)


@pytest.fixture
def world(database: Database, now: datetime) -> World:
    return make_world(database, now)


def waiting(world: World, tenant: Tenant | None = None) -> list[ParkedRow]:
    with world.database.transaction(Role.OPERATOR) as connection:
        return parked_usage(connection, tenant_id=tenant and tenant.id)


def define(world: World, code: str = "pages", *, since: datetime | None = None) -> None:
    with world.database.transaction(Role.OPERATOR) as connection:
        insert_meter(connection, code=code, unit=code, informational=True, now=since or world.now)


def release(world: World, row: ParkedRow, *, now: datetime | None = None) -> Verdict:
    with world.database.transaction(Role.OPERATOR) as connection:
        return release_parked(connection, parked_id=row.id, actor="ada", now=now or world.now)


def send(world: World, tenant: Tenant, report: UsageReport, *, now: datetime) -> Verdict:
    with world.database.transaction(Role.INGEST) as connection:
        (verdict,) = ingest_usage(connection, [report], tenant=tenant, now=now)
    return verdict


def counted(world: World, tenant: Tenant) -> dict[str, Decimal]:
    days = timedelta(days=40)
    with world.database.transaction(Role.OPERATOR) as connection:
        rows = usage_of(
            connection,
            tenant=tenant,
            period=Period(start=world.now - days, end=world.now + days),
            group="none",
        )
    return {row.meter: row.quantity for row in rows}


def decisions(world: World) -> list[tuple[str, str, str]]:
    with world.database.transaction(Role.OPERATOR) as connection:
        rows = query(
            connection,
            "SELECT p.foreign_id, d.decision, d.actor FROM parked_decision d "
            "JOIN parked_usage p ON p.id = d.parked_id ORDER BY 1",
        )
    return [(row.foreign_id, row.decision, row.actor) for row in rows]


def test_an_empty_queue_releases_nothing(world: World) -> None:
    assert waiting(world) == []
    with world.database.transaction(Role.OPERATOR) as connection:
        assert release_ready(connection, now=world.now) == {}
    with world.database.transaction(Role.OPERATOR) as connection:
        with pytest.raises(NotFound):
            release_parked(connection, parked_id=NOBODY, actor="ada", now=world.now)
        with pytest.raises(NotFound):
            reject_parked(connection, parked_id=NOBODY, reason="no", actor="ada", now=world.now)


def test_what_waits_is_released_once_its_meter_is_defined(world: World) -> None:
    acme = world.tenant()
    report = usage_report(meter="pages", quantity=3, model=None, occurred_at=world.now)
    assert world.report(acme, report)[0].kind == "parked"
    (row,) = waiting(world, acme)
    still = release(world, row)
    assert (still.kind, still.reason) == (
        "parked", "unknown meter; it is counted once it is defined",
    )  # fmt: skip
    assert len(waiting(world)) == 1

    define(world)
    assert release(world, row).kind == "accepted"
    assert waiting(world) == []
    assert counted(world, acme) == {"pages": Decimal(3)}
    assert decisions(world) == [("e-1", "released", "ada")]
    with pytest.raises(Conflict):
        release(world, row)
    assert world.report(acme, report)[0].kind == "duplicate"
    assert counted(world, acme) == {"pages": Decimal(3)}


def test_the_system_releases_what_has_become_countable_and_nothing_else(world: World) -> None:
    acme, birch = world.tenant("acme"), world.tenant("birch")
    for tenant in (acme, birch):
        world.report(
            tenant,
            usage_report(meter="pages", quantity=3, model=None, occurred_at=world.now),
            usage_report(foreign_id="e-2", meter="scans", model=None, occurred_at=world.now),
            usage_report(foreign_id="e-3", occurred_at=world.now + timedelta(days=1)),
            usage_report(foreign_id="e-4", meter="pages", project="gone", occurred_at=world.now),
        )
    define(world)
    with world.database.transaction(Role.OPERATOR) as connection:
        assert release_ready(connection, now=world.now) == {"accepted": 2, "rejected": 2}
        assert release_ready(connection, now=world.now) == {}
    assert counted(world, acme) == counted(world, birch) == {"pages": Decimal(3)}
    assert {row.foreign_id for row in waiting(world)} == {"e-2", "e-3"}
    assert {actor for _, _, actor in decisions(world)} == {"system"}
    with world.database.transaction(Role.OPERATOR) as connection:
        assert release_ready(connection, now=world.now + timedelta(days=1)) == {"accepted": 2}


def test_L3_an_id_that_waits_stands_for_one_body(world: World) -> None:
    acme = world.tenant()
    report = usage_report(meter="pages", quantity=3, model=None, occurred_at=world.now)
    other = usage_report(meter="pages", quantity=4, model=None, occurred_at=world.now)
    known = usage_report(foreign_id="b", quantity=4, occurred_at=world.now)
    world.report(acme, known)
    batch = [
        report,
        report,
        other,
        usage_report(quantity=3, occurred_at=world.now),
        usage_report(foreign_id="b", meter="pages", model=None, occurred_at=world.now),
    ]
    expected = ["parked", "parked", "conflicting", "accepted", "conflicting"]
    first = world.report(acme, *batch[:3], batch[4])
    assert [v.kind for v in first] == [*expected[:3], "conflicting"]
    again = world.report(acme, *batch)
    assert [v.kind for v in again] == ["parked", "parked", "conflicting", "conflicting",
                                       "conflicting"]  # fmt: skip
    assert [v.reason for v in again[:2]] == [v.reason for v in first[:2]]
    assert [row.quantity for row in waiting(world)] == [3]
    define(world)
    assert world.report(acme, other)[0].kind == "conflicting"
    assert len(waiting(world)) == 1
    assert world.report(acme, report)[0].kind == "accepted"
    assert decisions(world) == [("e-1", "released", "reporter")]
    assert world.report(acme, other)[0].kind == "conflicting"


def test_a_rejected_report_answers_rejected_for_ever(world: World) -> None:
    acme = world.tenant()
    report = usage_report(meter="pages", quantity=3, model=None, occurred_at=world.now)
    world.report(acme, report)
    (row,) = waiting(world)
    with world.database.transaction(Role.OPERATOR) as connection:
        with pytest.raises(InvalidInput):
            reject_parked(connection, parked_id=row.id, reason="", actor="ada", now=world.now)
        reject_parked(connection, parked_id=row.id, reason="a typo", actor="ada", now=world.now)
    assert waiting(world) == []
    define(world)
    (verdict,) = world.report(acme, report)
    assert (verdict.kind, verdict.reason) == ("rejected", "a typo")
    with pytest.raises(Conflict):
        release(world, row)
    with world.database.transaction(Role.OPERATOR) as connection, pytest.raises(Conflict):
        reject_parked(connection, parked_id=row.id, reason="again", actor="ada", now=world.now)
    assert counted(world, acme) == {}


def test_times_that_no_meter_knows_are_parked_or_refused(world: World) -> None:
    acme = world.tenant()
    define(world, since=world.now)
    microsecond = timedelta(microseconds=1)
    edges = {
        world.now - microsecond: "parked",
        world.now: "accepted",
        world.now + timedelta(minutes=5): "accepted",
        world.now + timedelta(minutes=5) + microsecond: "parked",
    }
    for at, kind in edges.items():
        report = usage_report(foreign_id=str(at), meter="pages", model=None, occurred_at=at)
        assert send(world, acme, report, now=world.now).kind == kind, at
    ancient = datetime.fromisoformat("2020-01-01T00:00:00+00:00")
    for at, kind in ((ancient - microsecond, "rejected"), (ancient, "accepted")):
        assert send(world, acme, usage_report(foreign_id=str(at), occurred_at=at),
                    now=world.now).kind == kind  # fmt: skip
