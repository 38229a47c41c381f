"""L5: an operation that dies between two statements and is repeated leaves what one run leaves.

Every boundary of every operation is tried, the commit included, and the one where the commit
happened and nobody heard of it. Each round has a tenant of its own; rounds are compared by what
they leave, without the ids that are drawn at random. Names of models and backends are new in
every round, so that the statements that learn them are crashed as well.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from billing.operations.invoicing.issue_invoice import issue_invoice
from billing.operations.metering.ingest_usage import ingest_usage
from billing.operations.metering.ship_journal import JournalShipper
from billing.operations.outcomes.claims import confirm_outcome, report_outcome
from billing.outcomes.claim import Actor
from billing.store.database import Database, Role
from billing.store.usage.verify import rollup_differences
from billing.tenancy.tenant import Tenant
from tests.operations.crash_points import (
    Crash,
    attribution_of,
    crash_before,
    usage_record,
    void_record,
    write_journal,
)
from tests.world import MONTH_END, World, make_world, usage_report

Round = Callable[[Tenant], Callable[[], None]]
"""Prepares a round for a tenant; what it returns is the operation that will die."""

LEFT_BEHIND = {
    "events": "SELECT occurred_at, m.name IS NULL, b.name IS NULL, kind, cause, estimated, "
    "quantities, raw_counts FROM usage_event e LEFT JOIN model m ON m.id = e.model_id "
    "LEFT JOIN backend b ON b.id = e.backend_id WHERE tenant_id = :tenant",
    "keys": "SELECT source, foreign_id FROM reported_event WHERE tenant_id = :tenant",
    "rollups": "SELECT bucket, meter_version_id, kind, quantity, events FROM usage_rollup "
    "WHERE tenant_id = :tenant",
    "parked": "SELECT source, foreign_id, meter, reason FROM parked_usage "
    "WHERE tenant_id = :tenant",
    "scrap": "SELECT at, reason FROM scrap_attempt WHERE tenant_id = :tenant",
    "postings": "SELECT a.code, p.currency, p.amount, p.line_key FROM posting p "
    "JOIN account a ON a.id = p.account_id WHERE p.tenant_id = :tenant",
    "transactions": "SELECT kind, effective_at FROM ledger_transaction WHERE tenant_id = :tenant",
    "invoices": "SELECT state, total_minor, residual_after FROM invoice WHERE tenant_id = :tenant",
    "lines": "SELECT ordinal, kind, description, quantity, exact, amount_minor FROM invoice_line "
    "WHERE tenant_id = :tenant",
    "settlements": "SELECT period_start, line_key, accrued, amount_minor FROM invoice_settlement "
    "WHERE tenant_id = :tenant",
    "mirrors": "SELECT state FROM invoice_mirror WHERE tenant_id = :tenant",
    "transitions": "SELECT ordinal, from_state, to_state, actor FROM outcome_transition "
    "WHERE tenant_id = :tenant",
}


@pytest.fixture
def world(database: Database, now: Any) -> World:
    return make_world(database, now)


def state(world: World, tenant: Tenant) -> dict[str, list[tuple[Any, ...]]]:
    with world.database.transaction(Role.OPERATOR) as connection:
        return {
            name: sorted(
                (tuple(row) for row in connection.execute(sa.text(sql), {"tenant": tenant.id})),
                key=repr,
            )
            for name, sql in LEFT_BEHIND.items()
        }


def require_same_after_any_crash(world: World, prepare: Round) -> None:
    engine = world.database.engine
    slugs = (f"round-{number}" for number in count())

    prepare(world.tenant(next(slugs)))()  # what is made once for everybody is made here
    untouched = world.tenant(next(slugs))
    operation = prepare(untouched)
    with crash_before(engine, None) as statements:
        operation()
    expected = state(world, untouched)
    assert statements.sent > 5

    for number in range(1, statements.sent + 2):
        tenant = world.tenant(next(slugs))
        operation = prepare(tenant)
        if number <= statements.sent:
            with pytest.raises(Crash), crash_before(engine, number):
                operation()
        else:
            operation()  # committed, and the caller never heard of it
        operation()
        assert state(world, tenant) == expected, f"crash before statement {number}"
    with world.database.transaction(Role.OPERATOR) as connection:
        assert rollup_differences(connection) == []


def test_L5_ingest(world: World) -> None:
    def prepare(tenant: Tenant) -> Callable[[], None]:
        model = f"model of {tenant.slug}"
        reports = [
            usage_report(foreign_id="a", quantity=5, model=model, occurred_at=world.now),
            usage_report(foreign_id="b", meter="requests", model=None, occurred_at=world.now),
            usage_report(foreign_id="c", meter="unheard-of", model=model, occurred_at=world.now),
            usage_report(foreign_id="a", quantity=6, model=model, occurred_at=world.now),
        ]

        def ingest() -> None:
            with world.database.transaction(Role.INGEST) as connection:
                ingest_usage(connection, reports, tenant=tenant, now=world.now)

        return ingest

    require_same_after_any_crash(world, prepare)


def test_L5_ship_journal(world: World, tmp_path: Path) -> None:
    numbers = count()

    def prepare(tenant: Tenant) -> Callable[[], None]:
        whose = attribution_of(world, tenant, backend=f"pool of {tenant.slug}")
        first = next(numbers) << 8
        directory = tmp_path.joinpath(tenant.slug)
        write_journal(
            directory,
            [
                *(usage_record(world, whose, first + n, output=n) for n in range(3)),
                void_record(world, whose, first + 3),
            ],
            segment_bytes=300,
        )

        def ship() -> None:
            # A new one each time: the process that knew how far it had come is dead.
            shipper = JournalShipper(database=world.database, directory=directory)
            shipper.ship(now=world.now)

        return ship

    require_same_after_any_crash(world, prepare)


def test_L5_issue_invoice(world: World) -> None:
    def prepare(tenant: Tenant) -> Callable[[], None]:
        world.report(
            tenant,
            usage_report(foreign_id="in", quantity=1_234_567, occurred_at=world.now),
            usage_report(
                foreign_id="out", meter="tokens.output", quantity=9, occurred_at=world.now
            ),
        )
        period = tenant.billing_period(world.now)

        def issue() -> None:
            with world.database.transaction(Role.OPERATOR) as connection:
                issue_invoice(
                    connection,
                    tenant=tenant,
                    period=period,
                    enqueue_mirror=lambda *_: None,
                    now=MONTH_END,
                )

        return issue

    require_same_after_any_crash(world, prepare)
    with world.database.transaction(Role.OPERATOR) as connection:
        numbers = connection.execute(sa.text("SELECT number FROM invoice ORDER BY 1")).scalars()
        # Crashed runs took numbers and gave them back.
        assert [int(number.removeprefix("INV-")) for number in numbers] == list(
            range(1, connection.execute(sa.text("SELECT count(*) FROM tenant")).scalar_one() + 1)
        )


def test_L5_confirm_outcome(world: World) -> None:
    def prepare(tenant: Tenant) -> Callable[[], None]:
        with world.database.transaction(Role.TENANT, tenant_id=tenant.id) as connection:
            claim = report_outcome(
                connection,
                tenant=tenant,
                outcome="ticket-resolved",
                subject="ticket 1",
                occurred_at=world.now,
                actor=Actor.TENANT,
                key_id=1,
                now=world.now,
            )

        def confirm() -> None:
            with world.database.transaction(Role.TENANT, tenant_id=tenant.id) as connection:
                confirm_outcome(
                    connection,
                    tenant=tenant,
                    claim_id=claim.id,
                    actor=Actor.TENANT,
                    key_id=1,
                    now=world.now,
                )

        return confirm

    require_same_after_any_crash(world, prepare)
