"""Reported usage: one verdict per report, each fact once, however often and in whatever order."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from os import environ
from uuid import UUID

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing.errors import InvalidInput
from billing.metering.event_id import milliseconds, uuid7
from billing.metering.usage_event import EventKind, UsageReport, Verdict, VerdictKind
from billing.operations.metering import ingest_usage as module
from billing.operations.metering.ingest_usage import ingest_usage
from billing.operations.metering.read_usage import parked_usage, requests_of, usage_of
from billing.period import BUCKET, Period, bucket_of
from billing.store.database import Database, Role
from billing.store.usage.append import EventRow, append, ensure_meter_set
from billing.store.usage.verify import rollup_differences
from billing.tenancy.tenant import Tenant
from tests.strategies import PATIENT, decimals
from tests.world import MONTH_END, World, make_world, usage_report

FULL = environ.get("STEELYARD_ROUNDS") == "full"
EXAMPLES = 150 if FULL else 8
_slugs = (f"tenant-{number}" for number in count(1))

properties = settings(
    PATIENT,
    max_examples=EXAMPLES,
    # One database serves all examples: each one has a tenant of its own.
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@pytest.fixture
def world(database: Database, now: datetime) -> World:
    return make_world(database, now)


def quantities(
    world: World, tenant: Tenant, period: Period
) -> dict[tuple[str, str | None], Decimal]:
    """What rollups say a tenant used, by meter and model."""
    with world.database.transaction(Role.OPERATOR) as connection:
        rows = usage_of(connection, tenant=tenant, period=period, group="none")
    return {(row.meter, row.model): row.quantity for row in rows}


def events(world: World, tenant: Tenant) -> int:
    period = Period(start=datetime(2020, 1, 1, tzinfo=UTC), end=datetime(2030, 1, 1, tzinfo=UTC))
    with world.database.transaction(Role.OPERATOR) as connection:
        return len(requests_of(connection, tenant=tenant, period=period, limit=1000))


def require_rollups_true(world: World) -> None:
    with world.database.transaction(Role.OPERATOR) as connection:
        assert rollup_differences(connection) == []


def whole(now: datetime) -> Period:
    return Period(start=now - timedelta(days=20), end=now + timedelta(days=20))


def test_L3_each_report_gets_the_verdict_that_it_deserves(world: World) -> None:
    acme = world.tenant()
    report = usage_report(foreign_id="a", quantity=5, occurred_at=world.now)
    (first,) = world.report(acme, report)
    reports = [
        usage_report(foreign_id="b", quantity=7, occurred_at=world.now),
        report,
        usage_report(foreign_id="a", quantity=Decimal("5.000"), occurred_at=world.now),
        usage_report(foreign_id="a", quantity=6, occurred_at=world.now),
        usage_report(foreign_id="a", source="other", quantity=6, occurred_at=world.now),
        usage_report(foreign_id="c", meter="unheard-of", occurred_at=world.now),
        usage_report(foreign_id="d", occurred_at=world.now + timedelta(minutes=5)),
        usage_report(foreign_id="e", occurred_at=world.now + timedelta(minutes=5, microseconds=1)),
        usage_report(foreign_id="f", project="nowhere", occurred_at=world.now),
        usage_report(foreign_id="b", quantity=7, occurred_at=world.now),
        usage_report(foreign_id="b", quantity=8, occurred_at=world.now),
    ]
    verdicts = world.report(acme, *reports)

    assert [verdict.kind for verdict in verdicts] == [
        "accepted", "duplicate", "duplicate", "conflicting", "accepted", "parked", "accepted",
        "parked", "rejected", "duplicate", "conflicting",
    ]  # fmt: skip
    of_b = verdicts[0].event_id
    assert [v.event_id for v in verdicts[1:4]] == [first.event_id] * 3
    assert [v.event_id for v in verdicts[9:]] == [of_b, of_b]
    assert all(v.reason for v in verdicts if v.kind in {"conflicting", "parked", "rejected"})
    assert quantities(world, acme, whole(world.now)) == {("tokens.input", "tiny"): 5 + 7 + 6 + 1}
    assert events(world, acme) == 4
    require_rollups_true(world)


def test_parked_reports_wait_once_and_count_nothing(world: World) -> None:
    acme = world.tenant()
    unknown = usage_report(meter="pages", quantity=3, model=None, occurred_at=world.now)
    early = usage_report(foreign_id="e-2", occurred_at=world.now + timedelta(days=1))
    for _ in range(2):
        assert {v.kind for v in world.report(acme, unknown, early)} == {"parked"}
    with world.database.transaction(Role.OPERATOR) as connection:
        waiting = parked_usage(connection, tenant_id=acme.id)
    assert {(row.foreign_id, row.meter, row.quantity) for row in waiting} == {
        ("e-1", "pages", 3),
        ("e-2", "tokens.input", 1),
    }
    assert events(world, acme) == 0

    # Nothing was claimed for it: once its time has come, the same report counts.
    with world.database.transaction(Role.INGEST) as connection:
        verdicts = ingest_usage(connection, [early], tenant=acme, now=world.now + timedelta(days=1))
    assert [verdict.kind for verdict in verdicts] == ["accepted"]


def test_T1_one_id_of_two_tenants_is_two_events(world: World) -> None:
    acme, birch = world.tenant("acme"), world.tenant("birch")
    report = usage_report(foreign_id="shared", quantity=5, occurred_at=world.now)
    verdicts = [world.report(tenant, report)[0] for tenant in (acme, birch)]
    assert [verdict.kind for verdict in verdicts] == ["accepted", "accepted"]
    assert verdicts[0].event_id != verdicts[1].event_id
    for tenant in (acme, birch):
        assert quantities(world, tenant, whole(world.now)) == {("tokens.input", "tiny"): 5}


def test_an_overlong_batch_is_refused_whole(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH_MAX", 2)
    acme = world.tenant()
    reports = [usage_report(foreign_id=str(n), occurred_at=world.now) for n in range(3)]
    with pytest.raises(InvalidInput, match="too many"):
        world.report(acme, *reports)
    assert events(world, acme) == 0
    assert [verdict.kind for verdict in world.report(acme, *reports[:2])] == ["accepted"] * 2


@pytest.mark.parametrize("field", ["foreign_id", "source", "meter", "model", "project"])
@pytest.mark.parametrize("text", ["", "a\0b", "\ud800", "x" * 257])
def test_text_that_cannot_be_kept_is_refused_before_it_reaches_the_database(
    now: datetime, field: str, text: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        usage_report(**{field: text}, occurred_at=now)  # pyright: ignore[reportArgumentType]
    assert refused.value.field == field.replace("foreign_id", "id")


@pytest.mark.parametrize(
    "quantity", ["NaN", "sNaN", "Infinity", "-Infinity", "1000000000000000000.1", "1e-19"]
)
def test_a_quantity_that_cannot_be_rated_is_refused(now: datetime, quantity: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        usage_report(quantity=Decimal(quantity), occurred_at=now)
    assert refused.value.field == "quantity"


def test_odd_text_is_kept_as_it_is(world: World) -> None:
    acme = world.tenant()
    odd = [chr(92) + "N", "tab\tand\nline", "{}\"',", "\u00e9\u4e2d\U0001f600", "x" * 256]
    reports = [
        usage_report(foreign_id=text, source=text, model=text, occurred_at=world.now)
        for text in odd
    ]
    assert {verdict.kind for verdict in world.report(acme, *reports)} == {"accepted"}
    assert {verdict.kind for verdict in world.report(acme, *reports)} == {"duplicate"}
    assert quantities(world, acme, whole(world.now)) == {("tokens.input", text): 1 for text in odd}


def test_large_and_long_quantities_are_kept_exact(world: World) -> None:
    acme = world.tenant()
    huge, tiny = Decimal(10**18), Decimal("0.000000000000000001")
    world.use(acme, {"tokens.input": huge, "tokens.output": tiny})
    world.use(acme, {"tokens.input": tiny, "tokens.output": tiny})
    assert quantities(world, acme, whole(world.now)) == {
        ("tokens.input", "tiny"): Decimal("1000000000000000000.000000000000000001"),
        ("tokens.output", "tiny"): Decimal("0.000000000000000002"),
    }
    require_rollups_true(world)


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kathmandu", "America/St_Johns"])
def test_an_event_at_an_edge_is_in_exactly_one_period(world: World, zone: str) -> None:
    acme = world.tenant(zone=zone)
    month = acme.billing_period(world.now)
    assert bucket_of(month.start) == month.start
    microsecond = timedelta(microseconds=1)
    bucket = Period(start=bucket_of(world.now), end=bucket_of(world.now) + BUCKET)
    for period, edges in (("month", month), ("bucket", bucket)):
        for edge in (edges.start, edges.end):
            for offset in (-microsecond, timedelta(0), microsecond):
                at = edge + offset
                report = usage_report(
                    foreign_id=f"{period} {at.isoformat()}", occurred_at=at, meter="requests"
                )
                with world.database.transaction(Role.INGEST) as connection:
                    ingest_usage(connection, [report], tenant=acme, now=MONTH_END + BUCKET * 50)
    before = acme.billing_period(month.start - microsecond)
    after = acme.billing_period(month.end)
    in_months = [
        quantities(world, acme, period).get(("requests", "tiny"))
        for period in (before, month, after)
    ]
    # Of six events around the two edges of the month one is before and two are after; of the six
    # around the bucket all are inside.
    assert in_months == [1, 3 + 6, 2]
    buckets = [
        quantities(world, acme, Period(start=start, end=start + BUCKET)).get(("requests", "tiny"))
        for start in (bucket.start - BUCKET, bucket.start, bucket.end)
    ]
    assert buckets == [1, 3, 2]
    require_rollups_true(world)


reports = st.lists(
    st.builds(
        lambda meter, model, quantity, quarter, kind: (meter, model, quantity, quarter, kind),
        meter=st.sampled_from(["tokens.input", "tokens.output", "requests"]),
        model=st.sampled_from([None, "tiny", "large"]),
        quantity=st.one_of(st.just(Decimal(0)), decimals(limit=10**9, places=6)),
        quarter=st.integers(0, 4),
        kind=st.sampled_from(EventKind),
    ),
    min_size=1,
    max_size=25,
)


def made(
    drawn: Sequence[tuple[str, str | None, Decimal, int, EventKind]], now: datetime
) -> list[UsageReport]:
    return [
        usage_report(
            foreign_id=f"r-{number}",
            meter=meter,
            model=model,
            quantity=quantity,
            occurred_at=now - quarter * BUCKET / 2,
            kind=kind,
        )
        for number, (meter, model, quantity, quarter, kind) in enumerate(drawn)
    ]


def expected(sent: Sequence[UsageReport]) -> dict[tuple[str, str | None], Decimal]:
    """The oracle: every distinct report once."""
    totals: dict[tuple[str, str | None], Decimal] = {}
    for report in {report.foreign_id: report for report in sent}.values():
        key = (report.meter, report.model)
        totals[key] = totals.get(key, Decimal(0)) + report.quantity
    return {key: total for key, total in totals.items() if total}


@given(drawn=reports, seed=st.integers(0, 2**32), copies=st.integers(1, 3))
@properties
def test_L4_order_repetition_and_batches_do_not_change_totals(
    world: World,
    drawn: list[tuple[str, str | None, Decimal, int, EventKind]],
    seed: int,
    copies: int,
) -> None:
    tenant = world.tenant(next(_slugs))
    dice = random.Random(seed)
    sent = made(drawn, world.now) * copies
    dice.shuffle(sent)
    verdicts: list[Verdict] = []
    while sent:
        size = dice.randint(1, len(sent))
        batch, sent = sent[:size], sent[size:]
        verdicts += world.report(tenant, *batch)
    unique = made(drawn, world.now)
    assert quantities(world, tenant, whole(world.now)) == expected(unique)
    kinds = [verdict.kind for verdict in verdicts]
    assert kinds.count(VerdictKind.ACCEPTED) == events(world, tenant) == len(unique)
    assert kinds.count(VerdictKind.DUPLICATE) == len(unique) * (copies - 1)
    require_rollups_true(world)


@given(drawn=reports, seed=st.integers(0, 2**32))
@properties
def test_L4_threads_that_send_the_same_reports_count_them_once(
    world: World, drawn: list[tuple[str, str | None, Decimal, int, EventKind]], seed: int
) -> None:
    tenant = world.tenant(next(_slugs))
    dice = random.Random(seed)
    unique = made(drawn, world.now)
    start = threading.Barrier(3)

    def send(orders: list[list[UsageReport]]) -> list[Verdict]:
        start.wait()
        return [
            verdict
            for batch in orders
            for verdict in world.database.retrying(
                Role.INGEST,
                lambda connection, batch=batch: ingest_usage(
                    connection, batch, tenant=tenant, now=world.now
                ),
            )
        ]

    def orders() -> list[list[UsageReport]]:
        shuffled = dice.sample(unique, len(unique))
        cut = dice.randint(0, len(shuffled))
        return [batch for batch in (shuffled[:cut], shuffled[cut:]) if batch]

    with ThreadPoolExecutor(3) as threads:
        verdicts = [v for sent in threads.map(send, [orders() for _ in range(3)]) for v in sent]
    assert quantities(world, tenant, whole(world.now)) == expected(unique)
    kinds = [verdict.kind for verdict in verdicts]
    assert kinds.count(VerdictKind.ACCEPTED) == events(world, tenant) == len(unique)
    assert kinds.count(VerdictKind.DUPLICATE) == 2 * len(unique)
    assert len({verdict.event_id for verdict in verdicts}) == len(unique)
    require_rollups_true(world)


def test_L8_epochs_become_visible_in_order(world: World) -> None:
    tenants = [world.tenant(f"writer-{number}") for number in range(4)]
    rounds = 60 if FULL else 12
    done = threading.Event()
    heads: list[int] = []
    gaps: list[tuple[int, list[int]]] = []

    def write(tenant: Tenant) -> None:
        for number in range(rounds):
            world.use(tenant, {"tokens.input": number + 1, "tokens.output": 1})

    def watch() -> None:
        while not done.is_set():
            with world.database.transaction(Role.OPERATOR) as connection:
                row = connection.execute(
                    sa.text(
                        "SELECT (SELECT epoch FROM ledger_epoch), array_agg(DISTINCT epoch) "
                        "FROM usage_event"
                    )
                ).one()
            heads.append(row[0])
            # Every epoch has events, so what can be seen at a head is every number up to it.
            if sorted(row[1] or []) != list(range(1, row[0] + 1)):
                gaps.append((row[0], row[1]))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with ThreadPoolExecutor(len(tenants)) as threads:
            list(threads.map(write, tenants))
    finally:
        done.set()
        watcher.join()
    assert gaps == []
    assert heads == sorted(heads)
    require_rollups_true(world)
    with world.database.transaction(Role.OPERATOR) as connection:
        head = connection.execute(sa.text("SELECT epoch FROM ledger_epoch")).scalar_one()
    assert head == rounds * len(tenants)


def minted(
    world: World, tenant: Tenant, meter_set: int, *, quantity: int, ordinal: int
) -> EventRow:
    return EventRow(
        id=UUID(int=uuid7(milliseconds(world.now), 1).int + ordinal),
        occurred_at=world.now,
        tenant_id=tenant.id,
        project_id=1,
        key_id=0,
        model_id=0,
        backend_id=0,
        price_version_id=0,
        meter_set_id=meter_set,
        kind=0,
        cause=1,
        estimated=False,
        quantities=(quantity,),
    )


def test_L3_a_minted_id_counts_once_within_and_across_batches(world: World) -> None:
    acme = world.tenant()
    with world.database.transaction(Role.INGEST) as connection:
        meter_set = ensure_meter_set(connection, [1])
    # Two bodies under one id cannot come from one proxy; whichever is kept, the rollup says the
    # same as the event.
    batches = [[(5, 0), (9, 0), (2, 1)], [(5, 0), (1, 2)], [(9, 0), (2, 1), (1, 2)]]
    accepted: list[int] = []
    for batch in batches:
        rows = [minted(world, acme, meter_set, quantity=q, ordinal=n) for q, n in batch]
        with world.database.transaction(Role.INGEST) as connection:
            accepted.append(len(append(connection, rows).accepted))
    assert accepted == [2, 1, 0]
    require_rollups_true(world)
    assert quantities(world, acme, whole(world.now)) == {("tokens.input", None): 5 + 2 + 1}
