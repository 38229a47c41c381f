"""A request that spans the end of a month is billed in the next one, also once its own has left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy.exc import IntegrityError

from billing.archive.places import ArchivePlace, Bucket, archive_place
from billing.errors import NotFound
from billing.metering.cloud_event import CloudEvent
from billing.metering.correction import Correction
from billing.operations.invoicing.issue_invoice import issue_invoice
from billing.operations.invoicing.verify_invoice import verify_invoice
from billing.operations.ledger.verify_ledger import verify_ledger
from billing.operations.metering.correct_usage import correct_usage
from billing.operations.metering.define_meter import define_meter
from billing.operations.metering.ingest_usage import report_usage
from billing.operations.rating.rate_period import rate_period
from billing.operations.retention.archive_month import archive_month, drop_month
from billing.store import retention
from billing.store.database import Database, Role, query, run
from billing.store.usage.append import ensure_partitions
from billing.tenancy.tenant import Tenant
from tests.retention.conftest import seal
from tests.world import make_world

NOVEMBER, DECEMBER, JANUARY = (
    datetime(2026, 11, 1, tzinfo=UTC),
    datetime(2026, 12, 1, tzinfo=UTC),
    datetime(2027, 1, 1, tzinfo=UTC),
)
LATER = datetime(2027, 5, 10, tzinfo=UTC)
METER = """
code: {code}
unit: units
event_type: t.{code}
aggregation: {aggregation}
value: data.v
effective_from: "2026-11-01T00:00:00Z"
{dimensions}
"""
METERS = {
    "peak": "max",
    "last": "latest",
    "users": "unique",
    "middle": "percentile\npercentile: 50",
    "paid": "sum",
    "seats": "time_weighted_sum",
}
PLAN = """
slug: single
name: By single events
currency: USD
charges:
  - {type: per_unit, key: peak, description: Peak, meter: peak, price: "1"}
  - {type: per_unit, key: last, description: Last, meter: last, price: "1"}
  - {type: per_unit, key: users, description: Users, meter: users, price: "1"}
  - {type: per_unit, key: middle, description: Middle, meter: middle, price: "1"}
  - {type: per_unit, key: seats, description: Seats, meter: seats, price: "1"}
  - {type: percentage, key: fee, description: Fee, meter: paid, percent: "10",
     transaction_minimum: "2", where: {region: [eu]}}
  - {type: per_unit, key: paid, description: Paid, meter: paid, price: "1",
     where: {region: {others: [eu]}}}
