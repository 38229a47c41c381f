"""A sealed deployment, and an owner of its tables who changes it with every guard switched off."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa

from billing.archive.places import ArchivePlace, Bucket, archive_place
from billing.journal.records import Record
from billing.metering.cloud_event import CloudEvent
from billing.metering.correction import Correction
from billing.metering.usage_event import VerdictKind
from billing.operations.invoicing.issue_invoice import issue_invoice
from billing.operations.ledger.accounting_periods import close_period
from billing.operations.ledger.verify_ledger import verify_ledger
from billing.operations.metering.correct_usage import correct_usage
from billing.operations.metering.define_meter import define_meter
from billing.operations.metering.encode_page import append_records
from billing.operations.metering.ingest_usage import report_usage
from billing.operations.retention.archive_month import archive_month, drop_month
from billing.operations.seal.fold import seal_all
from billing.operations.seal.verify import Finding
from billing.period import Period
from billing.signing.ed25519 import SealKey, load_or_make
from billing.store.database import Database, Role, become
from billing.store.tenancy import legal_entities
from billing.store.usage.append import ensure_partitions
from billing.tenancy.tenant import Tenant
from tests.operations.crash_points import attribution_of, usage_record, void_record
from tests.world import MONTH_END, MONTH_START, World, make_world, usage_report

NOVEMBER = date(2026, 11, 1)
SPLIT_METER = f"""
code: context
unit: tokens
event_type: context
aggregation: sum
value: data.tokens
effective_from: "{MONTH_START:%Y-%m-%dT%H:%M:%SZ}"
dimensions:
  - {{name: length, path: data.length, edges: [8000, 32000]}}
  - {{name: region, path: data.where.region}}
