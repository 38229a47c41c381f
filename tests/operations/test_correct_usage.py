"""Corrections: new facts in the original's period, once each, and the next invoice bills them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

import pytest

from billing.errors import Conflict, IdempotencyConflict, InvalidInput, NotFound
from billing.metering.correction import Correction
from billing.operations.invoicing.issue_invoice import issue_invoice
from billing.operations.invoicing.read_invoices import require_invoice
from billing.operations.metering.correct_usage import Corrected, correct_usage, reported_event
from billing.operations.metering.read_usage import usage_of
from billing.period import Period
from billing.store.database import Database, Role, query
from billing.store.usage.verify import rollup_differences
from billing.tenancy.tenant import Tenant
from tests.operations.crash_points import Crash, crash_before
from tests.world import World, make_world, usage_report

NOVEMBER_END = datetime(2026, 12, 1, tzinfo=UTC)
DECEMBER_END = datetime(2027, 1, 1, tzinfo=UTC)
NOVEMBER = Period(start=datetime(2026, 11, 1, tzinfo=UTC), end=NOVEMBER_END)


@pytest.fixture
def world(database: Database, now: datetime) -> World:
    return make_world(database, now)


def event(
    world: World, tenant: Tenant, foreign_id: str = "e-1", quantity: int | Decimal = 900_000
) -> UUID:
    (verdict,) = world.report(
        tenant,
        usage_report(
            foreign_id=foreign_id, meter="tokens.output", quantity=quantity, occurred_at=world.now
        ),
    )
    assert verdict.event_id is not None
    return verdict.event_id


def order(corrects: UUID, name: str = "v-1", **quantities: int) -> Correction:
    return Correction(
        corrects=corrects,
        source="desk",
        foreign_id=name,
        reason="counted twice",
        quantities={f"tokens.{k}": Decimal(q) for k, q in quantities.items()} or None,
    )


def correct(world: World, correction: Correction, tenant: Tenant | None = None) -> Corrected:
    with world.database.transaction(Role.OPERATOR) as connection:
        return correct_usage(
            connection,
            correction,
            tenant_id=tenant and tenant.id,
            actor="ada",
            now=DECEMBER_END,
        )


def used(world: World, tenant: Tenant) -> Decimal:
    with world.database.transaction(Role.OPERATOR) as connection:
        rows = usage_of(connection, tenant=tenant, period=NOVEMBER, group="none")
        assert rollup_differences(connection) == []
    return sum((row.quantity for row in rows), Decimal(0))


def lines(world: World, tenant: Tenant, end: datetime) -> list[tuple[str, int]]:
    period = tenant.billing_period(end.replace(year=2026, month=end.month - 1 or 12))
    with world.database.transaction(Role.OPERATOR) as connection:
        issued = issue_invoice(connection, tenant=tenant, period=period, now=end)
        view = require_invoice(connection, str(issued.id), tenant_id=None)
    return [(line.key, line.amount_minor) for line in view.lines]


def test_R4_the_next_invoice_bills_what_a_void_and_an_amendment_changed(world: World) -> None:
    acme = world.tenant()
    whole, part = event(world, acme), event(world, acme, "e-2", 600_000)
    assert [amount for _, amount in lines(world, acme, NOVEMBER_END)] == [2000, 110]
    correct(world, order(whole))
    correct(world, order(part, "a-1", output=500_000))
    assert used(world, acme) == 500_000
    # 1.10 was billed for 1,500,000 tokens; 500,000 cost 0.40.
    billed = dict(lines(world, acme, DECEMBER_END))
    (correction,) = [amount for key, amount in billed.items() if "@2026-11-01" in key]
    assert correction == -70


def test_a_void_takes_back_every_digit(world: World) -> None:
    acme = world.tenant("acme")
    quantity = Decimal("123456789012345678.123456789012345678")
    event(world, acme, foreign_id="e-0", quantity=Decimal(1))
    correct(world, order(event(world, acme, quantity=quantity)))
    with world.database.transaction(Role.OPERATOR) as connection:
        usage = usage_of(connection, tenant=acme, period=NOVEMBER)
        assert [each.quantity for each in usage if each.meter == "tokens.output"] == [Decimal(1)]
        assert rollup_differences(connection) == []


def test_an_event_is_corrected_once(world: World) -> None:
    acme, birch = world.tenant("acme"), world.tenant("birch")
    first, second = event(world, acme), event(world, acme, "e-2", 5)
    event(world, birch, "e-1", 7)
    with world.database.transaction(Role.OPERATOR) as connection:
        assert reported_event(connection, tenant=acme, source="test", foreign_id="e-1") == first
        with pytest.raises(NotFound):
            reported_event(connection, tenant=acme, source="desk", foreign_id="e-1")
    done = correct(world, order(first))
    assert correct(world, order(first)) == Corrected(correction=done.correction, repeated=True)
    refusals = {
        Conflict: order(first, "v-2"),
        IdempotencyConflict: order(second, "v-1"),
        NotFound: order(UUID(int=5)),
        InvalidInput: order(second, "v-3", input=3),
    }
    for refusal, correction in refusals.items():
        with pytest.raises(refusal):
            correct(world, correction)
    with pytest.raises(NotFound):
        correct(world, order(second, "v-4"), birch)
    with pytest.raises(Conflict):
        correct(world, order(done.correction.event_id, "v-5"))
    assert used(world, acme) == 5
    amended = correct(world, order(second, "a-1", output=4)).correction
    assert amended.replacement_id is not None
    correct(world, order(amended.replacement_id, "a-2", output=3))
    assert (used(world, acme), used(world, birch)) == (3, 7)


def test_L5_a_correction_that_dies_anywhere_is_made_once(world: World) -> None:
    acme = world.tenant()
    counted = order(event(world, acme, "counted", 10), "counted", output=4)
    with crash_before(world.database.engine, None) as statements:
        correct(world, counted)
    for number in range(1, statements.sent + 1):
        original = event(world, acme, f"e-{number}", 10)
        # Under a source that was never heard of, as the first one was.
        correction = replace(order(original, output=4), source=f"desk-{number}")
        with pytest.raises(Crash), crash_before(world.database.engine, number):
            correct(world, correction)
        correct(world, correction)
        with world.database.transaction(Role.OPERATOR) as connection:
            made = query(
                connection, "SELECT FROM usage_correction WHERE corrects = :id", id=original
            )
        assert len(made) == 1
    assert used(world, acme) == 4 * (statements.sent + 1)
