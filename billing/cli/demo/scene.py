"""The demo's scene: an operator, three tenants, their plans, and a month of reported usage.

Everything is written through the operations that a deployment uses. The figures of the history
follow from a fixed seed, so two runs on one day bill the same.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from billing.metering.usage_event import UsageReport, VerdictKind
from billing.operations.catalog.contracts import bind_contract
from billing.operations.catalog.plans import apply_plan
from billing.operations.metering.ingest_usage import ingest_usage
from billing.operations.tenancy.keys import IssuedKey, issue_key
from billing.operations.tenancy.tenants import create_legal_entity, create_tenant
from billing.period import Period
from billing.planfiles.plan_file import EXAMPLES
from billing.store.database import Database, Role
from billing.tenancy.api_key import Role as KeyRole
from billing.tenancy.tenant import Tenant

PLANS = ("inference-standard", "starter", "support-outcomes")
OUTCOME = "ticket-resolved"
SEED = 1468
REPORTS_PER_DAY = 4
DUPLICATE_EVERY = 40
COSTS = """
currency: USD
period: {{from: {start}, to: {end}}}
pools:
  - slug: large
    gpu: {{hours: {hours_large}, rate: "2.10"}}
    energy: {{kwh: {kwh_large}, pue: "1.25", tariff: "0.11"}}
    overhead: [{{name: staff and network, amount: "900.00"}}]
    models:
      sim-large: {{input: 3000, output: 600}}
  - slug: small
    gpu: {{hours: {hours_small}, rate: "1.30"}}
    energy: {{kwh: {kwh_small}, pue: "1.25", tariff: "0.11"}}
    models:
      sim-small: {{input: 9000, cached_input: 90000, output: 2400}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Habit:
    """What a tenant reports: tokens per report and meter of one model, before the seed's spread."""

    model: str
    tokens: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A tenant of the demo."""

    slug: str
    name: str
    plans: tuple[str, ...]
    habits: tuple[Habit, ...]


CAST = (
    Part(
        slug="northwind",
        name="Northwind Analytics",
        plans=("inference-standard",),
        habits=(
            Habit(
                model="sim-large",
                tokens={"tokens.input": 12_400_000, "tokens.output": 4_900_000},
            ),
            Habit(
                model="sim-small",
                tokens={
                    "tokens.input": 21_000_000,
                    "tokens.cached_input": 9_000_000,
                    "tokens.output": 6_000_000,
                },
            ),
        ),
    ),
    Part(
        slug="bluefin",
        name="Bluefin Support",
        plans=("inference-standard", "support-outcomes"),
        habits=(
            Habit(
                model="sim-large",
                tokens={"tokens.input": 3_100_000, "tokens.output": 900_000},
            ),
        ),
    ),
    Part(
        slug="kestrel",
        name="Kestrel Labs",
        plans=("starter",),
        habits=(
            Habit(
                model="sim-small",
                tokens={"tokens.input": 17_000_000, "tokens.output": 11_000_000},
            ),
        ),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What was set up.

    Attributes:
        period: the open billing period of all tenants; it holds today.
        verdicts: how many reported events got which verdict.
    """

    tenants: tuple[Tenant, ...]
    keys: dict[str, IssuedKey]
    period: Period
    verdicts: Counter[VerdictKind]


def set_up(database: Database, *, now: datetime) -> Scene:
    """Create operator, plans and tenants, and report the history of the open billing period."""
    # The period ends at the next midnight: a month of history lies in it whatever day today is.
    anchor_day = (now + timedelta(days=1)).day
    with database.transaction(Role.OPERATOR) as connection:
        create_legal_entity(
            connection,
            slug="factory",
            name="Demo AI Factory",
            country="US",
            currency_code="USD",
            zone_name="UTC",
            invoice_prefix="DEMO-",
            now=now,
        )
        for plan in PLANS:
            apply_plan(connection, EXAMPLES.joinpath(f"{plan}.yaml").read_text("utf-8"), now=now)
    tenants = tuple(_create(database, part, anchor_day, now=now) for part in CAST)
    period = tenants[0].billing_period(now)
    keys: dict[str, IssuedKey] = {}
    with database.transaction(Role.OPERATOR) as connection:
        for part in CAST:
            for plan in part.plans:
                bind_contract(
                    connection, tenant=part.slug, plan=plan, valid_from=period.start, now=now
                )
            keys[part.slug] = issue_key(
                connection, role=KeyRole.TENANT, tenant=part.slug, name="demo", now=now
            )
    verdicts: Counter[VerdictKind] = Counter()
    for tenant, part in zip(tenants, CAST, strict=True):
        reports = list(_history(part, period, now=now))
        with database.transaction(Role.INGEST) as connection:
            answers = ingest_usage(connection, reports, tenant=tenant, now=now)
        verdicts.update(verdict.kind for verdict in answers)
    return Scene(tenants=tenants, keys=keys, period=period, verdicts=verdicts)


def cost_file(period: Period) -> str:
    """What the period cost: two pools that exist around the clock."""
    hours = (period.end - period.start) // timedelta(hours=1)
    return COSTS.format(
        start=f"{period.start:%Y-%m-%dT%H:%M:%SZ}",
        end=f"{period.end:%Y-%m-%dT%H:%M:%SZ}",
        hours_large=hours,
        kwh_large=hours * 7 // 10,
        hours_small=hours,
        kwh_small=hours * 4 // 10,
    )


def _create(database: Database, part: Part, anchor_day: int, *, now: datetime) -> Tenant:
    with database.transaction(Role.OPERATOR) as connection:
        return create_tenant(
            connection, slug=part.slug, name=part.name, anchor_day=anchor_day, now=now
        )


def _history(part: Part, period: Period, *, now: datetime) -> Iterator[UsageReport]:
    spread = random.Random(f"{SEED} {part.slug}")  # noqa: S311  # figures of a demo
    moment = period.start + timedelta(hours=3)
    serial = 0
    while moment < now - timedelta(minutes=1):
        for habit in part.habits:
            for meter, usual in habit.tokens.items():
                serial += 1
                report = UsageReport(
                    source="history",
                    foreign_id=f"{part.slug}-{serial}",
                    meter=meter,
                    quantity=Decimal(
                        usual * spread.randint(40, 160) // 100 + spread.randint(0, 999)
                    ),
                    occurred_at=moment,
                    model=habit.model,
                )
                yield report
                if serial % DUPLICATE_EVERY == 0:
                    yield report  # a reporter that retries: billed once
        moment += timedelta(hours=24 // REPORTS_PER_DAY)