"""
SEAT_METER = f"""
code: seats
unit: seats
event_type: seats
aggregation: time_weighted_sum
value: data.seats
effective_from: "{MONTH_START:%Y-%m-%dT%H:%M:%SZ}"
"""
AFTER = MONTH_END + timedelta(days=80)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """Two tenants with usage of a month that left and of one that stayed, invoiced and closed.

    A third one has usage that is split by dimensions, and seats, and is not invoiced.

    Attributes:
        owner: an engine of a superuser.
    """

    world: World
    acme: Tenant
    birch: Tenant
    owner: sa.Engine
    folder: Path
    place: ArchivePlace
    key: SealKey

    @property
    def database(self) -> Database:
        return self.world.database

    def findings(self, *changes: str) -> list[Finding]:
        """What is found after changes by the owner, which are rolled back."""
        with self.changed(*changes) as connection:
            return verify_ledger(connection, self.place)

    @contextmanager
    def changed(self, *changes: str) -> Generator[sa.Connection]:
        """The ledger, as the operator sees it, after changes by the owner."""
        with self.owner.connect() as connection, connection.begin() as undone:
            connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
            for change in changes:
                connection.exec_driver_sql(change)
            become(connection, Role.OPERATOR)
            yield connection
            undone.rollback()

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        with self.owner.connect() as connection:
            return [tuple(row) for row in connection.exec_driver_sql(statement)]


def make_sealed(database: Database, owner: sa.Engine, folder: Path) -> Sealed:
    """Usage of every origin, books of every form, sealed in several folds."""
    world = make_world(database, MONTH_START + timedelta(days=14))
    acme, birch, cedar = (world.tenant(slug) for slug in ("acme", "birch", "cedar"))
    with database.transaction(Role.OPERATOR) as connection:
        define_meter(connection, SPLIT_METER, now=world.now)
        define_meter(connection, SEAT_METER, now=world.now)
    key = load_or_make(folder.joinpath("seal.key"))
    place = archive_place(str(folder.joinpath("archive")), Bucket())
    _use(world, (acme, birch), run="november")
    use_split(world, cedar)
    _seats(world, cedar)
    seal_all(database, key, now=world.now)
    for tenant in (acme, birch):
        with database.transaction(Role.OPERATOR) as connection:
            period = Period(start=MONTH_START, end=MONTH_END)
            issue_invoice(connection, tenant=tenant, period=period, now=MONTH_END)
    seal_all(database, key, now=MONTH_END)
    later = World(database=database, now=MONTH_END + timedelta(days=9))
    with database.transaction(Role.MAINTAINER) as connection:
        ensure_partitions(connection, now=world.now, months=6)
    _use(later, (acme, birch), run="december")
    use_split(later, cedar)
    _correct(later, acme)
    seal_all(database, key, now=later.now)
    with database.transaction(Role.OPERATOR) as connection:
        (entity,) = legal_entities(connection)
        period = Period(start=MONTH_START, end=MONTH_END)
        close_period(connection, entity=entity, period=period, closed_by="ada", now=AFTER)
    archive_month(database, place, NOVEMBER, now=AFTER)
    drop_month(database, place, NOVEMBER, now=AFTER, keep_months=2)
    seal_all(database, key, now=AFTER)
    return Sealed(
        world=later,
        acme=acme,
        birch=birch,
        owner=owner,
        folder=folder.joinpath("archive"),
        place=place,
        key=key,
    )


def _use(world: World, tenants: tuple[Tenant, ...], *, run: str) -> None:
    """Reported usage, requests of an agent run, and one that was given up."""
    for number, tenant in enumerate(tenants):
        world.use(tenant, {"tokens.input": 1_000_000 + number, "requests": 2})
        whose = msgspec.structs.replace(attribution_of(world, tenant), run_id=f"{run}-{number}")
        records: list[Record] = [
            usage_record(world, whose, number << 8 | n, output=n + 1) for n in range(4)
        ]
        records.append(void_record(world, whose, number << 8 | 4))
        with world.database.transaction(Role.INGEST) as connection:
            append_records(connection, records)


def use_split(world: World, tenant: Tenant) -> None:
    """Usage that says where it ran and how long its context was, and some that does not."""
    said = ({"length": 9_000, "where": {"region": "eu"}}, {"where": {"region": "us"}}, {})
    events = [
        CloudEvent(
            source="desk",
            id=f"{world.now:%m}-{number}",
            type="context",
            time=world.now,
            data={"tokens": 100 + number, **each},
        )
        for number, each in enumerate(said)
    ]
    with world.database.transaction(Role.OPERATOR) as connection:
        verdicts = report_usage(connection, [(tenant.slug, each) for each in events], now=world.now)
    assert {each.kind for each in verdicts} == {VerdictKind.ACCEPTED}


def _seats(world: World, tenant: Tenant) -> None:
    """Seats that were read twice, the last one replaced; and of a model, taken back."""
    read = [
        usage_report(
            foreign_id=f"seats-{number}",
            meter="seats",
            quantity=10 + number,
            model=model,
            occurred_at=world.now - timedelta(hours=3 - number),
        )
        for number, model in enumerate((None, None, "tiny"))
    ]
    verdicts = world.report(tenant, *read)
    for verdict, instead in ((verdicts[1], {"seats": Decimal(14)}), (verdicts[2], None)):
        assert verdict.event_id is not None
        wanted = Correction(
            corrects=verdict.event_id,
            source="desk",
            foreign_id=f"c-{verdict.event_id}",
            reason="miscounted",
            quantities=instead,
        )
        with world.database.transaction(Role.OPERATOR) as connection:
            correct_usage(connection, wanted, tenant_id=tenant.id, actor="ada", now=world.now)


def _correct(world: World, tenant: Tenant) -> None:
    """An event that was taken back, and one that was replaced."""
    for which, instead in (("void", None), ("amend", {"requests": Decimal(7)})):
        report = usage_report(
            foreign_id=which, meter="requests", quantity=3, model=None, occurred_at=world.now
        )
        (verdict,) = world.report(tenant, report)
        assert verdict.event_id is not None
        wanted = Correction(
            corrects=verdict.event_id,
            source="desk",
            foreign_id=f"c-{which}",
            reason="twice",
            quantities=instead,
        )
        with world.database.transaction(Role.OPERATOR) as connection:
            correct_usage(connection, wanted, tenant_id=tenant.id, actor="ada", now=world.now)
