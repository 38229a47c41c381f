"""No statement in the path of requests, of shipping or of a tenant's portal reads a history.

The statements are those that the operations really run, and PostgreSQL tells how it ran each, so
neither list can go stale. Whatever grows is large here, and one of twenty tenants asks: a statement
may look at what is his, and at a tenth of a table at most.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import httpx
import psycopg
import pytest
from psycopg import sql

from api.proxy.control.snapshots import Control
from billing.admission.binding import Binding, ObjectKind
from billing.admission.lease_book import Wanted
from billing.admission.limit import Unit, Window
from billing.metering.correction import Correction
from billing.metering.event_id import microseconds
from billing.operations.metering.correct_usage import correct_usage
from billing.operations.metering.ship_journal import JournalShipper
from billing.operations.rating.accrue_due import due_tenants, note_changes, rating_lag
from billing.operations.stored_objects import bindings
from billing.operations.tenancy.keys import IssuedKey, issue_key
from billing.planfiles.backend_file import BackendModel, BackendSpec
from billing.settings import Settings
from billing.store import leases
from billing.store.database import Database, Role
from billing.store.embedded.address import ServerAddress
from billing.tenancy.api_key import Role as KeyRole
from tests.api.control.conftest import Clock, serving
from tests.api.control.test_access import FILLED
from tests.conftest import TEMPLATE
from tests.faults.workloads import FULL
from tests.operations.crash_points import write_journal
from tests.operations.lease_world import LeasingProcess, make_limit
from tests.store.filled_world import FilledWorld, make_filled_world, operations
from tests.store.query_plans import Watch, watched
from tests.world import usage_report

EVENTS = 1_000_000 if FULL else 50_000
OVER = 100_000 if FULL else 10_000
ROOM = 1_000
"""Rows that any statement may look at."""
DATABASE = "steelyard_filled"
OPENAPI = Path(__file__).resolve().parents[2] / "openapi" / "steelyard.json"
NOT_A_TENANTS = (
    "/api/v1/operator", "/api/v1/books", "/api/v1/exports", "/api/v1/margin", "/metrics",
)  # fmt: skip
# As many rows as there are tenants, meters, models and processes, and as much as is open now.
REGISTERS = {
    "account", "accrual_due", "accrual_turn", "alembic_version", "backend", "contract",
    "contract_terms", "journal_cursor",
    "ledger_epoch", "legal_entity", "meter_set", "meter_version", "model", "open_hold",
    "outcome_definition",
    "plan_version", "price_version", "project", "seal_key", "seal_tree", "spend_limit",
    "spend_threshold",
    "stripe_customer", "tenant", "top_up_policy", "usage_archive", "usage_horizon", "usage_shape",
    "usage_source",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A database with a history.

    Attributes:
        key: of the first tenant.
        sizes: rows by table.
    """

    owner_conninfo: str
    app_url: str
    filled: FilledWorld
    key: IssuedKey
    sizes: dict[str, int]

    def tail(self, folder: Path) -> str:
        """What makes the names of one test its own."""
        return folder.name.replace("_", "-")


@pytest.fixture(scope="module")
def place(postgres: ServerAddress) -> Iterator[Place]:
    name = sql.Identifier(DATABASE)
    with psycopg.connect(postgres.owner_conninfo("postgres"), autocommit=True) as owner:
        owner.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(name, sql.Identifier(TEMPLATE))
        )
        try:
            yield filled_place(postgres)
        finally:
            owner.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))


def filled_place(postgres: ServerAddress) -> Place:
    owner_conninfo, app_url = postgres.owner_conninfo(DATABASE), postgres.app_url(DATABASE)
    database = Database(app_url)
    filled = make_filled_world(database, owner_conninfo, events=EVENTS, over=OVER)
    now = filled.world.now
    with database.transaction(Role.OPERATOR) as connection:
        slug = filled.tenants[0].slug
        key = issue_key(connection, role=KeyRole.TENANT, tenant=slug, name="portal", now=now)
    database.close()
    with psycopg.connect(owner_conninfo, autocommit=True) as owner:
        rows = owner.execute(
            "SELECT coalesce(i.inhparent, c.oid)::regclass::text, sum(greatest(c.reltuples, 0)) "
            "FROM pg_class c LEFT JOIN pg_inherits i ON i.inhrelid = c.oid "
            "WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' GROUP BY 1"
        ).fetchall()
    sizes = {str(table): int(size) for table, size in rows}
    return Place(
        owner_conninfo=owner_conninfo, app_url=app_url, filled=filled, key=key, sizes=sizes
    )


def ship(place: Place, database: Database, folder: Path) -> None:
    """A journal, a report from outside that comes twice, and a correction of it."""
    filled, now = place.filled, place.filled.world.now
    write_journal(folder, list(operations(filled.whose, 60, seed=len(folder.name))))
    shipper = JournalShipper(database, folder)
    assert shipper.ship(now=now).events > 0
    shipper.prune(now=now + timedelta(days=9))
    report = usage_report(foreign_id="late", occurred_at=now)
    unknown = usage_report(foreign_id="unknown", meter="unknown", occurred_at=now)
    tenant = filled.tenants[0]
    reporting = type(filled.world)(database=database, now=now)
    first, _ = reporting.report(tenant, report, unknown)
    (again, _) = reporting.report(tenant, report, unknown)
    assert again.event_id == first.event_id
    assert first.event_id is not None
    void = Correction(corrects=first.event_id, source="desk", foreign_id="v", reason="twice")
    with database.transaction(Role.OPERATOR) as connection:
        correct_usage(connection, void, tenant_id=tenant.id, actor="ada", now=now)


