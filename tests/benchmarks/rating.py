"""What rating costs per line, from the level of days into the books, and how it grows.

Tenants have ten charges with thirty rows each. ROUNDS=long goes on to 100,000 tenants. The
rollups are made in the database; everything after that is what the rating worker calls. A core
is what this process and the server's use together: lines per CPU second count both.

A page of tenants is a turn: a figure is the median of pages, and what is done to the same page is
compared, so that a machine that is slower for a while is slower for all.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

import psycopg

from billing.operations.catalog.contracts import bound_plans_of
from billing.operations.catalog.plans import require_plan
from billing.operations.rating.accrue_tenants import accrue_tenants
from billing.operations.rating.backtest import backtest
from billing.operations.rating.rate_tenants import (
    PERIODS_AT_ONCE,
    TenantPeriod,
    rate_tenants,
    tenant_periods,
)
from billing.rating.pipeline import rate
from billing.rating.quantity import MeteredQuantity
from billing.store.database import Database, Role, query
from billing.store.embedded.throwaway import throwaway_server
from billing.store.migrate import migrate
from billing.store.tenancy import tenants_by_id
from tests.benchmarks.measures import cpu_us
from tests.benchmarks.report import Figure, publish
from tests.world import World, make_world
from workers.app import tune_interpreter

SIZES = (500, 2_500, *((20_000, 100_000) if os.environ.get("ROUNDS") == "long" else ()))
CHARGES, DAYS = 10, 30
MONTHS = 12
BACKTESTED = int(os.environ.get("TENANTS", "1000"))
NOW = datetime(2026, 12, 1, tzinfo=UTC)
MIDMONTH = datetime(2026, 11, 15, tzinfo=UTC)

PLAN = "slug: bench\nname: Bench\ncurrency: USD\ncharges:\n" + "".join(
    f"""
  - {{type: {kind}, key: c{number}, description: Model {number}, meter: tokens.{token_class},
     models: [m{number}], per: 1000000, {price}}}
"""
    for number in range(CHARGES)
    for kind, token_class, price in (
        (
            ("graduated", "output", 'tiers: [{up_to: "5000000", unit: "0.8"}, {unit: "0.6"}]')
            if number % 3 == 2
            else ("per_unit", "input", f'price: "0.{number + 1:02}"')
        ),
    )
)
DEARER = PLAN.replace("0.8", "0.9")

TENANTS = """
WITH made AS (
    INSERT INTO tenant (slug, name, legal_entity_id, zone, anchor_day, created_at)
    SELECT 't-' || n, 'T ' || n, (SELECT min(id) FROM legal_entity), 'UTC', 1, %(start)s
      FROM generate_series(%(first)s::int, %(last)s::int) AS n RETURNING id),
bound AS (
    INSERT INTO contract (tenant_id, plan_version_id, valid_from, created_at)
    SELECT id, (SELECT id FROM plan_version WHERE slug = 'bench'), %(start)s, %(start)s
      FROM made RETURNING id, tenant_id)
INSERT INTO price_version (tenant_id, contract_ids) SELECT tenant_id, ARRAY[id] FROM bound
"""
ROWS = """
INSERT INTO usage_rollup_day (tenant_id, day, meter_version_id, model_id, price_version_id,
                              project_id, key_id, kind, quantity, events, epoch)
SELECT p.tenant_id, d.day::date, v.id, m.id, p.id, 0, 0, 0,
       100000 + (p.tenant_id %% 97) * 1009, 10, 1
  FROM price_version p
 CROSS JOIN generate_series(%(since)s::date, %(until)s::date - 1, interval '1 day') AS d (day)
 CROSS JOIN unnest(%(models)s::text[], %(meters)s::text[]) AS c (model, meter)
  JOIN model m ON m.name = c.model JOIN meter_version v ON v.code = c.meter
 WHERE p.tenant_id > %(behind)s
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """Wall seconds, and processor seconds of this process and of the server's."""

    wall: float
    cpu: float
    server: float

    @property
    def both(self) -> float:
        return self.cpu + self.server


def timed(work: Callable[[], object], owner: psycopg.Connection | None = None) -> Timed:
    server = server_seconds(owner)
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Timed(wall=wall, cpu=cpu, server=server_seconds(owner) - server)


