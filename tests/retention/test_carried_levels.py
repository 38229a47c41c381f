"""Levels outlive their months: what seats are after their last reading has left the database."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from pathlib import Path
from random import Random
from uuid import UUID

import psycopg
import pytest

from billing.archive.places import ArchivePlace, Bucket, archive_place
from billing.errors import Conflict, NotFound
from billing.metering.correction import Correction
from billing.metering.usage_event import VerdictKind
from billing.operations.invoicing.issue_invoice import issue_invoice
from billing.operations.invoicing.read_invoices import InvoiceView, require_invoice
from billing.operations.invoicing.verify_invoice import verify_invoice
from billing.operations.ledger.verify_ledger import verify_ledger
from billing.operations.metering.correct_usage import correct_usage
from billing.operations.metering.define_meter import define_meter
from billing.operations.rating.rate_period import RatedPeriod, rate_period
from billing.operations.retention.archive_month import archive_month, drop_month
from billing.store import retention
from billing.store.database import Database, Role, become, query, run
from billing.store.embedded.address import ServerAddress
from billing.store.usage.append import ensure_partitions
from billing.tenancy.tenant import Tenant
from tests.faults.workloads import FULL
from tests.invariants.tampering import SEAT_METER
from tests.retention.conftest import seal
from tests.world import MONTH_START, World, make_world, usage_report

NOVEMBER, DECEMBER, JANUARY, FEBRUARY, MARCH = (
    datetime(2026, 11, 1, tzinfo=UTC),
    datetime(2026, 12, 1, tzinfo=UTC),
    datetime(2027, 1, 1, tzinfo=UTC),
    datetime(2027, 2, 1, tzinfo=UTC),
    datetime(2027, 3, 1, tzinfo=UTC),
)
LATER = datetime(2027, 5, 10, tzinfo=UTC)
BY_DAYS = """
slug: days
name: Seats by days
currency: USD
charges:
  - {type: graduated, key: seats, description: Seats, meter: seats, prorated: true,
     tiers: [{up_to: 10, unit: "30"}, {unit: "15", flat: "5"}]}
"""
BY_HOURS = """
slug: hours
name: Seats by hours
currency: USD
charges:
  - {type: per_unit, key: seat-hours, description: Seat hours, meter: seats, price: "0.01"}
"""
SECOND_PROJECT = (
    "INSERT INTO project (tenant_id, slug, created_at) VALUES (:tenant, 'second', :now)"
)
WAITING = (
    "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
)
TENANTS = 150 if FULL else 8

_serials = count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seats:
    """A deployment whose tenants have seats, from November to March."""

    database: Database
    folder: Path
    place: ArchivePlace

    def read(
        self,
        tenant: Tenant,
        seats: int,
        at: datetime,
        *,
        reported: datetime | None = None,
        model: str | None = None,
        project: str | None = None,
    ) -> UUID:
        """Read how many seats there are; the id of the event."""
        world = World(database=self.database, now=reported or at)
        report = usage_report(
            foreign_id=f"s-{next(_serials)}",
            meter="seats",
            quantity=seats,
            model=model,
            project=project,
            occurred_at=at,
        )
        (verdict,) = world.report(tenant, report)
        assert verdict.event_id is not None, verdict
        return verdict.event_id

    def correct(
        self, tenant: Tenant, event: UUID, now: datetime, *, instead: int | None = None
    ) -> None:
        """Take a reading back, or replace it."""
        wanted = Correction(
            corrects=event,
            source="desk",
            foreign_id=f"c-{next(_serials)}",
            reason="miscounted",
            quantities=None if instead is None else {"seats": Decimal(instead)},
        )
        with self.database.transaction(Role.OPERATOR) as connection:
            correct_usage(connection, wanted, tenant_id=tenant.id, actor="ada", now=now)

    def archive(self, *starts: datetime) -> None:
        """Seal everything, and archive months."""
        seal(self.database, self.folder)
        for start in starts:
            archive_month(self.database, self.place, start.date(), now=LATER)

    def drop(self, *starts: datetime) -> None:
        """Let months leave."""
        self.archive(*starts)
        for start in starts:
            drop_month(self.database, self.place, start.date(), now=LATER)

    def rated(self, tenant: Tenant, start: datetime) -> RatedPeriod:
        """A billing period rated; from its events alone it is the same, bit for bit."""
        period = tenant.billing_period(start)
        with self.database.transaction(Role.OPERATOR) as connection:
            found = rate_period(connection, tenant=tenant, period=period)
            mark = found.watermark
            again = rate_period(connection, tenant=tenant, period=period, from_events=mark)
        assert [each.rating for each in found.contracts] == [
            each.rating for each in again.contracts
        ]
        return found

    def lines(self, tenant: Tenant, start: datetime) -> Mapping[str, Decimal]:
        """Exact amounts of a billing period by line."""
        rated = self.rated(tenant, start)
        return {line.key: line.exact for each in rated.contracts for line in each.rating.lines}

    def invoice(self, tenant: Tenant, start: datetime) -> InvoiceView:
        """Issue a billing period's invoice when it is over."""
        period = tenant.billing_period(start)
        with self.database.transaction(Role.OPERATOR) as connection:
            issued = issue_invoice(connection, tenant=tenant, period=period, now=period.end)
            return require_invoice(connection, str(issued.id), tenant_id=None)

    def findings(self) -> list[str]:
        """What the verification of the ledgers finds."""
        with self.database.transaction(Role.OPERATOR, snapshot=True) as connection:
            return [str(found) for found in verify_ledger(connection, self.place)]

    def carried(self) -> int:
        """How many readings were left behind."""
        with self.database.transaction(Role.OPERATOR) as connection:
            return query(connection, "SELECT count(*) AS n FROM usage_carried_level")[0].n


