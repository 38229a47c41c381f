"""Terms of reports: what a batch shares between two changes is what each report would get alone."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from billing.metering.event_id import milliseconds
from billing.metering.usage_event import EventKind, UsageReport
from billing.operations.catalog.contracts import bind_contract, end_contract
from billing.operations.metering.define_meter import define_meter
from billing.operations.minting import mint_ids
from billing.store.database import Database, Role
from billing.tenancy.tenant import Tenant
from tests.world import MONTH_START, World, make_world, usage_report

CHANGE = MONTH_START + timedelta(days=5, minutes=15)
COUNTER = """
code: runs
unit: runs
event_type: t.run
aggregation: count
effective_from: "2026-11-03T00:00:00Z"
"""


@pytest.fixture
def world(database: Database, now: datetime) -> World:
    return make_world(database, now)


def changing(world: World, slug: str) -> Tenant:
    """A tenant whose contract gives way to another one within the month."""
    tenant = world.tenant(slug, plan=None)
    with world.database.transaction(Role.OPERATOR) as connection:
        first = bind_contract(
            connection, tenant=slug, plan="standard", valid_from=MONTH_START, now=world.now
        )
        end_contract(connection, first.contract.id, valid_until=CHANGE)
        bind_contract(connection, tenant=slug, plan="standard", valid_from=CHANGE, now=world.now)
    return tenant


def reports(world: World) -> list[UsageReport]:
    tick = timedelta(microseconds=1)
    instants = [
        MONTH_START - tick, MONTH_START, CHANGE - tick, CHANGE, CHANGE + tick,
        MONTH_START + timedelta(days=2) - tick, MONTH_START + timedelta(days=2),
        world.now, world.now + timedelta(minutes=5), world.now + timedelta(minutes=5) + tick,
    ]  # fmt: skip
    made = [
        usage_report(
            foreign_id=f"{number}-{meter}-{model}-{kind}-{quantity}",
            meter=meter,
            model=model,
            kind=kind,
            quantity=quantity,
            occurred_at=at,
            project=project,
        )
        for number, at in enumerate(instants)
        for meter, quantity in (("tokens.input", 7), ("runs", 1), ("runs", 2), ("unheard-of", 1))
        for model, kind, project in (
            ("tiny", EventKind.BILLED, None),
            (None, EventKind.FREE, None),
            ("tiny", EventKind.BILLED, "nowhere"),
        )
    ]
    return [
        UsageReport(**{**_members(each), "foreign_id": f"{number}-{each.foreign_id}"})
        for number, each in enumerate(made)
    ]


def _members(report: UsageReport) -> dict[str, Any]:
    return {name: getattr(report, name) for name in UsageReport.__dataclass_fields__}


def stored(world: World, tenant: Tenant) -> dict[str, tuple[Any, ...]]:
    """What an event says by its foreign id; contracts by when they began, not by whose they are."""
    with world.database.transaction(Role.OPERATOR) as connection:
        rows = connection.execute(
            sa.text(
                "SELECT k.foreign_id, e.occurred_at, e.model_id, e.meter_set_id, e.kind, "
                "e.quantities, ARRAY(SELECT c.valid_from FROM contract c JOIN price_version p "
                "ON c.id = ANY(p.contract_ids) WHERE p.id = e.price_version_id) "
                "FROM usage_event e JOIN reported_event k ON k.event_id = e.id "
                "WHERE e.tenant_id = :tenant"
            ),
            {"tenant": tenant.id},
        ).all()
    return {row[0]: tuple(row[1:]) for row in rows}


def test_L4_a_batch_over_changes_of_terms_is_counted_like_its_reports_alone(world: World) -> None:
    with world.database.transaction(Role.OPERATOR) as connection:
        define_meter(connection, COUNTER, now=world.now)
    together, alone = changing(world, "together"), changing(world, "alone")
    batch = reports(world)
    random.Random(5).shuffle(batch)
    verdicts = world.report(together, *batch)
    singly = [world.report(alone, report)[0] for report in batch]

    assert [(v.kind, v.reason) for v in verdicts] == [(v.kind, v.reason) for v in singly]
    assert {v.kind for v in verdicts} == {"accepted", "parked", "rejected"}
    seen = stored(world, together)
    assert seen == stored(world, alone)
    began = {at: contracts for at, *_, contracts in seen.values()}
    assert began[MONTH_START - timedelta(microseconds=1)] == []
    assert began[CHANGE - timedelta(microseconds=1)] == [MONTH_START]
    assert began[CHANGE] == [CHANGE]


def test_ids_of_a_batch_are_of_its_instant_and_differ(now: datetime) -> None:
    ids = mint_ids(now, 1000)
    assert len({*ids}) == 1000
    assert {(each.version, each.int >> 80) for each in ids} == {(7, milliseconds(now))}
    # Every random bit is drawn: over a thousand ids each is 0 somewhere, and 1 somewhere.
    ones = zeros = 0
    for each in ids:
        ones, zeros = ones | each.int, zeros | ~each.int
    random_bits = (0xFFF << 64) | ((1 << 62) - 1)
    assert ones & random_bits == zeros & random_bits == random_bits
    assert mint_ids(now, 0) == []
