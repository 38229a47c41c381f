"""CloudEvents through meters into the ledger, and what is shown and rated of them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal

import pytest

from billing.metering.cloud_event import CloudEvent
from billing.metering.usage_event import Verdict, VerdictKind
from billing.operations.metering.define_meter import define_meter
from billing.operations.metering.ingest_usage import report_usage
from billing.operations.metering.parking import release_parked, release_ready
from billing.operations.metering.read_usage import parked_usage, requests_of, usage_of
from billing.operations.metering.unrated_usage import unrated_usage
from billing.operations.rating.accrue_usage import accrue_usage
from billing.operations.rating.rate_period import rate_period
from billing.period import Period
from billing.store.database import Database, Role, query
from billing.store.usage.parked import ParkedRow
from billing.store.usage.read import usage_of_all
from billing.store.usage.verify import rollup_differences
from billing.tenancy.tenant import Tenant
from tests.metering.test_meters_on_database import meter_file, quantities, quantity
from tests.world import MONTH_END, MONTH_START, World, make_world, usage_report

MONTH = Period(start=MONTH_START, end=MONTH_END)

SEATS = """
slug: seats
name: Seats
currency: USD
charges:
  - {type: per_unit, key: seats, description: Seats, meter: seats, price: "1"}
"""


BY_REGION = "dimensions:\n  - {name: region, path: data.region}\n"


@pytest.fixture
def world(database: Database, now: datetime) -> World:
    return make_world(database, now)


def define(world: World, text: str) -> None:
    with world.database.transaction(Role.OPERATOR) as connection:
        define_meter(connection, text, now=world.now)


def sent(
    world: World,
    data: Mapping[str, object],
    *,
    event_id: str = "e",
    event_type: str = "t.run",
    time: datetime | None = None,
) -> Verdict:
    event = CloudEvent(
        source="test", id=event_id, type=event_type, time=time or world.now, data=data
    )
    with world.database.transaction(Role.OPERATOR) as connection:
        (verdict,) = report_usage(connection, [("acme", event)], now=world.now)
    return verdict


def ready(world: World, *, now: datetime | None = None) -> dict[VerdictKind, int]:
    with world.database.transaction(Role.OPERATOR) as connection:
        return release_ready(connection, now=now or world.now)


def waiting(world: World, tenant: Tenant) -> list[ParkedRow]:
    with world.database.transaction(Role.OPERATOR) as connection:
        return parked_usage(connection, tenant_id=tenant.id)


def by_region(world: World, tenant: Tenant) -> dict[str | None, Decimal]:
    with world.database.transaction(Role.OPERATOR) as connection:
        rows = usage_of(
            connection, tenant=tenant, period=MONTH, group="none", by=("dimension:region",)
        )
    return {row.value: row.quantity for row in rows}


def shown(world: World, tenant: Tenant) -> dict[str, Decimal]:
    with world.database.transaction(Role.OPERATOR) as connection:
        rows = usage_of(connection, tenant=tenant, period=MONTH, group="none")
        everybody = usage_of_all(connection, period=MONTH)
    found = {row.meter: row.quantity for row in rows}
    assert found == {meter: counted for _, meter, _, counted in everybody}
    return found


def test_L3_several_meters_of_one_type_count_one_event_once(world: World) -> None:
    define(world, meter_file("run", "sum"))
    define(world, meter_file("runs", "count").replace("t.runs", "t.run"))
    define(world, meter_file("peak", "max").replace("t.peak", "t.run"))
    acme = world.tenant("acme")
    first = sent(world, {"v": Decimal("2.5")})
    assert first.kind is VerdictKind.ACCEPTED
    define(world, meter_file("late", "sum").replace("t.late", "t.run"))
    again, other = sent(world, {"v": Decimal("2.5")}), sent(world, {"v": 3})
    assert (again.kind, again.event_id) == (VerdictKind.DUPLICATE, first.event_id)
    assert other.kind is VerdictKind.CONFLICTING
    with world.database.transaction(Role.OPERATOR) as connection:
        (event,) = requests_of(connection, tenant=acme, period=MONTH, limit=9)
        assert rollup_differences(connection) == []
    assert event.quantities == {"run": Decimal("2.5"), "runs": 1, "peak": Decimal("2.5")}
    assert quantity(world, acme, "peak") == Decimal("2.5")
    # A maximum is not shown as a sum of maxima.
    assert shown(world, acme) == {"run": Decimal("2.5"), "runs": 1}


def test_an_event_that_no_meter_selects_is_rejected_by_name(world: World) -> None:
    define(world, meter_file("run", "sum", "where: {region: eu}\nfilter: data.v > 3\n"))
    acme = world.tenant("acme")
    for data in ({"v": 5, "region": "us"}, {"v": 3, "region": "eu"}):
        verdict = sent(world, data)
        assert verdict.kind is VerdictKind.REJECTED
        assert "run asks for data.region = eu and data.v > 3" in (verdict.reason or "")
    unread = sent(world, {"v": "many", "region": "eu"})
    assert unread.kind is VerdictKind.REJECTED
    assert sent(world, {"v": 5, "region": "eu"}).kind is VerdictKind.ACCEPTED
    assert shown(world, acme) == {"run": 5}


def test_an_event_of_an_unknown_type_is_counted_once_a_meter_reads_it(world: World) -> None:
    acme = world.tenant("acme")
    data = {"v": Decimal("4.50"), "region": "eu", "quantity": 9}
    verdict = sent(world, data)
    assert (verdict.kind, "unknown type" in (verdict.reason or "")) == (VerdictKind.PARKED, True)
    assert ready(world) == {}
    define(world, meter_file("other", "sum"))
    assert ready(world) == {}
    define(world, meter_file("run", "sum", BY_REGION + "filter: data.quantity == 9\n"))
    assert ready(world) == {VerdictKind.ACCEPTED: 1}
    assert waiting(world, acme) == []
    assert shown(world, acme) == {"run": Decimal("4.5")}
    assert by_region(world, acme) == {"eu": Decimal("4.5")}
    assert sent(world, data).kind is VerdictKind.DUPLICATE
    assert sent(world, data | {"v": 5}).kind is VerdictKind.CONFLICTING
    assert shown(world, acme) == {"run": Decimal("4.5")}


def test_what_waited_and_is_left_out_by_every_meter_is_rejected_for_good(world: World) -> None:
    acme = world.tenant("acme")
    sent(world, {"v": 4}, event_id="small")
    sent(world, {"v": "many"}, event_id="unread")
    sent(world, {"v": 40}, event_id="large")
    define(world, meter_file("run", "sum", "filter: data.v > 9\n"))
    assert ready(world) == {VerdictKind.REJECTED: 2, VerdictKind.ACCEPTED: 1}
    assert (ready(world), waiting(world, acme)) == ({}, [])
    assert shown(world, acme) == {"run": 40}
    with world.database.transaction(Role.OPERATOR) as connection:
        decided = query(connection, "SELECT decision, reason FROM parked_decision")
    assert sum("left out by every meter" in row.reason for row in decided) == 1


def test_a_type_that_its_meter_has_left_behind_goes_on_waiting(world: World) -> None:
    acme = world.tenant("acme")
    sent(world, {"v": 4})
    first = meter_file("run", "sum")
    second = first.replace("t.run", "t.walk").replace("2026-10-01", f"{MONTH_START:%Y-%m-%d}")
    with world.database.transaction(Role.OPERATOR) as connection:
        for text in (first, second):
            define_meter(connection, text, now=MONTH_START - timedelta(days=9))
    assert ready(world) == {}
    assert len(waiting(world, acme)) == 1


@pytest.mark.parametrize("more", [{"text": "x" * 257}, {f"k{n}": "x" * 200 for n in range(90)}])
def test_P1_long_data_is_not_kept_and_has_to_be_sent_again(
    world: World, more: dict[str, object]
) -> None:
    acme = world.tenant("acme")
    assert sent(world, {"v": 4, **more}).kind is VerdictKind.PARKED
    (row,) = waiting(world, acme)
    assert (row.data, "x" * 200 in repr(row)) == (None, False)
    define(world, meter_file("run", "sum"))
    assert ready(world) == {}
    with world.database.transaction(Role.OPERATOR) as connection:
        verdict = release_parked(connection, parked_id=row.id, actor="desk", now=world.now)
    assert (verdict.kind, "send it again" in (verdict.reason or "")) == (VerdictKind.PARKED, True)
    assert shown(world, acme) == {}
    assert sent(world, {"v": 5, **more}).kind is VerdictKind.CONFLICTING
    assert sent(world, {"v": 4, **more}).kind is VerdictKind.ACCEPTED
    assert waiting(world, acme) == []
    assert shown(world, acme) == {"run": 4}


def test_a_type_that_is_a_built_in_meter_says_its_quantity(world: World) -> None:
    acme = world.tenant("acme")
    data = {"quantity": 12, "model": "tiny"}
    assert sent(world, data, event_type="tokens.input").kind is VerdictKind.ACCEPTED
    plain = usage_report(foreign_id="e", quantity=12, occurred_at=world.now)
    assert [verdict.kind for verdict in world.report(acme, plain)] == [VerdictKind.DUPLICATE]
    assert shown(world, acme) == {"tokens.input": 12}


def test_a_future_event_of_several_meters_and_dimensions_is_counted_in_its_time(
    world: World,
) -> None:
    define(world, meter_file("run", "sum", BY_REGION))
    define(world, meter_file("runs", "count").replace("t.runs", "t.run"))
    acme = world.tenant("acme")
    hour = timedelta(hours=1)
    data = {"v": Decimal("2.5"), "region": "eu"}
    verdict = sent(world, data, time=world.now + hour)
    assert (verdict.kind, "future" in (verdict.reason or "")) == (VerdictKind.PARKED, True)
    assert (ready(world), shown(world, acme)) == ({}, {})
    assert ready(world, now=world.now + hour) == {VerdictKind.ACCEPTED: 1}
    assert shown(world, acme) == {"run": Decimal("2.5"), "runs": 1}
    assert by_region(world, acme) == {"eu": Decimal("2.5")}
    assert sent(world, data, time=world.now + hour).kind is VerdictKind.DUPLICATE
    with world.database.transaction(Role.OPERATOR) as connection:
        assert rollup_differences(connection) == []


def test_a_future_event_that_cannot_be_kept_whole_is_not_halved(world: World) -> None:
    define(world, meter_file("run", "sum"))
    define(world, meter_file("runs", "count").replace("t.runs", "t.run"))
    world.tenant("acme")
    verdict = sent(world, {"v": 1, "text": "x" * 300}, time=world.now + timedelta(hours=1))
    assert (verdict.kind, "future" in (verdict.reason or "")) == (VerdictKind.REJECTED, True)


@pytest.mark.parametrize("counted", ["0", "2", "0.5"])
def test_a_count_takes_one_event_as_one(world: World, counted: str) -> None:
    define(world, meter_file("runs", "count"))
    acme = world.tenant("acme")
    verdicts = world.report(
        acme,
        usage_report(meter="runs", quantity=Decimal(counted), model=None, occurred_at=world.now),
        usage_report(meter="runs", foreign_id="one", model=None, occurred_at=world.now),
    )
    assert [verdict.kind for verdict in verdicts] == [VerdictKind.REJECTED, VerdictKind.ACCEPTED]
    assert shown(world, acme) == {"runs": 1}


def test_an_open_period_earns_a_level_hour_by_hour(world: World) -> None:
    define(world, meter_file("seats", "time_weighted_sum"))
    world.plan(SEATS)
    acme, free = world.tenant("acme", plan="seats"), world.tenant("free", plan=None)
    start = world.now - timedelta(hours=2)
    for tenant in (acme, free):
        report = usage_report(meter="seats", quantity=3, model=None, occurred_at=start)
        assert world.report(tenant, report)[0].kind is VerdictKind.ACCEPTED
    earned = []
    with world.database.transaction(Role.OPERATOR) as connection:
        (unrated,) = unrated_usage(connection, instant=world.now, now=world.now)
        assert (unrated.tenant, unrated.quantity.quantity) == ("free", 6)
        # The last two hours earn the same with no event in between: each of them is posted.
        for hours in (0, 1, 2, 2):
            now = world.now + timedelta(hours=hours)
            earned.append(accrue_usage(connection, tenant=acme, period=MONTH, now=now))
        whole = rate_period(connection, tenant=acme, period=MONTH)
        closed = rate_period(
            connection, tenant=acme, period=MONTH, until=MONTH_END + timedelta(days=3)
        )
        assert whole == closed
        rest = accrue_usage(connection, tenant=acme, period=MONTH, now=MONTH_END)
    assert earned == [6, 3, 3, 0]
    assert sum(earned) + rest == whole.contracts[0].rating.lines[0].exact


@pytest.mark.parametrize("aggregation", ["max", "latest", "percentile", "time_weighted_sum"])
def test_a_level_may_lie_below_zero_and_its_period_does_not(world: World, aggregation: str) -> None:
    define(world, meter_file("run", aggregation))
    acme = world.tenant("acme")
    assert sent(world, {"v": -3}).kind is VerdictKind.ACCEPTED
    plain = usage_report(
        foreign_id="p", meter="run", quantity=-5, model=None, occurred_at=world.now
    )
    assert world.report(acme, plain)[0].kind is VerdictKind.ACCEPTED
    assert all(row.quantity == 0 for row in quantities(world, acme, "run"))


@pytest.mark.parametrize("aggregation", ["sum", "count", "unique"])
def test_what_is_counted_is_taken_back_by_corrections_only(world: World, aggregation: str) -> None:
    define(world, meter_file("run", aggregation))
    acme = world.tenant("acme")
    for count in (1, -1):
        report = usage_report(
            foreign_id=f"p{count}",
            meter="run",
            quantity=count,
            model=None,
            occurred_at=world.now,
        )
        (verdict,) = world.report(acme, report)
        assert verdict.kind is (VerdictKind.ACCEPTED if count > 0 else VerdictKind.REJECTED)