@pytest.fixture
def seats(database: Database, now: datetime, tmp_path: Path) -> Seats:
    world = make_world(database, now)
    with database.transaction(Role.OPERATOR) as connection:
        define_meter(connection, SEAT_METER, now=now)
    for plan in (BY_DAYS, BY_HOURS):
        world.plan(plan)
    with database.transaction(Role.INGEST) as connection:
        ensure_partitions(connection, now=NOVEMBER, months=8)
    place = archive_place(str(tmp_path.joinpath("archive")), Bucket())
    return Seats(database=database, folder=tmp_path, place=place)


def tenant_on(seats: Seats, plan: str, slug: str = "acme") -> Tenant:
    return World(database=seats.database, now=MONTH_START).tenant(slug, plan=plan)


def test_seats_are_billed_after_all_months_of_their_readings_have_left(seats: Seats) -> None:
    acme, bolt = tenant_on(seats, "days"), tenant_on(seats, "hours", "bolt")
    seats.read(acme, 4, NOVEMBER + timedelta(days=2))
    seats.read(acme, 13, NOVEMBER + timedelta(days=20))
    # Another subject, and one that came down to nothing.
    seats.read(acme, 2, NOVEMBER + timedelta(days=3), model="tiny")
    seats.read(bolt, 7, NOVEMBER + timedelta(days=3))
    seats.read(bolt, 0, DECEMBER + timedelta(days=3))

    seats.drop(NOVEMBER)
    assert seats.lines(acme, DECEMBER) == {"seats": 13 * 30 - 3 * 15 + 5 + 2 * 15}
    assert seats.lines(bolt, JANUARY) == {}
    seats.drop(DECEMBER, JANUARY)

    expected = 13 * 30 - 3 * 15 + 5 + 2 * 15
    assert seats.lines(acme, FEBRUARY) == {"seats": expected}
    assert seats.lines(bolt, FEBRUARY) == {}
    assert seats.findings() == []
    issued = seats.invoice(acme, FEBRUARY)
    assert issued.invoice.total_minor == expected * 100
    with seats.database.transaction(Role.OPERATOR, snapshot=True) as connection:
        check = verify_invoice(connection, str(issued.invoice.id))
    assert (check.from_events, check.findings) == (True, ())
    # Its tenant sees the same.
    with seats.database.transaction(Role.TENANT, tenant_id=acme.id) as connection:
        shown = rate_period(connection, tenant=acme, period=acme.billing_period(FEBRUARY))
    assert shown.contracts == seats.rated(acme, FEBRUARY).contracts


