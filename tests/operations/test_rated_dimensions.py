"""Recorded usage rated by dimensions, by the clock and by transaction: on a real database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import count
from random import Random
from typing import Any
from uuid import UUID

import pytest

from billing.metering.cloud_event import CloudEvent
from billing.metering.correction import Correction
from billing.metering.usage_event import VerdictKind
from billing.operations.invoicing.draft_invoice import draft_invoice
from billing.operations.metering.correct_usage import correct_usage
from billing.operations.metering.define_meter import define_meter
from billing.operations.metering.ingest_usage import report_usage
from billing.operations.rating.rate_period import RatedPeriod, rate_period
from billing.period import Period
from billing.rating.quantity import MeteredQuantity
from billing.store import invoices
from billing.store.database import Database, Role
from billing.tenancy.tenant import Tenant
from tests.world import MONTH_END, MONTH_START, World, make_world

MONTH = Period(start=MONTH_START, end=MONTH_END)

METERS = (
    """
code: ctx
unit: tokens
event_type: t.ctx
aggregation: sum
value: data.v
effective_from: "2026-11-01T00:00:00Z"
dimensions:
  - {name: context, path: data.n, edges: ["8000", "32000"]}
  - {name: region, path: data.region}
""",
    """
code: paid
unit: dollars
event_type: t.paid
aggregation: sum
value: data.v
effective_from: "2026-11-01T00:00:00Z"
dimensions:
  - {name: region, path: data.region}
""",
    """
code: gpu.hours
unit: GPU hours
event_type: t.gpu
aggregation: time_weighted_sum
value: data.v
effective_from: "2026-11-01T00:00:00Z"
""",
)
HEAD = "slug: dims\nname: Dims\ncurrency: USD\ncharges:\n"
CHEAP = """
  - {type: per_unit, key: cheap, description: Short, meter: ctx, price: "1",
     where: {region: [eu], context: ["<8000", "8000..32000"]}}
"""
MATRIX = f"""{HEAD}{CHEAP}
  - {{type: per_unit, key: long, description: Long, meter: ctx, price: "100",
     where: {{region: [eu], context: [">=32000"]}}}}
  - {{type: per_unit, key: rest, description: Rest, meter: ctx, price: "10000",
     where: {{region: {{others: [eu]}}}}}}
"""
SPLIT = f"""{HEAD}
  - {{type: graduated, key: split, description: Split, meter: ctx, split_by: [region],
     tiers: [{{up_to: "10", unit: "1"}}, {{unit: "100"}}]}}
"""
HOURS = f"""{HEAD}
  - {{type: per_unit, key: hours, description: Hours, meter: ctx, included: "5", restart: hour,
     price: "1"}}
  - {{type: reserved, key: gpus, description: Reserved GPUs, meter: gpu.hours, committed: "2",
     window: hour, price: "1", overage: "3"}}
"""
PAID = f"""{HEAD}
  - {{type: percentage, key: take, description: Take, meter: paid, percent: "10",
     transaction_minimum: "1", transaction_maximum: "3", where: {{region: [eu]}}}}
  - {{type: percentage, key: other, description: Other, meter: paid, percent: "1", fixed: "0.5",
     where: {{region: {{others: [eu]}}}}}}