def admit(place: Place, database: Database, folder: Path) -> None:
    """What a proxy asks for beside the path of requests, and what it asks for ids of backends."""
    now, tenant = place.filled.world.now, place.filled.tenants[0]
    asyncio.run(take_snapshots(place, database))
    limit = make_limit(
        database, tenant, place.tail(folder), "100", now=now, unit=Unit.REQUESTS, span=Window.MINUTE
    )
    process = LeasingProcess(database=database, instance=f"proxy-{place.tail(folder)}")
    held = process.admit([Wanted(limit=limit, amount=1, blocks=True)], now, chunk=4)
    assert held is not None
    process.renew(now)
    with database.transaction(Role.INGEST) as connection:
        leases.draw(connection, {process.book.leases[limit.id].id: 1}, now=now)
    process.book.release(held, {})
    process.give_back(limit, now)
    with database.transaction(Role.OPERATOR) as connection:
        leases.sweep(connection, now=now + timedelta(days=1))
    keep_objects(place, database)


async def take_snapshots(place: Place, database: Database) -> None:
    models = (BackendModel(name="tiny"),)
    backend = BackendSpec(name="pool-a", url="http://127.0.0.1:9", engine="vllm", models=models)
    control = await Control.start(
        database, database.conninfo(), [backend], now=lambda: place.filled.world.now
    )
    assert control.snapshot.terms
    await control.look_up(bytes(32))
    await control.stop()


def keep_objects(place: Place, database: Database) -> None:
    now, tenant = place.filled.world.now, place.filled.tenants[0]
    bound = Binding(
        kind=ObjectKind.FILE,
        backend="pool-a",
        object_id="file-new",
        tenant_id=tenant.id,
        project_id=tenant.id,
        key_id=1,
        model_id=None,
        created_at_us=microseconds(now),
    )
    with database.transaction(Role.OPERATOR) as connection:
        bindings.bind(connection, [bound])
        found = bindings.find(
            connection, tenant_id=tenant.id, kind=bound.kind, object_id=bound.object_id
        )
        assert found is not None
        for after in (None, bound.object_id):
            bindings.page(connection, tenant_id=tenant.id, kind=bound.kind, after=after, limit=20)
        bindings.forget(connection, bound, now=now)


def read_portal(place: Place, database: Database, folder: Path) -> None:
    """Everything that a tenant can read, as the published document lists it."""
    del folder
    paths = json.loads(OPENAPI.read_text())["paths"]
    asked = {path: path_of["get"] for path, path_of in paths.items() if "get" in path_of}
    headers = {"authorization": f"Bearer {place.key.text}"}
    with (
        serving(database, Settings(), Clock(place.filled.world.now)) as url,
        httpx.Client(base_url=url, headers=headers, timeout=60) as client,
    ):
        sealed = client.get("/api/v1/usage/requests").json()[-1]["request_id"]
        known = {
            **FILLED,
            "request_id": sealed,
            "invoice": "OLD-20",
            "line": 1,
            "currency": "USD",
            "from": 1,
        }
        for path, operation in asked.items():
            if path.startswith(NOT_A_TENANTS):
                continue
            needed = [one for one in operation.get("parameters", []) if one["required"]]
            query = {one["name"]: known[one["name"]] for one in needed if one["in"] == "query"}
            answer = client.get(path.format(**known), params=query)
            # No contract is behind the invoices of the filled world: their lines count no usage.
            counts_none = answer.status_code == 409 and "/lines/" in path
            assert answer.status_code == 200 or counts_none, (path, answer.text)


def find_changes(place: Place, database: Database, folder: Path) -> None:
    """Who is to be rated again: of what changed since the last turn."""
    now = place.filled.world.now
    reporting = type(place.filled.world)(database=database, now=now)
    for number, tenant in enumerate(place.filled.tenants[:2]):
        report = usage_report(foreign_id=f"new-{number}", occurred_at=now)
        reporting.report(tenant, report)
    with database.transaction(Role.OPERATOR) as connection:
        assert note_changes(connection, now=now) >= 2
        assert due_tenants(connection, now=now, most=10)
        rating_lag(connection, now=now)


# Changes first: what the others ship is a day's usage of everybody, and all of it would be new.
@pytest.mark.parametrize("work", [find_changes, ship, admit, read_portal])
def test_nothing_reads_a_history(
    place: Place, tmp_path: Path, work: Callable[[Place, Database, Path], None]
) -> None:
    with watched(place.owner_conninfo, DATABASE) as watch:
        database = Database(place.app_url)
        try:
            work(place, database, tmp_path)
        finally:
            database.close()
    assert len(watch.statements) > 20
    require_selective(watch, place.sizes)


HIDDEN = "DO 'BEGIN PERFORM count(*) FROM usage_event WHERE duration_us = 1; END'"


@pytest.mark.parametrize("statement", ["SELECT count(*) FROM usage_rollup", HIDDEN])
def test_what_reads_a_history_is_seen(place: Place, statement: str) -> None:
    """Also inside a function."""
    with watched(place.owner_conninfo, DATABASE) as watch:
        database = Database(place.app_url)
        with database.transaction(Role.OPERATOR) as connection:
            connection.exec_driver_sql(statement)
        database.close()
    with pytest.raises(AssertionError, match=r"Seq Scan|Index Only Scan"):
        require_selective(watch, place.sizes)


def require_selective(watch: Watch, sizes: dict[str, int]) -> None:
    """Nothing looks at more than a tenth of what grows; and what grows has grown here."""
    touched = {scan.table for scan in watch.scans} - REGISTERS
    small = {table: sizes[table] for table in touched if sizes[table] < 2 * ROOM}
    assert small == {}
    read = {
        (scan.table, scan.kind, scan.rows, scan.statement)
        for scan in watch.scans
        if scan.rows > max(ROOM, sizes[scan.table] // 10)
    }
    assert not read, read
