"""A world in which every table has rows, and those with a tenant have rows of two tenants."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from billing.admission.binding import Binding, ObjectKind
from billing.catalog.contract_terms import ChargeOverride, ContractTerms, TermLayer
from billing.journal.records import Attempted, Attribution, Counts, Record, Usage, Void
from billing.metering.cloud_event import CloudEvent
from billing.metering.correction import Correction
from billing.metering.event_id import microseconds, milliseconds, uuid7
from billing.operations.catalog.approve_plan import approve_plan
from billing.operations.invoicing.issue_invoice import issue_invoice
from billing.operations.metering.correct_usage import correct_usage
from billing.operations.metering.define_meter import define_meter
from billing.operations.metering.import_usage import import_batch
from billing.operations.metering.ingest_usage import report_usage
from billing.operations.metering.parking import reject_parked
from billing.operations.metering.read_usage import parked_usage
from billing.operations.metering.ship_journal import append_records
from billing.operations.outcomes.claims import confirm_outcome, report_outcome
from billing.operations.rating.accrue_usage import accrue_usage
from billing.operations.rating.alerts import MadeBy, define_threshold, fire_alerts
from billing.operations.rating.rate_period import rate_period
from billing.operations.seal.fold import seal_all
from billing.operations.stored_objects.batches import record_batch
from billing.operations.tenancy.keys import authenticate, issue_key
from billing.outcomes.claim import Actor
from billing.period import Period
from billing.rating.spend import Threshold
from billing.signing.ed25519 import SealKey
from billing.store import costs, payments
from billing.store.archive_details import DetailKind, DetailRow, insert_details
from billing.store.batch_runs import BatchRun
from billing.store.catalog import ensure_models
from billing.store.database import Database, Role
from billing.store.refused import RefusedRow, ResolutionRow, refuse, resolve
from billing.store.retention import ArchiveRow, insert_archive
from billing.store.seal.folds import WitnessRow, insert_witness
from billing.store.usage.parked import CursorRow, move_cursor, unshipped
from billing.tenancy.api_key import Role as KeyRole
from billing.tenancy.tenant import Tenant
from tests.credits.grants import fill_credits
from tests.operations.lease_world import lease_credit
from tests.world import MONTH_END, MONTH_START, World, make_world, usage_report

METER = """
code: pages
unit: pages
event_type: scan
value: data.pages
aggregation: sum
informational: true
dimensions:
  - {name: size, path: data.pages, edges: [10]}
"""
TERMS = ContractTerms(always=TermLayer(overrides=(ChargeOverride(charge="input"),)))
"""Terms that change no price."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FullWorld:
    """Two tenants that did everything once."""

    world: World
    acme: Tenant
    birch: Tenant


def make_full_world(database: Database) -> FullWorld:
    """Fill every table through the operations that write it."""
    world = make_world(database, MONTH_START + timedelta(days=14))
    with database.transaction(Role.OPERATOR) as connection:
        define_meter(connection, METER, now=world.now)
    with database.transaction(Role.OPERATOR) as connection:
        issued = issue_key(
            connection, role=KeyRole.OPERATOR, tenant=None, name="second", now=world.now
        )
        caller = authenticate(connection, issued.text, now=world.now)
        approve_plan(connection, slug="standard", version=1, caller=caller, now=world.now)
    tenants = [world.tenant(slug, terms=TERMS) for slug in ("acme", "birch")]
    for number, tenant in enumerate(tenants):
        _fill(world, tenant, number)
    with database.transaction(Role.OPERATOR) as connection:
        costs.insert_statement(
            connection,
            period=Period(start=MONTH_START, end=MONTH_END),
            currency="USD",
            booked=Decimal(100),
            source="pools: []",
            digest=bytes(32),
            now=world.now,
        )
        payments.receive_event(
            connection,
            event_id="evt_1",
            event_type="invoice.paid",
            object_id="in_1",
            payload=b"{}",
            created_at=world.now,
            now=world.now,
        )
    with database.transaction(Role.INGEST) as connection:
        place = CursorRow(instance="proxy-1", segment=1, next_offset=64, finished=False)
        move_cursor(connection, place, since=unshipped(place.instance), now=world.now)
        refuse(connection, _refused(world))
    with database.transaction(Role.OPERATOR) as connection:
        archive = insert_archive(connection, _archive(world))
        insert_details(connection, [_detail()], archive_id=archive.id, month=archive.month)
    _seal(world, tenants[0])
    return FullWorld(world=world, acme=tenants[0], birch=tenants[1])