def server_seconds(owner: psycopg.Connection | None) -> float:
    """Processor seconds so far of the server's processes; this question's own is left out."""
    if owner is None:
        return 0.0
    rows = owner.execute("SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
    total = 0.0
    for (pid,) in rows.fetchall():
        with suppress(OSError):
            total += cpu_us(pid) / 1_000_000
    return total


def add_tenants(owner: psycopg.Connection, total: int, *, since: datetime) -> None:
    """Raise the number of tenants to `total`, each with usage of every day since."""
    row = owner.execute("SELECT count(*), coalesce(max(id), 0) FROM tenant").fetchone()
    assert row is not None
    start = datetime(2025, 12, 1, tzinfo=UTC)
    owner.execute(TENANTS, {"first": row[0] + 1, "last": total, "start": start})
    models = [f"m{number}" for number in range(CHARGES)]
    meters = ["tokens.output" if n % 3 == 2 else "tokens.input" for n in range(CHARGES)]
    owner.execute(
        "INSERT INTO model (name) SELECT unnest(%s::text[]) ON CONFLICT DO NOTHING", [models]
    )
    owner.execute(
        ROWS,
        {"since": since, "until": NOW, "models": models, "meters": meters, "behind": row[1]},
    )
    owner.execute("ANALYZE")


def november(database: Database) -> Iterator[list[TenantPeriod]]:
    """Everybody's billing period by pages; none is kept, so that memory is that of a page."""
    after = 0
    while True:
        with database.transaction(Role.OPERATOR) as connection:
            rows = query(
                connection,
                "SELECT id FROM tenant WHERE id > :after ORDER BY id LIMIT :most",
                after=after,
                most=PERIODS_AT_ONCE,
            )
            ids = [row.id for row in rows]
            if not ids:
                return
            after = ids[-1]
            periods = [
                (tenant, tenant.billing_period(MIDMONTH))
                for tenant in tenants_by_id(connection, ids)
            ]
            page = tenant_periods(connection, periods, bound_plans_of(connection, ids))
        yield page


def rate_page(database: Database, page: Sequence[TenantPeriod]) -> int:
    with database.transaction(Role.OPERATOR) as connection:
        return sum(
            len(rated.contracts[0].rating.lines)
            for rated in rate_tenants(connection, page, until=NOW, explained=False)
        )


def accrue_page(database: Database, page: Sequence[TenantPeriod]) -> int:
    with database.transaction(Role.OPERATOR) as connection:
        return sum(each.posted for each in accrue_tenants(connection, page, now=NOW))


def by_pages(
    owner: psycopg.Connection,
    database: Database,
    works: Sequence[Callable[[Database, Sequence[TenantPeriod]], int]],
    *,
    expected: Sequence[int],
) -> list[list[Timed]]:
    """What each of the works took of a page, page by page of everybody's billing period.

    The works follow each other on every page. Listing the pages is not in it.

    Args:
        expected: what the works have to find, all pages together.
    """
    found = [0] * len(works)
    took: list[list[Timed]] = [[] for _ in works]

    def one(number: int, page: Sequence[TenantPeriod]) -> None:
        found[number] += works[number](database, page)

    for page in november(database):
        assert len(page) == PERIODS_AT_ONCE
        for number in range(len(works)):
            took[number].append(timed(lambda n=number, p=page: one(n, p), owner))
    _require(found, list(expected))
    return took


def rates(name: str, turns: Sequence[Timed], *, baseline: str | None = None) -> list[Figure]:
    """Lines per CPU second, and what of a line's cost is whose."""
    lines = PERIODS_AT_ONCE * CHARGES
    cost = 1e6 / lines
    return [
        Figure.of_turns(
            name, [lines / turn.both for turn in turns], "lines/CPU s", baseline=baseline
        ),
        Figure.of_turns(
            f"  of it here, {name}", [cost * turn.cpu for turn in turns], "CPU us/line"
        ),
        Figure.of_turns(
            f"  of it in the server, {name}", [cost * turn.server for turn in turns], "CPU us/line"
        ),
    ]


def pure(database: Database) -> list[Figure]:
    """The arithmetic alone, in one process without a database."""
    with database.transaction(Role.OPERATOR) as connection:
        plan = require_plan(connection, "bench")
    used = [
        MeteredQuantity(
            meter="tokens.output" if n % 3 == 2 else "tokens.input",
            model=f"m{n}",
            quantity=Decimal(3_000_000 + n),
        )
        for n in range(CHARGES)
    ]
    figures: list[Figure] = []
    for explained, what in ((True, "rate() with its arithmetic in words"), (False, "rate() alone")):
        took = timed(lambda e=explained: [rate(plan, used, explained=e) for _ in range(500)])
        value = 500 * CHARGES / took.cpu
        figures.append(Figure(name=what, value=value, unit="lines/CPU s"))
    return figures


def sized(owner: psycopg.Connection, database: Database, size: int) -> list[Figure]:
    add_tenants(owner, size, since=datetime(2026, 11, 1, tzinfo=UTC))
    (took,) = by_pages(owner, database, [rate_page], expected=[size * CHARGES])
    first = f"read and rated, {SIZES[0]:,} tenants"
    return [
        *rates(
            f"read and rated, {size:,} tenants",
            took,
            baseline=None if size == SIZES[0] else first,
        ),
        memory(f"largest memory, {size:,} tenants"),
    ]


def memory(name: str) -> Figure:
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Figure(name=name, value=largest, unit="MiB")


def into_the_books(owner: psycopg.Connection, database: Database) -> list[Figure]:
    """Every tenant's first month; the same again, which writes nothing; and after more usage."""
    tenants = SIZES[-1]
    owner.execute("CHECKPOINT")
    first, again = by_pages(owner, database, [accrue_page, accrue_page], expected=[tenants, 0])
    written = postings(owner)
    owner.execute("UPDATE usage_rollup_day SET quantity = quantity + 1 WHERE day = '2026-11-15'")
    owner.execute("CHECKPOINT")
    more, last = by_pages(owner, database, [accrue_page, accrue_page], expected=[tenants, 0])
    _require(postings(owner), 2 * written)
    lines = PERIODS_AT_ONCE * CHARGES
    name = f"rated and posted, {tenants:,} tenants"
    return [
        *rates(name, first),
        Figure.of_turns("  by the clock, posted", [lines / t.wall for t in first], "lines/s"),
        *rates("rated again, nothing written", again, baseline=name),
        *rates("posted after more usage", more, baseline=name),
        *rates("rated again after that", last, baseline=name),
        memory("largest memory, posted"),
    ]


def postings(owner: psycopg.Connection) -> int:
    row = owner.execute("SELECT count(*) FROM posting").fetchone()
    assert row is not None
    return row[0]


def backtested(owner: psycopg.Connection, database: Database) -> list[Figure]:
    row = owner.execute("SELECT max(id) FROM tenant").fetchone()
    assert row is not None
    add_tenants(owner, SIZES[-1] + BACKTESTED, since=datetime(2025, 12, 1, tzinfo=UTC))
    names = owner.execute("SELECT slug FROM tenant WHERE id > %s", [row[0]]).fetchall()
    months = [(2025, 12), *((2026, number) for number in range(1, 12))]

    def compare() -> None:
        with database.transaction(Role.OPERATOR, snapshot=True) as connection:
            found = backtest(
                connection,
                plan=require_plan(connection, "dearer"),
                months=months,
                tenants=[slug for (slug,) in names],
                now=NOW,
            )
        assert len(found.periods) == BACKTESTED * MONTHS
        assert found.total().difference > 0

    took = timed(compare, owner)
    what = f"backtest of {BACKTESTED:,} tenants over {MONTHS} months"
    return [
        Figure(name=what, value=took.wall, unit="s"),
        Figure(name="of it processor time", value=took.cpu + took.server, unit="CPU s"),
    ]


def _require(found: object, expected: object) -> None:
    assert found == expected, (found, expected)


def main() -> int:
    tune_interpreter()
    with throwaway_server(fsync=True) as address:
        with psycopg.connect(address.owner_conninfo("postgres"), autocommit=True) as owner:
            owner.execute("CREATE DATABASE bench")
        migrate(address.owner_url("bench"))
        database = Database(address.app_url("bench"))
        world: World = make_world(database, datetime(2026, 11, 15, 12, tzinfo=UTC))
        world.plan(PLAN)
        world.plan(DEARER.replace("slug: bench", "slug: dearer"))
        with psycopg.connect(address.owner_conninfo("bench"), autocommit=True) as owner:
            figures = pure(database)
            for size in SIZES:
                figures += sized(owner, database, size)
            figures += into_the_books(owner, database)
            figures += backtested(owner, database)
        database.close()
    publish("rating", figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
