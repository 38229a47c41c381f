"""D16 over contracts side by side: hours of the day and values of dimensions tell prices apart."""

from __future__ import annotations

from datetime import datetime

import pytest

from billing.errors import OverlappingCharges
from billing.operations.catalog.contracts import bind_contract
from billing.operations.metering.define_meter import define_meter
from billing.store.database import Database, Role
from tests.world import MONTH_START, World, make_world

WINDOWED = """
slug: {slug}
name: {slug}
currency: USD
windows:
  hours: {{days: [mon, tue, wed, thu, fri], {hours}}}
charges:
  - type: per_unit
    key: {slug}-tokens
    description: Tokens
    meter: tokens.input
    during: hours
    price: "1"
"""
GPUS = """
slug: {slug}
name: {slug}
currency: USD
charges:
  - type: per_unit
    key: {slug}-hours
    description: GPU-hours
    meter: gpu.hours
    where: {{gpu: [{gpus}]}}
    price: "2"
"""
METER = """
code: gpu.hours
unit: hours
event_type: gpu
value: data.hours
aggregation: sum
dimensions:
  - {name: gpu, path: data.gpu}
"""
PLANS = {
    "peak": WINDOWED.format(slug="peak", hours='from: "08:00", to: "20:00"'),
    "night": WINDOWED.format(slug="night", hours='from: "00:00", to: "08:00"'),
    "rush": WINDOWED.format(slug="rush", hours='from: "19:45", to: "22:00"'),
    "hopper": GPUS.format(slug="hopper", gpus="h100, h200"),
    "blackwell": GPUS.format(slug="blackwell", gpus="b200"),
    "newer": GPUS.format(slug="newer", gpus="h200, b200"),
}


@pytest.fixture
def world(database: Database, now: datetime) -> World:
    made = make_world(database, now)
    with database.transaction(Role.OPERATOR) as connection:
        define_meter(connection, METER, now=now)
    for text in PLANS.values():
        made.plan(text)
    made.tenant(plan=None)
    return made


def _bind(world: World, plan: str) -> None:
    with world.database.transaction(Role.OPERATOR) as connection:
        bind_contract(connection, tenant="acme", plan=plan, valid_from=MONTH_START, now=world.now)


@pytest.mark.parametrize(
    ("beside", "clashing"), [(("peak", "night"), "rush"), (("hopper", "blackwell"), "newer")]
)
def test_D16_what_both_would_price_is_refused_by_both_names(
    world: World, beside: tuple[str, str], clashing: str
) -> None:
    for plan in ("peak", "night", "hopper", "blackwell"):
        _bind(world, plan)
    with pytest.raises(OverlappingCharges) as refused:
        _bind(world, clashing)
    assert f"on plan {beside[0]}" in refused.value.message
    assert f"{beside[0]}-" in refused.value.message
    assert f"{clashing}-" in refused.value.message
