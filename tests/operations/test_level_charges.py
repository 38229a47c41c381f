"""Seats by days from recorded usage: on a real database, through contracts one after the other."""

from __future__ import annotations

from dataclasses import fields
from datetime import datetime, timedelta
from decimal import Decimal

import psycopg
import pytest

from billing.errors import Conflict, InvalidPlan
from billing.operations.catalog.contracts import bind_contract, end_contract, list_contracts
from billing.operations.invoicing.draft_invoice import draft_invoice
from billing.operations.metering.define_meter import define_meter
from billing.operations.rating.rate_period import rate_stored
from billing.period import Period
from billing.rating.quantity import MeteredQuantity
from billing.store import invoices
from billing.store.database import Database, Role
from billing.store.embedded.address import ServerAddress
from billing.store.usage.read import meter_units
from billing.tenancy.tenant import Tenant
from tests.operations.test_rated_dimensions import MONTH, amounts, at, rated, send
from tests.world import MONTH_END, World, make_world

SEATS = """
code: seats
unit: seats
event_type: t.seats
aggregation: time_weighted_sum
value: data.v
effective_from: "2026-11-01T00:00:00Z"
"""
TAGGED = """
code: tagged
unit: jobs
event_type: t.tagged
aggregation: count
effective_from: "{start}"
dimensions: [{dimensions}]
"""
BY_DAYS = """
slug: dims
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
BY_TAG = """
slug: tags
name: Jobs by tag
currency: USD
charges:
  - {type: per_unit, key: jobs, description: Jobs, meter: tagged, price: 1, where: {tag: [a]}}
  - {type: per_unit, key: rest, description: Rest, meter: tagged, price: 2,
     where: {tag: {others: [a]}}}
"""
DECEMBER = Period(start=MONTH_END, end=MONTH_END + timedelta(days=31))


@pytest.fixture
def world(database: Database, now: datetime) -> World:
    made = make_world(database, now)
    with database.transaction(Role.OPERATOR) as connection:
        define_meter(connection, SEATS, now=now)
        start, tag = "2026-11-01T00:00:00Z", "{name: tag, path: data.tag}"
        define_meter(connection, TAGGED.format(start=start, dimensions=tag), now=now)
    for plan in (BY_DAYS, BY_HOURS, BY_TAG):
        made.plan(plan)
    return made


def test_seats_are_priced_by_tier_and_day_and_carried_into_the_next_month(world: World) -> None:
    acme = world.tenant("acme", plan="dims")
    send(world, acme, "t.seats", {"v": 10}, at(0))
    send(world, acme, "t.seats", {"v": 16}, at(240))
    send(world, acme, "t.seats", {"v": 13}, at(600))

    # Ten all month; six more for 20 of 30 days, three of them gone for the last five.
    expected = 300 + (6 * 20 - 3 * 5) * Decimal(15) / 30 + 5
    assert amounts(world, acme) == {"seats": expected}
    assert_stored(world, acme)
    # Nothing happened in December: 13 seats are there all month.
    assert amounts(world, acme, period=DECEMBER) == {"seats": 300 + 3 * 15 + 5}


def test_a_month_whose_events_have_left_is_refused_not_read_as_nothing(
    world: World, postgres: ServerAddress, database_name: str
) -> None:
    acme, bolt = world.tenant("acme", plan="dims"), world.tenant("bolt", plan="dims")
    send(world, acme, "t.seats", {"v": 10}, at(0))
    with psycopg.connect(postgres.owner_conninfo(database_name), autocommit=True) as owner:
        owner.execute(
            "WITH a AS (INSERT INTO usage_archive (month, ordinal, url, bytes, sha256, events, "
            "archived_at) VALUES ('2026-11-01', 1, 'x', 0, sha256(''), 0, now()) RETURNING id) "
            "INSERT INTO usage_horizon SELECT '2026-11-01', id, '2026-12-01Z', now() FROM a"
        )
    with pytest.raises(Conflict, match="have left the database"):
        rated(world, acme)
    assert amounts(world, bolt) == {}


def assert_stored(world: World, acme: Tenant) -> None:
    """What an invoice keeps of its quantities is enough to rate it again."""
    found = rated(world, acme)
    with world.database.transaction(Role.OPERATOR) as connection:
        draft = draft_invoice(connection, tenant=acme, period=MONTH, now=MONTH_END)
        kept: dict[int, list[MeteredQuantity]] = {}
        for row in invoices.quantities(connection, draft.id):
            same = {f.name: getattr(row, f.name, None) for f in fields(MeteredQuantity)}
            asked = {name: value for name, value in same.items() if value is not None}
            kept.setdefault(row.contract_id or 0, []).append(MeteredQuantity(**asked))
        again = rate_stored(
            tenant=acme,
            period=MONTH,
            watermark=found.watermark,
            bound=[each.bound for each in found.contracts],
            quantities=kept,
            units=meter_units(connection),
        )
    assert [each.rating for each in again.contracts] == [each.rating for each in found.contracts]


def test_a_contract_by_days_and_the_next_by_hours_share_no_day(world: World) -> None:
    acme = world.tenant("acme", plan="dims")
    middle = MONTH.start + timedelta(days=15)
    with world.database.transaction(Role.OPERATOR) as connection:
        (first,) = list_contracts(connection, tenant_id=acme.id)
        end_contract(connection, first.id, valid_until=middle)
        bind_contract(
            connection,
            tenant="acme",
            plan="hours",
            valid_from=middle + timedelta(days=1),
            now=world.now,
        )
    send(world, acme, "t.seats", {"v": 10}, at(0))
    send(world, acme, "t.seats", {"v": 16}, at(240))

    found = rated(world, acme)

    # Ten for 15 days and six for five; then nobody's day; then 14 days by the hour.
    assert [line.exact for each in found.contracts for line in each.rating.lines] == [
        150 + 6 * 15 * Decimal(5) / 30 + 5,
        Decimal("0.01") * 16 * 24 * 14,
    ]
    units = {line.unit for each in found.contracts for line in each.rating.lines}
    assert units == {"seats"}
    assert [(row.meter, row.quantity) for row in found.unrated] == [("seats", 16 * 24)]


def test_a_contract_is_not_bound_whose_meter_lost_what_the_plan_asks_for(world: World) -> None:
    """A later version of the meter may declare less than the one the plan was checked with."""
    world.tenant("early", plan="tags")
    with world.database.transaction(Role.OPERATOR) as connection:
        start = f"{world.now + timedelta(days=1):%Y-%m-%dT00:00:00Z}"
        define_meter(connection, TAGGED.format(start=start, dimensions=""), now=world.now)
    with pytest.raises(InvalidPlan) as refused:
        world.tenant("late", plan="tags")
    assert refused.value.field == "charges[0].where"
    assert refused.value.remedy