"""
BEHIND, WITHIN = DECEMBER + timedelta(seconds=5), DECEMBER + timedelta(days=3)

_serials = count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spanning:
    """A tenant whose December has usage of events that were taken in while it was November."""

    database: Database
    folder: Path
    place: ArchivePlace
    tenant: Tenant

    def send(self, at: datetime, received: datetime, values: Mapping[str, object]) -> list[UUID]:
        """Report one event per meter; their ids."""
        events = [
            CloudEvent(
                source="t",
                id=f"k-{next(_serials)}",
                type=f"t.{code}",
                time=at,
                data={"v": value, "region": "eu"},
            )
            for code, value in values.items()
        ]
        with self.database.transaction(Role.OPERATOR) as connection:
            verdicts = report_usage(
                connection, [(self.tenant.slug, each) for each in events], now=received
            )
        ids = [verdict.event_id for verdict in verdicts if verdict.event_id is not None]
        assert len(ids) == len(events), verdicts
        return ids

    def lines(self, start: datetime) -> dict[str, Decimal]:
        """Exact amounts of a billing period by line, the same from its events alone."""
        period = self.tenant.billing_period(start)
        with self.database.transaction(Role.OPERATOR) as connection:
            found = rate_period(connection, tenant=self.tenant, period=period)
            again = rate_period(
                connection, tenant=self.tenant, period=period, from_events=found.watermark
            )
        assert [each.rating for each in found.contracts] == [
            each.rating for each in again.contracts
        ]
        assert not found.unrated
        return {line.key: line.exact for each in found.contracts for line in each.rating.lines}

    def drop(self, start: datetime) -> None:
        """Let a month leave."""
        seal(self.database, self.folder)
        archive_month(self.database, self.place, start.date(), now=LATER)
        drop_month(self.database, self.place, start.date(), now=LATER)

    def findings(self) -> list[str]:
        """What the verification of the ledgers finds."""
        with self.database.transaction(Role.OPERATOR, snapshot=True) as connection:
            return [str(found) for found in verify_ledger(connection, self.place)]

    def kept(self) -> tuple[int, int]:
        """Events of months that left, and rows of what they carried."""
        with self.database.transaction(Role.OPERATOR) as connection:
            (row,) = query(
                connection,
                "SELECT (SELECT count(*) FROM usage_event WHERE id < first_event_id(:oldest)) AS e,"
                " (SELECT count(*) FROM usage_property WHERE event_id < first_event_id(:oldest))"
                " AS p",
                oldest=retention.horizon(connection),
            )
        return row.e, row.p


@pytest.fixture
def spanning(database: Database, now: datetime, tmp_path: Path) -> Spanning:
    world = make_world(database, now)
    declares = "dimensions: [{name: region, path: data.region}]"
    with database.transaction(Role.OPERATOR) as connection:
        for code, aggregation in METERS.items():
            dimensions = declares if code == "paid" else ""
            text = METER.format(code=code, aggregation=aggregation, dimensions=dimensions)
            define_meter(connection, text, now=now)
    world.plan(PLAN)
    tenant = world.tenant("acme", plan="single")
    with database.transaction(Role.INGEST) as connection:
        ensure_partitions(connection, now=NOVEMBER, months=8)
    place = archive_place(str(tmp_path.joinpath("archive")), Bucket())
    made = Spanning(database=database, folder=tmp_path, place=place, tenant=tenant)
    early = dict.fromkeys(("peak", "last", "middle", "paid", "seats"), 1000) | {"users": "a"}
    made.send(NOVEMBER + timedelta(days=9), NOVEMBER + timedelta(days=9), early)
    spans = dict.fromkeys(("peak", "last", "middle", "paid"), 7) | {"users": "b"}
    made.send(BEHIND, BEHIND - timedelta(seconds=90), spans | {"seats": 4})
    made.send(WITHIN, WITHIN, {"peak": 3, "middle": 9, "users": "c", "paid": 50})
    return made


def test_R4_december_costs_the_same_before_and_after_november_left(spanning: Spanning) -> None:
    before = spanning.lines(DECEMBER)
    assert before == {
        "peak": 7, "last": 7, "users": 2, "middle": 7, "fee": 7,
        "seats": before["seats"],
    }  # fmt: skip
    period = spanning.tenant.billing_period(DECEMBER)
    with spanning.database.transaction(Role.OPERATOR) as connection:
        issued = issue_invoice(connection, tenant=spanning.tenant, period=period, now=period.end)
    spanning.drop(NOVEMBER)
    assert spanning.kept() == (6, 1)
    assert spanning.lines(DECEMBER) == before
    assert spanning.findings() == []
    with spanning.database.transaction(Role.OPERATOR, snapshot=True) as connection:
        check = verify_invoice(connection, str(issued.id))
    assert (check.from_events, check.findings) == (True, ())

    spanning.drop(DECEMBER)
    assert spanning.kept() == (0, 0)
    assert spanning.findings() == []
    # A level that was read behind the end of November goes on.
    assert spanning.lines(JANUARY) == {"seats": 4 * 24 * 31}


def test_what_stays_of_a_month_that_left_is_closed(spanning: Spanning) -> None:
    (event,) = spanning.send(BEHIND, BEHIND - timedelta(seconds=60), {"paid": 70})
    spanning.drop(NOVEMBER)
    wanted = Correction(
        corrects=event, source="desk", foreign_id="c-1", reason="wrong", quantities=None
    )
    with (
        pytest.raises(NotFound, match="no such usage event"),
        spanning.database.transaction(Role.OPERATOR) as connection,
    ):
        correct_usage(connection, wanted, tenant_id=None, actor="ada", now=LATER)
    # As where no partition takes the id.
    with (
        pytest.raises(IntegrityError, match="has left the database"),
        spanning.database.transaction(Role.INGEST) as connection,
    ):
        run(
            connection,
            "INSERT INTO usage_property SELECT first_event_id('2026-11-05Z'), :tenant, 1, '{}'",
            tenant=spanning.tenant.id,
        )
