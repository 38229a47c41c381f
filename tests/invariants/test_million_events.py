"""L3 and L4 in bulk: four writers, shuffled, 5 % duplicates, 1 % conflicts; every figure exact.

Three tenants use the same ids. An id is reported once, or twice with one body, or twice with two
bodies, so that the numbers of verdicts follow from the input in whatever order the writers come;
which of two bodies counted is what the verdicts say, and the totals must agree with them.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from uuid import UUID

import httpx
import pytest
import sqlalchemy as sa

from billing.metering.usage_event import UsageReport, Verdict, VerdictKind
from billing.operations.metering.ingest_usage import ingest_usage
from billing.operations.tenancy.keys import issue_key
from billing.settings import Settings
from billing.store.database import Database, Role, query
from billing.store.embedded.address import ServerAddress
from billing.store.usage.verify import rollup_differences
from billing.tenancy.api_key import Role as KeyRole
from billing.tenancy.tenant import Tenant
from tests.api.control.conftest import Clock, serving
from tests.faults.workloads import FULL
from tests.world import MONTH_START, make_world, usage_report

WRITERS = 4
TENANTS = 3
BATCH = 700
METERS = ("tokens.input", "tokens.output", "requests")
BUCKETS = 4 * 24 * 14

Sent = tuple[int, int]
"""(number of the event, which of its bodies)."""
Total = tuple[int, str, datetime]
"""Tenant, meter, start of the bucket."""
Send = Callable[[Tenant, Sequence[UsageReport]], list[Verdict]]
"""How a writer reports a batch, and hears of each."""

COUNTS = [
    *([] if FULL else [20_000]),
    pytest.param(1_000_000, marks=[pytest.mark.long, pytest.mark.timeout(3600)]),
]


@dataclass(slots=True)
class Heard:
    """What one writer was told.

    Attributes:
        accepted: by event, the body that counted and its id.
        others: verdicts that named an earlier event, with its id.
    """

    accepted: dict[int, tuple[int, UUID]] = field(default_factory=dict[int, tuple[int, UUID]])
    others: list[tuple[int, VerdictKind, UUID | None]] = field(
        default_factory=list[tuple[int, VerdictKind, UUID | None]]
    )


def body_of(sent: Sent) -> tuple[str, int, datetime]:
    """Meter, quantity and instant of an event; its second body has another quantity."""
    number, body = sent
    at = MONTH_START + timedelta(minutes=15 * (number * 7 % BUCKETS), microseconds=number % 900)
    return METERS[number % len(METERS)], 1 + number % 1_000 + 5_000 * body, at


def report_of(sent: Sent) -> UsageReport:
    meter, quantity, at = body_of(sent)
    return usage_report(
        # One id in three tenants is three events.
        foreign_id=f"event-{sent[0] // TENANTS}",
        meter=meter,
        quantity=quantity,
        model="tiny" if meter != "requests" else None,
        occurred_at=at,
    )


def write(send: Send, tenants: Sequence[Tenant], sent: Sequence[Sent]) -> Heard:
    """One writer: its events in batches, a transaction per tenant and batch."""
    heard = Heard()
    for start in range(0, len(sent), BATCH):
        for place, tenant in enumerate(tenants):
            part = [one for one in sent[start : start + BATCH] if one[0] % TENANTS == place]
            verdicts = send(tenant, [report_of(one) for one in part])
            for (number, body), verdict in zip(part, verdicts, strict=True):
                if verdict.kind is VerdictKind.ACCEPTED:
                    assert verdict.event_id is not None
                    assert number not in heard.accepted
                    heard.accepted[number] = (body, verdict.event_id)
                else:
                    heard.others.append((number, verdict.kind, verdict.event_id))
    return heard


def ingest(database: Database, tenant: Tenant, reports: Sequence[UsageReport]) -> list[Verdict]:
    """A batch straight into the ledger."""

    def work(connection: sa.Connection) -> list[Verdict]:
        now = MONTH_START + timedelta(days=14)
        return ingest_usage(connection, reports, tenant=tenant, now=now)

    return database.retrying(Role.INGEST, work)


def stored(database: Database) -> Counter[Total]:
    """What the rollups hold, by tenant, meter and bucket."""
    with database.transaction(Role.OPERATOR) as connection:
        rows = query(
            connection,
            "SELECT r.tenant_id, v.code, r.bucket, sum(r.quantity) AS quantity "
            "FROM usage_rollup r JOIN meter_version v ON v.id = r.meter_version_id "
            "GROUP BY 1, 2, 3",
        )
    return Counter({(row.tenant_id, row.code, row.bucket): int(row.quantity) for row in rows})


def post(client: httpx.Client, tenant: Tenant, reports: Sequence[UsageReport]) -> list[Verdict]:
    """A batch through the API, as JSON lines."""
    lines = [
        {
            "tenant": tenant.slug,
            "source": each.source,
            "id": each.foreign_id,
            "meter": each.meter,
            "quantity": str(each.quantity),
            "model": each.model,
            "occurred_at": each.occurred_at.isoformat(),
        }
        for each in reports
    ]
    answer = client.post(
        "usage/events",
        content="\n".join(map(json.dumps, lines)),
        headers={"content-type": "application/x-ndjson"},
    )
    return [
        Verdict(kind=VerdictKind(each["verdict"]), event_id=UUID(each["event_id"]))
        for each in answer.raise_for_status().json()["verdicts"]
    ]


def shuffled(events: int) -> tuple[list[Sent], int, int]:
    """What is sent, and how much of it are duplicates and conflicts."""
    duplicates, conflicts = events * 5 // 100, events // 100
    distinct = events - duplicates - conflicts
    sent: list[Sent] = [(number, 0) for number in range(distinct)]
    sent += [(number, 0) for number in range(duplicates)]
    sent += [(number, 1) for number in range(duplicates, duplicates + conflicts)]
    random.Random(20).shuffle(sent)
    return sent, duplicates, conflicts


def require_exact(
    database: Database, tenants: Sequence[Tenant], events: int, writers: Sequence[Send]
) -> None:
    """Send from every writer at once, and compare verdicts, rollups and events."""
    sent, duplicates, conflicts = shuffled(events)
    with ThreadPoolExecutor(WRITERS) as threads:
        running = [
            threads.submit(write, send, tenants, sent[place::WRITERS])
            for place, send in enumerate(writers)
        ]
        heard = [writer.result() for writer in running]
    accepted: dict[int, tuple[int, UUID]] = {}
    for one in heard:
        assert not accepted.keys() & one.accepted.keys()
        accepted |= one.accepted
    assert len(accepted) == events - duplicates - conflicts
    kinds = Counter(kind for one in heard for _, kind, _ in one.others)
    assert kinds == {VerdictKind.DUPLICATE: duplicates, VerdictKind.CONFLICTING: conflicts}
    for one in heard:
        for number, _, event in one.others:
            assert event == accepted[number][1]
    expected = Counter[Total]()
    for number, (body, _) in accepted.items():
        meter, quantity, at = body_of((number, body))
        start = at - timedelta(microseconds=at.microsecond)
        expected[tenants[number % TENANTS].id, meter, start] += quantity
    assert stored(database) == expected
    with database.transaction(Role.OPERATOR) as connection:
        ids = set(connection.execute(sa.text("SELECT id FROM usage_event")).scalars())
        assert rollup_differences(connection) == []
    assert ids == {event for _, event in accepted.values()}


@pytest.mark.parametrize("events", COUNTS)
def test_L4_four_writers_with_duplicates_and_conflicts_count_exactly(
    database: Database, postgres: ServerAddress, database_name: str, now: datetime, events: int
) -> None:
    world = make_world(database, now)
    tenants = [world.tenant(f"tenant-{number}") for number in range(TENANTS)]
    pools = [Database(postgres.app_url(database_name), pool_size=1) for _ in range(WRITERS)]
    require_exact(database, tenants, events, [partial(ingest, pool) for pool in pools])
    for pool in pools:
        pool.close()


@pytest.mark.parametrize("events", COUNTS)
def test_L4_four_writers_through_the_api_count_exactly(
    database: Database, now: datetime, events: int
) -> None:
    world = make_world(database, now)
    tenants = [world.tenant(f"tenant-{number}") for number in range(TENANTS)]
    with database.transaction(Role.OPERATOR) as connection:
        key = issue_key(connection, role=KeyRole.OPERATOR, tenant=None, name="op", now=now)
    headers = {"authorization": f"Bearer {key.text}"}
    with serving(database, Settings(), Clock(now)) as url, ExitStack() as closing:
        clients = [
            closing.enter_context(
                httpx.Client(base_url=f"{url}/api/v1/", headers=headers, timeout=120)
            )
            for _ in range(WRITERS)
        ]
        require_exact(database, tenants, events, [partial(post, client) for client in clients])


def test_L3_the_same_event_several_times_in_one_batch_counts_once(
    database: Database, now: datetime
) -> None:
    world = make_world(database, now)
    tenant = world.tenant()
    verdicts = world.report(tenant, *(report_of((0, 0)) for _ in range(3)), report_of((0, 1)))
    assert [each.kind for each in verdicts] == ["accepted", "duplicate", "duplicate", "conflicting"]
    assert {each.event_id for each in verdicts} == {verdicts[0].event_id}
    assert list(stored(database).values()) == [body_of((0, 0))[1]]


def test_L3_a_conflict_that_comes_first_counts_and_the_original_is_refused(
    database: Database, now: datetime
) -> None:
    """Nobody can know which of two bodies was meant: the first to come counts, also in a batch."""
    world = make_world(database, now)
    tenant = world.tenant()
    (first,) = world.report(tenant, report_of((0, 1)))
    verdicts = world.report(tenant, report_of((0, 0)), report_of((0, 1)))
    assert [each.kind for each in verdicts] == ["conflicting", "duplicate"]
    assert {each.event_id for each in verdicts} == {first.event_id}
    other = world.report(tenant, report_of((3, 1)), report_of((3, 0)), report_of((3, 1)))
    assert [each.kind for each in other] == ["accepted", "conflicting", "duplicate"]
    assert sum(stored(database).values()) == body_of((0, 1))[1] + body_of((3, 1))[1]
