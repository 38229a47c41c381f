"""A database with a history: many events of many tenants, and rows that are over and stay."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from random import Random

import psycopg
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace

from billing.journal.records import Attempted, Attribution, Counts, Record, Usage, Void
from billing.metering.cloud_event import CloudEvent
from billing.metering.event_id import microseconds, milliseconds, uuid7
from billing.metering.usage_event import VerdictKind
from billing.operations.metering.define_meter import define_meter
from billing.operations.metering.encode_page import append_records
from billing.operations.metering.ingest_usage import report_usage
from billing.operations.rating.accrue_due import note_changes
from billing.operations.seal.fold import seal_all
from billing.signing.ed25519 import SealKey
from billing.store.catalog import ensure_models
from billing.store.database import Database, Role
from billing.tenancy.tenant import Tenant
from tests.operations.crash_points import attribution_of
from tests.store.full_world import METER
from tests.world import MONTH_START, World, make_world

TENANTS = 20
REPORTED = 200
DAYS = 13

# What is over, by SQL: no operation is meant to make so much of it in a second.
_OVER = """
SET session_replication_role = replica;
CREATE TEMPORARY TABLE old AS SELECT n, 1 + n % {tenants} AS tenant,
  timestamptz '2026-11-01' + n * interval '1 s' AS at FROM generate_series(1, {rows}) n;
INSERT INTO proxy_process SELECT 'old-' || n, 1, at, at, at, true, true FROM old;
INSERT INTO lease (limit_id, tenant_id, instance, window_start, granted, drawn, closed)
  SELECT tenant, tenant, 'old-' || n, at, 5, 5, true FROM old;
INSERT INTO limit_draw SELECT tenant, tenant, at, 1 FROM old;
INSERT INTO hold_event SELECT gen_random_uuid(), 3, tenant, tenant, 'posted', 1, NULL, at FROM old;
INSERT INTO backend_object SELECT (ARRAY['response', 'file', 'batch'])[1 + n % 3], 'pool',
  'id-' || n, tenant, 1, 1, NULL, at FROM old;
INSERT INTO api_key (tenant_id, project_id, role, public, digest, name, created_at, revoked_at)
  SELECT tenant, tenant, 'tenant', 'k' || n, sha256(n::text::bytea), 'old', at, at FROM old;
INSERT INTO outcome_claim
  SELECT gen_random_uuid(), tenant, 1, 'ticket-resolved', 'ticket ' || n, at FROM old;
INSERT INTO outcome_transition (claim_id, ordinal, tenant_id, to_state, actor, key_id, at)
  SELECT id, 1, tenant_id, 'reported', 'tenant', 1, occurred_at FROM outcome_claim;
INSERT INTO credit_grant (id, tenant_id, legal_entity_id, currency, amount, kind, cost_basis,
    counts_toward_commitment, priority, starts_at, recurs, source, idempotency_key, granted_at)
  SELECT gen_random_uuid(), tenant, 1, 'USD', 5, 'promotional', 0, false, 1, at, false, 'old',
    'old ' || n, at FROM old;
INSERT INTO credit_balance (grant_id, tenant_id, granted, used, remaining)
  SELECT id, tenant_id, 5, 5, 0 FROM credit_grant;
INSERT INTO credit_event (id, grant_id, tenant_id, kind, amount, idempotency_key, recorded_at)
  SELECT gen_random_uuid(), id, tenant_id, 'granted', 5, 'old', granted_at FROM credit_grant;
INSERT INTO credit_reservation (grant_id, period_start, tenant_id, amount)
  SELECT id, granted_at, tenant_id, 1 FROM credit_grant;
INSERT INTO invoice (id, tenant_id, legal_entity_id, currency, period_start, period_end, kind,
    ordinal, state, number, watermark, inputs, subtotal_minor, tax_minor, total_minor,
    amount_due_minor, residual_before, residual_after, drafted_at, issued_at, due_at)
  SELECT gen_random_uuid(), tenant, 1, 'USD', at - interval '9 years', at, 'period', n, 'issued',
    'OLD-' || n, 1, '{{}}', 1, 0, 1, 1, 0, 0, at, at, at FROM old;
INSERT INTO invoice_line (invoice_id, ordinal, tenant_id, kind, key, description, quantity, exact,
    amount_minor, explanation, by_model)
  SELECT id, 1, tenant_id, 'charge', 'input', 'Input', 1, 1, 1, '[]', '[]' FROM invoice;
INSERT INTO invoice_scope (invoice_id, period_start, period_end, tenant_id, watermark)
  SELECT id, period_start, period_end, tenant_id, watermark FROM invoice;
INSERT INTO invoice_settlement (invoice_id, contract_id, period_start, line_key, tenant_id,
    accrued, amount_minor)
  SELECT id, tenant_id, period_start, 'input', tenant_id, 0.01, 1 FROM invoice;
INSERT INTO spend_threshold (tenant_id, name, amount, made_by, created_at)
  SELECT DISTINCT tenant, 'old', 1, 'tenant', timestamptz '2026-11-01' FROM old;
INSERT INTO spend_alert SELECT t.id, at - interval '9 years', at, tenant, 'USD', 1, 1, 1, at
  FROM old JOIN spend_threshold t ON t.tenant_id = tenant;
INSERT INTO usage_correction (event_id, tenant_id, kind, corrects, corrects_at, source, foreign_id,
    reason, actor, corrected_at)
  SELECT gen_random_uuid(), tenant, 'void', gen_random_uuid(), at, 'desk', 'old ' || n, 'old',
    'ada', at FROM old;