def test_R4_rating_is_the_same_before_and_after_months_have_left(seats: Seats) -> None:
    chance = Random(1600)
    tenants = [
        tenant_on(seats, ("days", "hours")[number % 2], f"t-{number}") for number in range(TENANTS)
    ]
    for tenant in tenants:
        with seats.database.transaction(Role.OPERATOR) as connection:
            run(connection, SECOND_PROJECT, tenant=tenant.id, now=NOVEMBER)
        _random_readings(seats, tenant, chance)
    periods = [(tenant, start) for tenant in tenants for start in (JANUARY, FEBRUARY, MARCH)]
    before = {
        (tenant.slug, start): seats.rated(tenant, start).contracts for tenant, start in periods
    }
    assert sum(bool(each.rating.lines) for found in before.values() for each in found) > TENANTS
    gone: list[datetime] = []
    for month in (NOVEMBER, DECEMBER, JANUARY, FEBRUARY):
        seats.drop(month)
        gone.append(month)
        for tenant, start in periods:
            if start not in gone:
                found = seats.rated(tenant, start).contracts
                assert found == before[tenant.slug, start], (tenant.slug, start, month)
    assert seats.carried() >= TENANTS
    assert seats.findings() == []


def _random_readings(seats: Seats, tenant: Tenant, chance: Random) -> None:
    """Readings on time and late, of several subjects, around the ends of months, some corrected."""
    made: list[tuple[datetime, UUID]] = []
    for _ in range(chance.randint(0, 8)):
        at = NOVEMBER + timedelta(minutes=chance.randrange(130 * 24 * 60))
        reported = at + timedelta(minutes=chance.choice((0, 0, 0, 60, 40 * 24 * 60)))
        if chance.random() < 0.3:
            # Reported before the end of a month as of a little after it.
            at = chance.choice((DECEMBER, JANUARY, FEBRUARY)) + timedelta(
                seconds=chance.randint(0, 100)
            )
            reported = at - timedelta(seconds=150)
        event = seats.read(
            tenant,
            chance.choice((0, 0, 3, 8, 11, 20)),
            at,
            reported=reported,
            model=chance.choice((None, None, "tiny")),
            project=chance.choice((None, None, "second")),
        )
        made.append((reported, event))
    for reported, event in made:
        if chance.random() < 0.3:
            instead = chance.choice((None, 0, 5))
            later = reported + timedelta(days=chance.choice((0, 1, 45)))
            seats.correct(tenant, event, later, instead=instead)


def test_L5_a_death_between_archiving_and_dropping_leaves_everything_as_it_was(
    seats: Seats,
) -> None:
    acme = tenant_on(seats, "days")
    seats.read(acme, 4, NOVEMBER + timedelta(days=2))
    seats.archive(NOVEMBER)
    assert (seats.carried(), seats.lines(acme, JANUARY)) == (0, {"seats": 120})
    with seats.database.engine.connect() as connection:
        become(connection, Role.MAINTAINER)
        retention.drop_month(connection, NOVEMBER.date(), now=LATER)
    assert (seats.carried(), seats.lines(acme, JANUARY)) == (0, {"seats": 120})
    seats.drop(NOVEMBER)
    assert (seats.carried(), seats.lines(acme, JANUARY)) == (1, {"seats": 120})


def test_a_level_that_has_left_changes_no_more(seats: Seats) -> None:
    acme = tenant_on(seats, "days")
    read = seats.read(acme, 4, NOVEMBER + timedelta(days=2))
    seats.drop(NOVEMBER)
    late = usage_report(
        foreign_id="late",
        meter="seats",
        model=None,
        quantity=9,
        occurred_at=NOVEMBER + timedelta(days=29),
    )
    (verdict,) = World(database=seats.database, now=JANUARY).report(acme, late)
    assert (verdict.kind, "closed for good" in (verdict.reason or "")) == (
        VerdictKind.REJECTED,
        True,
    )
    with pytest.raises(NotFound, match="no such usage event"):
        seats.correct(acme, read, JANUARY)
    assert seats.lines(acme, JANUARY) == {"seats": 120}