"""

_serials = count(1)


@pytest.fixture
def world(database: Database, now: datetime) -> World:
    made = make_world(database, now)
    with database.transaction(Role.OPERATOR) as connection:
        for text in METERS:
            define_meter(connection, text, now=now)
    return made


def tenant_on(world: World, plan: str, *, zone: str = "UTC") -> Tenant:
    world.plan(plan)
    return world.tenant("acme", plan="dims", zone=zone)


def send(
    world: World, tenant: Tenant, kind: str, data: Mapping[str, object], at: datetime
) -> list[UUID]:
    event = CloudEvent(source="t", id=f"r-{next(_serials)}", type=kind, time=at, data=data)
    with world.database.transaction(Role.OPERATOR) as connection:
        verdicts = report_usage(connection, [(tenant.slug, event)], now=MONTH_END)
    assert {each.kind for each in verdicts} == {VerdictKind.ACCEPTED}, verdicts
    return [each.event_id for each in verdicts if each.event_id is not None]


def rated(world: World, tenant: Tenant, *, period: Period = MONTH) -> RatedPeriod:
    """The period rated; from its events alone it is the same, bit for bit."""
    with world.database.transaction(Role.OPERATOR) as connection:
        found = rate_period(connection, tenant=tenant, period=period)
        again = rate_period(connection, tenant=tenant, period=period, from_events=found.watermark)
    for left, right in zip(found.contracts, again.contracts, strict=True):
        assert left.rating == right.rating
    assert sorted(map(repr, found.unrated)) == sorted(map(repr, again.unrated))
    return found


def amounts(world: World, tenant: Tenant, **asked) -> dict[str, Decimal]:
    found = rated(world, tenant, **asked)
    return {line.key: line.exact for each in found.contracts for line in each.rating.lines}


def at(hours: int, minutes: int = 0) -> datetime:
    return MONTH_START + timedelta(hours=hours, minutes=minutes)


def test_a_matrix_prices_each_event_by_its_values_together(world: World) -> None:
    acme = tenant_on(world, MATRIX)
    for region, context, quantity in (
        ("eu", 10, 1),
        ("eu", 8000, 2),
        ("eu", 32000, 4),
        ("us", 10, 8),
        (None, 40000, 16),
    ):
        data = {"v": quantity, "n": context} | ({"region": region} if region else {})
        send(world, acme, "t.ctx", data, at(5))
    assert amounts(world, acme) == {"cheap": 3, "long": 400, "rest": 240000}


def test_a_value_without_a_price_is_unrated_and_shown(world: World) -> None:
    acme = tenant_on(world, HEAD + CHEAP)
    send(world, acme, "t.ctx", {"v": 1, "n": 5, "region": "eu"}, at(5))
    send(world, acme, "t.ctx", {"v": 7, "n": 5, "region": "us"}, at(5))
    found = rated(world, acme)
    assert [(row.quantity, row.dimensions) for row in found.unrated] == [
        (7, (("context", "<8000"), ("region", "us")))
    ]


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kathmandu"])
def test_tiers_count_each_value_by_itself(world: World, zone: str) -> None:
    acme = tenant_on(world, SPLIT, zone=zone)
    for hours in (30, 31, 100, 400):
        for region in ("eu", "us"):
            send(world, acme, "t.ctx", {"v": 4, "n": 1, "region": region}, at(hours))
    period = acme.billing_period(at(100))
    assert amounts(world, acme, period=period) == {"split": 2 * (10 + 600)}


def test_what_restarts_by_the_hour_is_read_by_quarter_hours(world: World) -> None:
    acme = tenant_on(world, HOURS)
    for minutes, quantity in ((0, 3), (59, 4), (60, 5), (61, 1)):
        send(world, acme, "t.ctx", {"v": quantity, "n": 1}, at(3, minutes))
    # 5 GPUs from 00:30 to 02:00, where 2 are paid for every hour.
    send(world, acme, "t.gpu", {"v": 5}, at(0, 30))
    send(world, acme, "t.gpu", {"v": 0}, at(2))
    hours = 30 * 24
    assert amounts(world, acme) == {
        "hours": (7 - 5) + (6 - 5),
        "gpus": 4 + 3 * (Decimal("0.5") + 3),
        "gpus:shortfall": 2 * hours - 4,
    }


def test_a_percentage_is_of_each_transaction_and_forgets_what_was_taken_back(
    world: World,
) -> None:
    acme = tenant_on(world, PAID)
    for value in (5, 20, 400):
        send(world, acme, "t.paid", {"v": value, "region": "eu"}, at(3))
    (wrong,) = send(world, acme, "t.paid", {"v": 400, "region": "eu"}, at(4))
    send(world, acme, "t.paid", {"v": 100, "region": "us"}, at(4))
    send(world, acme, "t.paid", {"v": 100, "region": "us"}, at(4))
    assert amounts(world, acme) == {"take": 1 + 2 + 3 + 3, "other": 3}
    with world.database.transaction(Role.OPERATOR) as connection:
        correct_usage(
            connection,
            Correction(corrects=wrong, source="desk", foreign_id="c-1", reason="taken twice"),
            tenant_id=acme.id,
            actor="desk",
            now=MONTH_END,
        )
    assert amounts(world, acme) == {"take": 1 + 2 + 3, "other": 3}


@pytest.mark.parametrize("plan", [MATRIX, SPLIT], ids=["matrix", "split"])
def test_rollups_and_events_agree_on_random_usage(world: World, plan: str) -> None:
    acme = tenant_on(world, plan, zone="Europe/Berlin")
    random = Random(7)
    for _ in range(40):
        data: dict[str, object] = {"v": random.randrange(1, 9), "n": random.randrange(40_000)}
        if random.random() < Decimal("0.8"):
            data["region"] = random.choice(["eu", "us", "none"])
        send(world, acme, "t.ctx", data, at(random.randrange(700), random.randrange(60)))
    period = acme.billing_period(at(100))
    assert sum(amounts(world, acme, period=period).values()) > 0


@pytest.mark.parametrize("plan", [MATRIX, HOURS, PAID], ids=["matrix", "hours", "paid"])
def test_an_invoice_is_rated_again_from_the_quantities_stored_with_it(
    world: World, plan: str
) -> None:
    acme = tenant_on(world, plan)
    for hour in range(6):
        region = "eu" if hour % 2 else "us"
        send(world, acme, "t.ctx", {"v": hour + 3, "n": 9000 * hour, "region": region}, at(hour))
        send(world, acme, "t.paid", {"v": hour, "region": region}, at(hour))
    with world.database.transaction(Role.OPERATOR) as connection:
        found = rate_period(connection, tenant=acme, period=MONTH)
        draft = draft_invoice(connection, tenant=acme, period=MONTH, now=MONTH_END)
        stored = invoices.quantities(connection, draft.id)
    (contract,) = found.contracts
    assert [MeteredQuantity(**read(row)) for row in stored] == list(contract.quantities)


def read(row: invoices.InvoiceQuantityRow) -> dict[str, Any]:
    whose = {"contract_id", "period_start"}
    names = (field.name for field in fields(row) if field.name not in whose)
    return {name: getattr(row, name) for name in names}
