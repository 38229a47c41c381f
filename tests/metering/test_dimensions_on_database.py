"""Dimensions and bands on a real database: kept, rolled up, read, drawn again from raw values."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import count
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing.errors import Conflict
from billing.metering.cloud_event import CloudEvent
from billing.metering.correction import Correction
from billing.metering.dimension import Dimension
from billing.metering.usage_event import VerdictKind
from billing.operations.metering.correct_usage import correct_usage
from billing.operations.metering.define_meter import define_meter
from billing.operations.metering.ingest_usage import report_usage
from billing.operations.metering.read_usage import OnlyUsage, usage_of
from billing.operations.metering.verify_rollups import verify_rollups
from billing.period import Period
from billing.store.database import Database, Role
from billing.store.embedded.address import ServerAddress
from billing.store.usage.levels import Level, UsageRow
from billing.tenancy.tenant import Tenant
from tests.world import MONTH_END, MONTH_START, World, make_world, usage_report

MONTH = Period(start=MONTH_START, end=MONTH_END)

_serials = count(1)


@pytest.fixture
def world(database: Database, now: datetime) -> World:
    return make_world(database, now)


def define(
    world: World,
    edges: str,
    *,
    code: str = "ctx",
    since: datetime = MONTH_START,
    event_type: str = "t.ctx",
    at: datetime | None = None,
) -> None:
    text = (
        f"code: {code}\nunit: tokens\nevent_type: {event_type}\naggregation: sum\n"
        f'value: data.v\neffective_from: "{since:%Y-%m-%dT%H:%M:%SZ}"\ndimensions:\n'
        f"  - {{name: context, path: data.n, edges: [{edges}]}}\n"
        "  - {name: region, path: data.where.region}\n"
    )
    with world.database.transaction(Role.OPERATOR) as connection:
        assert define_meter(connection, text, now=at or world.now).created


def send(
    world: World, tenant: Tenant, *events: tuple[Mapping[str, object], datetime]
) -> list[UUID]:
    batch = [
        (
            tenant.slug,
            CloudEvent(source="t", id=f"d-{next(_serials)}", type="t.ctx", time=at, data=data),
        )
        for data, at in events
    ]
    with world.database.transaction(Role.OPERATOR) as connection:
        verdicts = report_usage(connection, batch, now=MONTH_END)
    assert {each.kind for each in verdicts} <= {VerdictKind.ACCEPTED}, verdicts
    return [each.event_id for each in verdicts if each.event_id is not None]


def rows_of(
    world: World,
    tenant: Tenant,
    *,
    by: Collection[str] = ("dimension:context",),
    group: str = "none",
    period: Period = MONTH,
    **only: Collection[str],
) -> list[UsageRow]:
    with world.database.transaction(Role.TENANT, tenant_id=tenant.id) as connection:
        return usage_of(
            connection,
            tenant=tenant,
            period=period,
            group=group,
            by=by,
            only=OnlyUsage(**only),
        )


def split(world: World, tenant: Tenant, **asked) -> tuple[dict[str | None, Decimal], set[Level]]:
    rows = rows_of(world, tenant, **asked)
    assert len({row.value for row in rows}) == len(rows)
    return {row.value: row.quantity for row in rows}, {row.level for row in rows}


def require_exact(world: World) -> None:
    with world.database.transaction(Role.OPERATOR) as connection:
        assert verify_rollups(connection) == []


def at(hours: int) -> datetime:
    return MONTH_START + timedelta(hours=hours)


def test_usage_is_split_by_band_and_by_value(world: World) -> None:
    define(world, "8000, 32000")
    tenant, other = world.tenant("acme"), world.tenant("other")
    send(
        world,
        tenant,
        ({"v": 1, "n": 100, "where": {"region": "eu"}}, at(1)),
        ({"v": Decimal("2.5"), "n": "8000", "where": {"region": "eu"}}, at(2)),
        ({"v": 4, "n": Decimal(50_000)}, at(30)),
        ({"v": 8}, at(31)),
        ({"v": 0, "n": 1}, at(31)),
    )
    send(world, other, ({"v": 1000, "n": 1}, at(1)))
    bands = {"<8000": 1, "8000..32000": Decimal("2.5"), ">=32000": 4, "none": 8}
    assert split(world, tenant) == (bands, {Level.ROLLUP})
    regions, _ = split(world, tenant, by=("dimension:region",))
    assert regions == {"eu": Decimal("3.5"), "none": 12}
    days = rows_of(world, tenant, group="day")
    assert [(row.start, row.value, row.events) for row in days] == [
        (at(0), "8000..32000", 1),
        (at(0), "<8000", 1),
        (at(24), ">=32000", 1),
        (at(24), "none", 1),
    ]
    for group in ("hour", "bucket", "month"):
        found = rows_of(world, tenant, group=group)
        assert sum(row.quantity for row in found) == Decimal("15.5"), group
    require_exact(world)


def test_L3_an_event_that_comes_twice_is_split_once(world: World) -> None:
    define(world, "10")
    tenant = world.tenant("acme")
    event = CloudEvent(source="t", id="same", type="t.ctx", time=at(1), data={"v": 3, "n": 11})
    for _ in range(2):
        with world.database.transaction(Role.OPERATOR) as connection:
            report_usage(connection, [("acme", event)] * 2, now=world.now)
    assert split(world, tenant)[0] == {">=10": 3}
    require_exact(world)


def test_what_is_taken_back_is_taken_from_its_own_band(world: World) -> None:
    define(world, "10")
    tenant = world.tenant("acme")
    wrong, amended = send(world, tenant, ({"v": 3, "n": 11}, at(1)), ({"v": 5, "n": 2}, at(1)))
    for number, (event_id, quantities) in enumerate(
        [(wrong, None), (amended, {"ctx": Decimal(6)})]
    ):
        with world.database.transaction(Role.OPERATOR) as connection:
            correct_usage(
                connection,
                Correction(
                    corrects=event_id,
                    source="desk",
                    foreign_id=f"c-{number}",
                    reason="typo",
                    quantities=quantities,
                ),
                tenant_id=tenant.id,
                actor="ada",
                now=world.now,
            )
    assert split(world, tenant)[0] == {"<10": 6, ">=10": 0}
    require_exact(world)


def test_new_edges_hold_for_the_past_and_say_that_it_was_read_from_the_events(
    world: World,
) -> None:
    define(world, "10")
    tenant = world.tenant("acme")
    send(world, tenant, ({"v": 1, "n": 5}, at(1)), ({"v": 2, "n": 15}, at(1)))
    assert split(world, tenant) == ({"<10": 1, ">=10": 2}, {Level.ROLLUP})
    since = MONTH_START + timedelta(days=20)
    define(world, "3, 12", since=since)
    send(world, tenant, ({"v": 4, "n": 5}, since), ({"v": 8, "n": 1}, since))
    everything = {"3..12": Decimal(5), ">=12": Decimal(2), "<3": Decimal(8)}
    assert split(world, tenant) == (everything, {Level.RAW})
    past = Period(start=MONTH_START, end=since)
    assert split(world, tenant, period=past) == ({"3..12": 1, ">=12": 2}, {Level.RAW})
    later = Period(start=since, end=MONTH_END)
    assert split(world, tenant, period=later) == ({"3..12": 4, "<3": 8}, {Level.ROLLUP})
    for group in ("day", "hour", "bucket", "month"):
        rows = rows_of(world, tenant, group=group)
        assert {(row.start < since, row.value, row.quantity) for row in rows} >= {
            (True, ">=12", Decimal(2))
        }, group
    require_exact(world)


def test_a_meter_whose_edges_stay_is_read_from_rollups_beside_one_whose_change(
    world: World,
) -> None:
    define(world, "10", code="one")
    define(world, "10", code="two")
    tenant = world.tenant("acme")
    send(world, tenant, ({"v": 1, "n": 5}, at(1)))
    define(world, "20", code="two", since=MONTH_START + timedelta(days=20))
    rows = rows_of(world, tenant)
    assert [(row.meter, row.value, row.level) for row in rows] == [
        ("one", "<10", Level.ROLLUP),
        ("two", "<20", Level.RAW),
    ]


def test_what_was_text_before_there_were_edges_falls_into_no_band(world: World) -> None:
    define(world, "")
    tenant = world.tenant("acme")
    texts: list[object] = ["many", True, "12", " 12", "1e3", "0" * 65 + "1", 12, "-3"]
    send(world, tenant, *(({"v": 1, "n": text}, at(1)) for text in texts))
    assert split(world, tenant)[0]["12"] == 2
    define(world, "10", since=MONTH_START + timedelta(days=20))
    assert split(world, tenant) == ({"none": 5, ">=10": 2, "<10": 1}, {Level.RAW})
    with world.database.transaction(Role.OPERATOR) as connection:
        (verdict,) = report_usage(
            connection,
            [
                (
                    "acme",
                    CloudEvent(
                        source="t",
                        id="bad",
                        type="t.ctx",
                        time=MONTH_START + timedelta(days=21),
                        data={"v": 1, "n": "many"},
                    ),
                )
            ],
            now=MONTH_END,
        )
    assert verdict.kind is VerdictKind.REJECTED


def test_a_plain_report_of_a_split_meter_carries_nothing_and_still_adds_up(world: World) -> None:
    define(world, "10")
    tenant = world.tenant("acme")
    world.report(tenant, usage_report(meter="ctx", quantity=7, model=None, occurred_at=at(1)))
    assert split(world, tenant)[0] == {"none": 7}
    require_exact(world)


@pytest.fixture
def shared(world: World) -> World:
    """One world for all examples; each takes a tenant and meters of its own."""
    return world


NUMBERS = st.one_of(
    st.none(),
    st.integers(-50, 50),
    st.decimals(-50, 50, places=2).map(lambda number: number + Decimal(0)),
)
EDGES = st.lists(st.integers(-40, 40), min_size=1, max_size=5, unique=True).map(sorted)


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    events=st.lists(
        st.tuples(NUMBERS, st.integers(1, 9), st.integers(0, 24 * 15)), min_size=1, max_size=12
    ),
    before=EDGES,
    after=EDGES,
    group=st.sampled_from(["day", "month", "hour", "bucket", "none"]),
)
def test_L4_any_edges_drawn_later_give_what_rollups_with_them_would_hold(
    shared: World, events, before, after, group
) -> None:
    serial = next(_serials)
    tenant = shared.tenant(f"t-{serial}", zone="Asia/Kathmandu")
    drawn, redrawn = f"a{serial}", f"b{serial}"
    # Both read the same events: one with these edges from the start, one with them only later.
    kind = f"t.{serial}"
    define(shared, ", ".join(map(str, after)), code=drawn, event_type=kind)
    define(shared, ", ".join(map(str, before)), code=redrawn, event_type=kind)
    batch = [
        (
            tenant.slug,
            CloudEvent(
                source="t",
                id=f"h-{number}",
                type=kind,
                time=at(hours),
                data={"v": quantity, **({} if length is None else {"n": length})},
            ),
        )
        for number, (length, quantity, hours) in enumerate(events)
    ]
    with shared.database.transaction(Role.OPERATOR) as connection:
        verdicts = report_usage(connection, batch, now=MONTH_END)
    assert {each.kind for each in verdicts} == {VerdictKind.ACCEPTED}
    if before != after:
        late = MONTH_START + timedelta(days=20)
        define(shared, ", ".join(map(str, after)), code=redrawn, since=late, event_type=kind)
    found: dict[str, list[tuple[datetime, str | None, Decimal, int]]] = {drawn: [], redrawn: []}
    levels = {}
    for row in rows_of(shared, tenant, group=group):
        if row.meter in found:
            found[row.meter].append((row.start, row.value, row.quantity, row.events))
            levels[row.meter] = row.level
    assert found[drawn] == found[redrawn]
    assert levels[drawn] is Level.ROLLUP
    assert levels[redrawn] is (Level.ROLLUP if before == after else Level.RAW)
    edges = tuple(map(Decimal, after))
    dimension = Dimension(name="n", path="data.n", edges=edges)
    expected: dict[str, int] = {}
    for length, quantity, _ in events:
        band = dimension.value_of(None if length is None else f"{length:f}")
        expected[band] = expected.get(band, 0) + quantity
    assert {
        value: sum(row[2] for row in found[drawn] if row[1] == value) for value in expected
    } == expected
    require_exact(shared)


@pytest.mark.parametrize(
    ("table", "where"),
    [
        ("usage_dimension_rollup", "2026-11-01T01:00Z context=<10"),
        ("usage_dimension_rollup_day", "day 2026-11-01 context=<10"),
    ],
)
def test_L7_a_changed_rollup_by_dimension_is_named(
    world: World, postgres: ServerAddress, database_name: str, table: str, where: str
) -> None:
    define(world, "10")
    send(world, world.tenant("acme"), ({"v": 1, "n": 5}, at(1)))
    with psycopg.connect(postgres.owner_conninfo(database_name), autocommit=True) as owner:
        owner.execute(
            f"UPDATE {table} SET quantity = quantity + 1 WHERE dimension = 'context'".encode()
        )
    with world.database.transaction(Role.OPERATOR) as connection:
        (difference,) = verify_rollups(connection)
    assert (difference.tenant, difference.meter, difference.bucket) == ("acme", "ctx", where)


def test_edges_are_not_drawn_through_what_has_left(
    world: World, postgres: ServerAddress, database_name: str
) -> None:
    define(world, "10")
    tenant = world.tenant("acme")
    send(world, tenant, ({"v": 1, "n": 5}, at(1)))
    define(world, "20", since=MONTH_START + timedelta(days=20))
    with psycopg.connect(postgres.owner_conninfo(database_name), autocommit=True) as owner:
        owner.execute(
            "WITH a AS (INSERT INTO usage_archive (month, ordinal, url, bytes, sha256, events, "
            "archived_at) VALUES ('2026-11-01', 1, 'x', 0, sha256(''), 0, now()) RETURNING id) "
            "INSERT INTO usage_horizon SELECT '2026-11-01', id, '2026-12-01Z', now() FROM a"
        )
    with pytest.raises(Conflict, match="have left the database"):
        rows_of(world, tenant)