def test_L5_a_correction_under_way_is_not_lost_when_its_month_leaves(
    seats: Seats, postgres: ServerAddress, database_name: str
) -> None:
    acme = tenant_on(seats, "days")
    seats.read(acme, 4, NOVEMBER + timedelta(days=2))
    wrong = seats.read(acme, 9, NOVEMBER + timedelta(days=3))
    seats.archive(NOVEMBER)
    void = Correction(corrects=wrong, source="desk", foreign_id="c", reason="miscounted")
    month = NOVEMBER.date()
    with (
        ThreadPoolExecutor(1) as beside,
        psycopg.connect(postgres.owner_conninfo(database_name), autocommit=True) as owner,
    ):
        with seats.database.transaction(Role.OPERATOR) as connection:
            correct_usage(connection, void, tenant_id=acme.id, actor="ada", now=JANUARY)
            dropping = beside.submit(drop_month, seats.database, seats.place, month, now=LATER)
            while not dropping.done() and not owner.execute(WAITING).fetchall():
                pass
        with pytest.raises(Conflict, match="busy"):
            dropping.result()
    assert seats.carried() == 0
    seats.drop(NOVEMBER)
    assert seats.lines(acme, FEBRUARY) == {"seats": 120}
    assert seats.findings() == []


def test_a_late_reading_is_billed_in_every_period_after_it(seats: Seats) -> None:
    acme = tenant_on(seats, "days")
    seats.read(acme, 4, NOVEMBER)
    for start in (NOVEMBER, DECEMBER):
        assert seats.invoice(acme, start).invoice.total_minor == 4 * 3000
    # Nobody has been there since the middle of November, as is known in January only; no rollup
    # holds a reading of zero.
    seats.read(acme, 0, NOVEMBER + timedelta(days=15), reported=JANUARY + timedelta(days=2))
    seats.read(acme, 20, JANUARY)
    own = ("contract-1/seats", 10 * 3000 + 10 * 1500 + 500)
    assert [(line.key, line.amount_minor) for line in seats.invoice(acme, JANUARY).lines] == [
        own,
        ("contract-1/seats@2026-11-01", -6000),
        ("contract-1/seats@2026-12-01", -12000),
    ]
    seats.drop(NOVEMBER, DECEMBER)
    february = seats.invoice(acme, FEBRUARY)
    assert [(line.key, line.amount_minor) for line in february.lines] == [own]


def test_a_month_of_which_too_little_was_left_is_refused(seats: Seats) -> None:
    acme = tenant_on(seats, "days")
    seats.read(acme, 4, NOVEMBER + timedelta(days=2))
    # No rollup holds a reading of zero.
    seats.read(acme, 0, JANUARY + timedelta(days=2))
    seats.drop(NOVEMBER, DECEMBER, JANUARY)
    assert seats.lines(acme, DECEMBER) == {"seats": 120}
    for refused in (NOVEMBER, JANUARY):
        with pytest.raises(Conflict, match="left the database") as conflict:
            seats.rated(acme, refused)
        assert (conflict.value.field, bool(conflict.value.remedy)) == ("period", True)


def test_an_older_watermark_is_refused_where_a_reading_was_taken_back_since(seats: Seats) -> None:
    acme = tenant_on(seats, "days")
    seats.read(acme, 4, NOVEMBER + timedelta(days=2))
    wrong = seats.read(acme, 9, NOVEMBER + timedelta(days=3))
    issued = seats.invoice(acme, JANUARY)
    seats.correct(acme, wrong, FEBRUARY)
    seats.drop(NOVEMBER)
    assert seats.lines(acme, JANUARY) == {"seats": 120}
    with seats.database.transaction(Role.OPERATOR, snapshot=True) as connection:
        check = verify_invoice(connection, str(issued.invoice.id))
    assert (check.from_events, check.findings) == (False, ())


def test_L7_a_level_that_nobody_read_is_named(
    seats: Seats, postgres: ServerAddress, database_name: str
) -> None:
    acme = tenant_on(seats, "days")
    read = seats.read(acme, 4, NOVEMBER + timedelta(days=2))
    seats.drop(NOVEMBER)
    forged = "0190c0de-0000-7000-8000-000000000001"
    with psycopg.connect(postgres.owner_conninfo(database_name), autocommit=True) as owner:
        owner.execute(
            "INSERT INTO usage_carried_level SELECT tenant_id, archive_id, meter_version_id, "
            "model_id, kind, project_id, %s, occurred_at + interval '1 hour', epoch, 99, "
            "since, known_epoch FROM usage_carried_level",
            (forged,),
        )
    assert seats.lines(acme, JANUARY) == {"seats": 99 * 15 + 10 * 15 + 5}
    (found,) = seats.findings()
    assert "level" in found
    assert forged in found
    assert str(read) not in found
