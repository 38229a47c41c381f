"""T1 and T2 by direct SQL: a tenant's transaction reaches its own rows, and no tenant reaches none.

Tables, columns and rights are read from the catalog, so that a table that is added later is held
to the same rules without anybody remembering this file.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

import psycopg
import pytest
import sqlalchemy as sa
from psycopg.errors import InsufficientPrivilege
from sqlalchemy.exc import DBAPIError

from billing.store.database import Database, Role, become, query
from billing.store.embedded.address import ServerAddress
from tests.store.full_world import FullWorld, make_full_world
from tests.world import PLAN, make_world

TENANT_READS = {
    "account", "account_balance", "api_key", "contract", "contract_terms", "invoice",
    "invoice_line", "invoice_mirror",
    "invoice_quantity", "invoice_scope", "invoice_settlement", "ledger_transaction",
    "outcome_claim", "outcome_transition", "parked_usage", "posting", "price_version",
    "project", "usage_carried_level", "usage_correction", "usage_event",
    "usage_rollup", "usage_rollup_day",
    "usage_run_total", "usage_attempt", "usage_step",
    "usage_dimension_rollup", "usage_dimension_rollup_day", "usage_property",
    "credit_balance", "credit_event", "credit_grant", "credit_reservation", "hold_event",
    "open_hold", "spend_limit",
    "top_up", "top_up_policy", "top_up_resolution",
    "backend_object", "batch_run", "spend_alert", "spend_threshold",
}  # fmt: skip
TENANT_WRITES = {
    ("api_key", "INSERT"),
    ("api_key", "UPDATE"),
    ("outcome_claim", "INSERT"),
    ("outcome_transition", "INSERT"),
    ("spend_threshold", "INSERT"),
    ("spend_threshold", "UPDATE"),
}


@pytest.fixture
def full(database: Database) -> FullWorld:
    return make_full_world(database)


@pytest.fixture
def owner(postgres: ServerAddress, database_name: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(postgres.owner_conninfo(database_name), autocommit=True) as connection:
        yield connection


def tables_of_tenants(owner: psycopg.Connection) -> list[str]:
    rows = owner.execute(
        "SELECT table_name FROM information_schema.columns JOIN information_schema.tables "
        "USING (table_schema, table_name) WHERE table_schema = 'public' "
        "AND table_type = 'BASE TABLE' AND column_name = 'tenant_id' ORDER BY 1"
    ).fetchall()
    return [name for (name,) in rows]


def tenants_seen(connection: sa.Connection, table: str) -> set[int | None] | None:
    """Whose rows a transaction sees in a table; None if it has no right to any column."""
    may_look = connection.execute(
        sa.text("SELECT has_any_column_privilege(CAST(:table AS text), 'SELECT')"), {"table": table}
    ).scalar_one()
    if not may_look:
        return None
    return set(connection.execute(sa.text(f"SELECT DISTINCT tenant_id FROM {table}")).scalars())


def test_T1_a_tenant_sees_its_own_rows_in_every_table(
    full: FullWorld, owner: psycopg.Connection
) -> None:
    # Written by the database alone, when a month leaves.
    owner.execute(
        "INSERT INTO usage_carried_level SELECT t.id, a.id, 1, 0, 0, 1, gen_random_uuid(), now(), "
        "1, 1, now(), 1 FROM tenant t CROSS JOIN usage_archive a"
    )
    tables = tables_of_tenants(owner)
    parts = ("usage_event_", "usage_key_", "usage_property_", "usage_attempt_", "usage_step_")
    partitions = {name for name in tables if name.startswith(parts)}
    for table in tables:
        if table not in partitions:
            rows = owner.execute(f"SELECT DISTINCT tenant_id FROM {table}".encode()).fetchall()
            assert {full.acme.id, full.birch.id} <= {tenant for (tenant,) in rows}, table
    seen: dict[str, set[int | None]] = {}
    with full.world.database.transaction(Role.TENANT, tenant_id=full.acme.id) as connection:
        for table in tables:
            found = tenants_seen(connection, table)
            if found is not None:
                seen[table] = found
    assert seen == {table: {full.acme.id} for table in TENANT_READS}


def test_T1_a_tenant_sees_only_itself_among_the_tenants(full: FullWorld) -> None:
    with full.world.database.transaction(Role.TENANT, tenant_id=full.birch.id) as connection:
        rows = connection.execute(sa.text("SELECT slug FROM tenant")).scalars().all()
    assert rows == ["birch"]


def test_T1_what_a_tenant_may_write_is_a_short_list(owner: psycopg.Connection) -> None:
    rows = owner.execute(
        "SELECT table_name, privilege_type FROM information_schema.column_privileges "
        "WHERE grantee = 'steelyard_tenant' AND privilege_type IN ('INSERT', 'UPDATE') UNION "
        "SELECT table_name, privilege_type FROM information_schema.table_privileges "
        "WHERE grantee IN ('steelyard_tenant', 'PUBLIC') AND table_schema = 'public' "
        "AND privilege_type NOT IN ('SELECT', 'INSERT', 'UPDATE')"
    ).fetchall()
    assert set(rows) == TENANT_WRITES


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(
            "INSERT INTO api_key (tenant_id, project_id, role, public, digest, name, created_at) "
            "SELECT :other, id, 'tenant', 'p', sha256('x'), '', now() FROM project",
            id="key-of-another-tenant",
        ),
        pytest.param(
            "INSERT INTO api_key (tenant_id, project_id, role, public, digest, name, created_at) "
            "VALUES (:own, :other_project, 'tenant', 'p', sha256('x'), '', now())",
            id="key-of-another-tenants-project",
        ),
        pytest.param(
            "INSERT INTO api_key (role, public, digest, name, created_at) "
            "VALUES ('operator', 'p', sha256('x'), '', now())",
            id="operator-key",
        ),
        pytest.param(
            "INSERT INTO outcome_claim VALUES (gen_random_uuid(), :other, 1, 'ticket-resolved', "
            "'stolen', now())",
            id="claim-of-another-tenant",
        ),
        pytest.param(
            "INSERT INTO outcome_transition VALUES (:other_claim, 3, :own, 'confirmed', "
            "'reported', 'tenant', 1, now(), NULL)",
            id="transition-of-another-tenants-claim",
        ),
    ],
)
def test_T1_a_tenant_cannot_write_what_concerns_another(
    full: FullWorld, owner: psycopg.Connection, write: str
) -> None:
    claim, project = owner.execute(
        "SELECT (SELECT id FROM outcome_claim WHERE tenant_id = %(t)s), "
        "(SELECT id FROM project WHERE tenant_id = %(t)s)",
        {"t": full.birch.id},
    ).fetchall()[0]
    values = {
        "own": full.acme.id,
        "other": full.birch.id,
        "other_claim": claim,
        "other_project": project,
    }
    statement = sa.text(write)
    with full.world.database.engine.connect() as connection, connection.begin():
        become(connection, Role.TENANT, tenant_id=full.acme.id)
        with pytest.raises(DBAPIError):
            connection.execute(statement, {name: values[name] for name in statement._bindparams})
        connection.rollback()


def test_T1_a_tenant_cannot_revoke_another_tenants_key(
    full: FullWorld, owner: psycopg.Connection
) -> None:
    with full.world.database.transaction(Role.TENANT, tenant_id=full.acme.id) as connection:
        touched = connection.execute(sa.text("UPDATE api_key SET revoked_at = now()")).rowcount
    assert touched == 1
    live = owner.execute("SELECT tenant_id FROM api_key WHERE revoked_at IS NULL").fetchall()
    assert set(live) == {(full.birch.id,), (None,)}  # the operator's lives too


def test_T2_a_tenant_transaction_without_a_tenant_sees_nothing(
    full: FullWorld, owner: psycopg.Connection
) -> None:
    with full.world.database.engine.connect() as connection, connection.begin():
        become(connection, Role.TENANT, tenant_id=None)
        seen = {
            table: found
            for table in tables_of_tenants(owner)
            if (found := tenants_seen(connection, table)) is not None
        }
        tenants = connection.execute(sa.text("SELECT count(*) FROM tenant")).scalar_one()
    assert seen == {table: set() for table in TENANT_READS}
    assert tenants == 0


def test_T2_a_tenant_is_forgotten_with_its_transaction(full: FullWorld) -> None:
    with full.world.database.engine.connect() as connection:
        with connection.begin():
            become(connection, Role.TENANT, tenant_id=full.acme.id)
        with connection.begin():
            connection.execute(sa.text("SET LOCAL ROLE steelyard_tenant"))
            assert connection.execute(sa.text("SELECT * FROM usage_event")).all() == []


def test_a_login_without_a_role_reads_and_writes_nothing(
    full: FullWorld, postgres: ServerAddress, database_name: str
) -> None:
    with psycopg.connect(postgres.app_conninfo(database_name), autocommit=True) as login:
        tables = login.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace "
            "AND relkind IN ('r', 'p', 'v', 'm', 'S')"
        ).fetchall()
        names = {name for (name,) in tables}
        assert len(names) > 40
        # Every process compares it with the schema that it was written for.
        assert login.execute("SELECT * FROM alembic_version").fetchall()
        for table in sorted(names - {"alembic_version"}):
            for attempt in (f"SELECT FROM {table}", f"DELETE FROM {table}", f"TRUNCATE {table}"):
                with pytest.raises(psycopg.Error) as refused:
                    login.execute(attempt.encode())
                # A view is refused as one, before any right is looked at.
                refusals = (
                    {"42501"} if attempt.startswith("SELECT") else {"42501", "42809", "55000"}
                )
                assert refused.value.sqlstate in refusals, attempt
        with pytest.raises(InsufficientPrivilege):
            login.execute("CREATE TABLE mine (id integer)")
        with pytest.raises(InsufficientPrivilege):
            login.execute("SET ROLE steelyard_owner")


def test_only_two_roles_make_partitions(full: FullWorld) -> None:
    made: dict[Role, bool] = {}
    for role in Role:
        tenant_id = full.acme.id if role is Role.TENANT else None
        try:
            with full.world.database.transaction(role, tenant_id=tenant_id) as connection:
                connection.execute(sa.text("SELECT ensure_usage_partitions('2040-01-01Z', 0)"))
            made[role] = True
        except DBAPIError:
            made[role] = False
    assert made == {
        Role.INGEST: True,
        Role.TENANT: False,
        Role.OPERATOR: False,
        Role.MAINTAINER: True,
    }


def test_T1_a_tenant_reads_only_the_plans_that_it_is_bound_to(
    database: Database, now: datetime
) -> None:
    world = make_world(database, now)
    acme = world.tenant("acme")
    world.plan(PLAN.replace("slug: standard", "slug: negotiated"))
    other = world.tenant("other", plan="negotiated")
    seen = {}
    for tenant in (acme, other):
        with database.transaction(Role.TENANT, tenant_id=tenant.id) as connection:
            seen[tenant.slug] = [
                row.slug for row in query(connection, "SELECT slug FROM plan_version")
            ]
    assert seen == {"acme": ["standard"], "other": ["negotiated"]}