INSERT INTO parked_usage (id, tenant_id, source, foreign_id, body_hash, meter, quantity, kind,
    occurred_at, received_at, reason)
  SELECT gen_random_uuid(), tenant, 'desk', 'old ' || n, '', 'nobody', 1, 0, at, at, 'unknown_meter'
  FROM old;
INSERT INTO parked_decision (parked_id, tenant_id, decision, reason, actor, decided_at)
  SELECT id, tenant_id, 'rejected', 'old', 'ada', received_at FROM parked_usage;
INSERT INTO batch_run (batch_id, backend, tenant_id, project_id, key_id, price_version_id, endpoint,
    input_file_id, submitted_at, state, completed_at, outcome, billed_at)
  SELECT 'old-' || n, 'pool', tenant, 1, 1, 1, '/v1/chat/completions', 'old', at, 'billed', at,
    'completed', at FROM old;
INSERT INTO leakage (backend_id, hour, engine_prompt, engine_generation, ledger_prompt,
    ledger_generation, scrap_attempts, restarts, complete, reconciled_at)
  SELECT tenant, timestamptz '2026-11-01' - n * interval '1 h', 1, 1, 1, 1, 0, 0, true, at FROM old;
INSERT INTO seal_fold SELECT -n, sha256(''), 0, 0, 0, 0, at, 'old', sha512('') FROM old;
INSERT INTO seal_head SELECT 1000 + tenant, n, sha256(''), 1, -n, -n FROM old;
INSERT INTO seal_hashes SELECT 1000 + tenant, 0, n, sha256('') FROM old;
INSERT INTO seal_witness SELECT -n, 'https://witness.test', 200, 'seen', at FROM old;
VACUUM ANALYZE;
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class FilledWorld:
    """
    Attributes:
        whose: operations of each tenant.
    """

    world: World
    tenants: list[Tenant]
    whose: list[Attribution]


def make_filled_world(
    database: Database, owner_conninfo: str, *, events: int, over: int
) -> FilledWorld:
    """Fill a database with `events` operations of the proxy, and with `over` of what is over."""
    world = make_world(database, MONTH_START + timedelta(days=DAYS + 1))
    tenants = [world.tenant(f"tenant-{number}") for number in range(TENANTS)]
    with database.transaction(Role.OPERATOR) as connection:
        ensure_models(connection, ["tiny"])
    whose = [attribution_of(world, tenant) for tenant in tenants]
    made = operations(whose, events)
    while page := list(islice(made, 5_000)):
        with database.transaction(Role.INGEST) as connection:
            append_records(connection, page)
    with database.transaction(Role.OPERATOR) as connection:
        define_meter(connection, METER, now=MONTH_START)
    for tenant in tenants:
        with database.transaction(Role.OPERATOR) as connection:
            verdicts = report_usage(connection, list(_scans(tenant)), now=world.now)
        assert {verdict.kind for verdict in verdicts} == {VerdictKind.ACCEPTED}, verdicts[0]
    seal_all(database, SealKey(private=Ed25519PrivateKey.generate()), now=world.now)
    with database.transaction(Role.OPERATOR) as connection:
        note_changes(connection, now=world.now)
    with psycopg.connect(owner_conninfo, autocommit=True) as owner:
        # One by one: not all of it may run in one transaction.
        for statement in _OVER.format(rows=over, tenants=TENANTS).split(";\n"):
            owner.execute(statement.encode())
    return FilledWorld(world=world, tenants=tenants, whose=whose)


def _scans(tenant: Tenant) -> Iterator[tuple[str, CloudEvent]]:
    """Events of other systems: their ids are kept, and so is what their meter splits by."""
    for number in range(REPORTED):
        at = MONTH_START + timedelta(minutes=number)
        data = {"pages": 1 + number % 20}
        yield (
            tenant.slug,
            CloudEvent(source="scanner", id=f"s-{number}", type="scan", time=at, data=data),
        )


def operations(whose: Sequence[Attribution], count: int, *, seed: int = 7) -> Iterator[Record]:
    """What proxies write down in `DAYS` days, of all these in turn: every other one belongs to a
    run, one in five had an attempt that failed, one in twenty bills nothing."""
    chance = Random(seed)
    for number in range(count):
        after_ms = number * DAYS * 86_400_000 // count
        at = MONTH_START + timedelta(milliseconds=after_ms)
        at_us, event_id = microseconds(at), uuid7(milliseconds(at), chance.getrandbits(74)).bytes
        key = 1 + chance.randrange(10)
        own = replace(whose[number % len(whose)], backend=f"pool-{number % 4}", key_id=key)
        if chance.random() < 0.5:
            own = replace(own, run_id=f"run-{number // 400}", step_id=f"step-{number}")
        if chance.random() < 0.05:
            yield Void(event_id, at_us, own, "client_left")
            continue
        failed = Attempted(0, own.model_id, "pool-9", at_us, 9, "refused_503")
        yield Usage(
            id=event_id,
            at_us=at_us,
            attribution=own,
            counts=Counts(input=7 + number % 100, output=3 + number % 50),
            raw={"prompt_tokens": 7 + number % 100},
            cause="completed",
            estimated=False,
            ttft_us=1_000,
            duration_us=2_000,
            attempts=(failed,) if chance.random() < 0.2 else (),
        )