def _fill(world: World, tenant: Tenant, number: int) -> None:
    now, database = world.now, world.database
    world.use(tenant, {"tokens.input": 1_000_000, "tokens.output": 10 + number})
    world.report(tenant, usage_report(meter="nobody-defined-this", occurred_at=now))
    _correct_and_reject(world, tenant)
    scan = CloudEvent(source="scanner", id="s-1", type="scan", time=now, data={"pages": 12})
    with database.transaction(Role.OPERATOR) as connection:
        report_usage(connection, [(tenant.slug, scan)], now=now)
    with database.transaction(Role.OPERATOR) as connection:
        issue_key(connection, role=KeyRole.TENANT, tenant=tenant.slug, name="first", now=now)
    with database.transaction(Role.TENANT, tenant_id=tenant.id) as connection:
        claim = report_outcome(
            connection,
            tenant=tenant,
            outcome="ticket-resolved",
            subject=f"ticket of {tenant.slug}",
            occurred_at=now,
            actor=Actor.TENANT,
            key_id=1,
            now=now,
        )
        confirm_outcome(
            connection, tenant=tenant, claim_id=claim.id, actor=Actor.TENANT, key_id=1, now=now
        )
    with database.transaction(Role.INGEST) as connection:
        append_records(connection, _proxied(connection, tenant, world, number))
    with database.transaction(Role.OPERATOR) as connection:
        invoice = issue_invoice(
            connection,
            tenant=tenant,
            period=Period(start=MONTH_START, end=MONTH_END),
            enqueue_mirror=lambda *_: None,
            now=MONTH_END,
        )
        assert invoice.number == f"INV-{number + 1:06d}"
        _watch_spend(connection, tenant, now=now)
        fill_credits(connection, tenant, now=now)
        lease_credit(connection, tenant, now=now)
        record_batch(connection, *_batch(tenant, number, now))
        connection.execute(
            sa.text("INSERT INTO stripe_customer (tenant_id, stripe_id) VALUES (:tenant, :stripe)"),
            {"tenant": tenant.id, "stripe": f"cus_{number}"},
        )


def _watch_spend(connection: sa.Connection, tenant: Tenant, *, now: datetime) -> None:
    terms = Threshold(amount=Decimal("0.01"))
    define_threshold(
        connection, tenant=tenant, name="cent", terms=terms, made_by=MadeBy.OPERATOR, now=now
    )
    rated = rate_period(connection, tenant=tenant, period=tenant.billing_period(now), until=now)
    assert len(fire_alerts(connection, [rated], now=now)) == 1


def _seal(world: World, tenant: Tenant) -> None:
    """Seal all of it, have a witness answer, and leave one transaction for the next fold."""
    (*_, folded) = seal_all(
        world.database, SealKey(private=Ed25519PrivateKey.generate()), now=world.now
    )
    assert folded.head is not None
    with world.database.transaction(Role.OPERATOR) as connection:
        insert_witness(
            connection,
            WitnessRow(
                fold_size=folded.head.size,
                url="https://witness.test/heads",
                status=201,
                answer="seen",
                answered_at=world.now,
            ),
        )
    with world.database.transaction(Role.INGEST) as connection:
        resolve(
            connection,
            ResolutionRow(
                event_id=uuid7(16, 1),
                kind="void",
                outcome="dismissed",
                reason="a test of the proxy",
                resolved_by="ada",
                resolved_at=world.now,
            ),
        )
    world.use(tenant, {"tokens.input": 1_000_000})
    with world.database.transaction(Role.OPERATOR) as connection:
        period = tenant.billing_period(world.now)
        accrue_usage(connection, tenant=tenant, period=period, now=world.now)


def _refused(world: World) -> RefusedRow:
    return RefusedRow(
        event_id=uuid7(16, 1),
        kind="void",
        instance="proxy-1",
        segment=1,
        page_offset=0,
        reason="CheckViolation",
        payload=b"",
        refused_at=world.now,
    )


def _batch(tenant: Tenant, number: int, now: datetime) -> tuple[BatchRun, list[Binding]]:
    batch = BatchRun(
        batch_id=f"batch_{number}",
        backend="pool-a",
        tenant_id=tenant.id,
        project_id=tenant.id,
        key_id=1,
        model_id=None,
        price_version_id=number + 1,
        endpoint="/v1/chat/completions",
        input_file_id=f"file-{number}",
        submitted_at=now,
    )
    binding = Binding(
        kind=ObjectKind.BATCH,
        backend=batch.backend,
        object_id=batch.batch_id,
        tenant_id=batch.tenant_id,
        project_id=batch.project_id,
        key_id=batch.key_id,
        model_id=None,
        created_at_us=microseconds(now),
    )
    return batch, [binding]


def _archive(world: World) -> ArchiveRow:
    return ArchiveRow(
        id=0,
        month=MONTH_START.date(),
        ordinal=1,
        url="usage-2026-11.1.parquet",
        bytes=1,
        sha256=bytes(32),
        events=1,
        first_epoch=1,
        last_epoch=1,
        archived_at=world.now,
    )


def _detail() -> DetailRow:
    return DetailRow(
        kind=DetailKind.STEPS, url="steps-2026-11.1.parquet", bytes=1, sha256=bytes(32), rows=1
    )


def _correct_and_reject(world: World, tenant: Tenant) -> None:
    """A file of one event that is taken back, and a parked report that is refused."""
    report = usage_report(foreign_id="imported", occurred_at=world.now)
    with world.database.transaction(Role.INGEST) as connection:
        (verdict,) = import_batch(
            connection, [report], tenant=tenant, digest=bytes(32), rows_done=1, now=world.now
        )
    assert verdict.event_id is not None
    void = Correction(corrects=verdict.event_id, source="desk", foreign_id="v-1", reason="twice")
    with world.database.transaction(Role.OPERATOR) as connection:
        correct_usage(connection, void, tenant_id=tenant.id, actor="ada", now=world.now)
        (waiting,) = parked_usage(connection, tenant_id=tenant.id)
        reject_parked(connection, parked_id=waiting.id, reason="a typo", actor="ada", now=world.now)


def _proxied(connection: sa.Connection, tenant: Tenant, world: World, number: int) -> list[Record]:
    """A request that was served and one that was given up, as the proxy writes them down."""
    attribution = Attribution(
        tenant_id=tenant.id,
        project_id=tenant.id,
        key_id=1,
        model_id=ensure_models(connection, ["tiny"])["tiny"],
        price_version_id=number + 1,
        backend="pool-a",
        route="/v1/chat/completions",
        stream=True,
        served_model="tiny",
        run_id=f"run-{number}",
        step_id=f"step-{number}",
    )
    at_ms, at_us = milliseconds(world.now), microseconds(world.now)
    served, given_up = (uuid7(at_ms, number << 8 | which).bytes for which in range(2))
    return [
        Usage(
            id=served,
            at_us=at_us,
            attribution=attribution,
            counts=Counts(input=7, output=3),
            raw={"prompt_tokens": 7, "completion_tokens": 3},
            cause="completed",
            estimated=False,
            ttft_us=1_000,
            duration_us=2_000,
            attempts=(Attempted(0, attribution.model_id, "pool-b", at_us, 9, "refused_503"),),
        ),
        Void(given_up, at_us, attribution, "client_left"),
    ]
