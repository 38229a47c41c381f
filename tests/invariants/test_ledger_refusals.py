"""L2 by direct SQL, by every way round it: other statements, partitions, other roles, the guards.

Tables, partitions, functions and roles are read from the catalog. A table is a ledger if the
append-only trigger is on it; every other table is named in `MAY_CHANGE`, so that a table that
nobody classified fails here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import psycopg
import pytest
from psycopg import sql

from billing.store.database import Database, Role
from billing.store.embedded.address import ServerAddress
from tests.store.full_world import FullWorld, make_full_world
from tests.store.test_append_only import MAY_CHANGE

REFUSED_TO_ROLE = "42501"
"""insufficient_privilege"""

CHANGES = (
    "UPDATE {table} SET {column} = {column}",
    "UPDATE ONLY {table} SET {column} = {column} WHERE false",
    "DELETE FROM {table}",
    "DELETE FROM ONLY {table} WHERE false",
    "TRUNCATE {table}",
    "TRUNCATE ONLY {table} CASCADE",
    "WITH gone AS (DELETE FROM {table} RETURNING 1) SELECT count(*) FROM gone",
    "COPY (DELETE FROM {table} RETURNING 1) TO STDOUT",
    "COPY (UPDATE {table} SET {column} = {column} RETURNING 1) TO STDOUT",
    "MERGE INTO {table} USING (SELECT) AS s ON true WHEN MATCHED THEN DELETE",
    (
        "MERGE INTO {table} USING (SELECT) AS s ON true WHEN MATCHED THEN UPDATE "
        "SET {column} = {column}"
    ),
    (
        "INSERT INTO {table} ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} FROM {table} "
        "WHERE false "
        "ON CONFLICT ({key}) DO UPDATE SET {column} = excluded.{column}"
    ),
    "DROP TABLE {table}",
    "ALTER TABLE {table} DISABLE TRIGGER append_only",
    "ALTER TABLE {table} DISABLE TRIGGER ALL",
    "ALTER TABLE {table} DISABLE ROW LEVEL SECURITY",
    "ALTER TABLE {table} ALTER COLUMN {column} DROP NOT NULL",
    "ALTER TABLE {table} OWNER TO CURRENT_USER",
    "DROP TRIGGER append_only ON {table}",
    "CREATE OR REPLACE RULE nothing AS ON INSERT TO {table} DO INSTEAD NOTHING",
    "CREATE POLICY open ON {table} USING (true)",
    "CREATE INDEX ON {table} ({column})",
    "LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE",
    "SELECT FROM {table} FOR UPDATE",
    "CREATE TRIGGER mine BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION refuse_change()",
    "CREATE TEMP TABLE mine () INHERITS ({table})",
    "CREATE TEMP VIEW mine AS SELECT * FROM {table}; DELETE FROM mine",
    "ALTER TABLE {table} RENAME TO mine",
    "ALTER TABLE {table} RENAME COLUMN {column} TO mine",
    "ALTER TABLE {table} ALTER COLUMN {column} SET DEFAULT NULL",
    "ALTER TABLE {table} SET SCHEMA pg_temp",
    "ALTER TABLE {table} SET UNLOGGED",
    "ALTER TABLE {table} REPLICA IDENTITY NOTHING",
    "COMMENT ON TABLE {table} IS 'mine'",
    "PREPARE of_{table} AS DELETE FROM {table}; EXECUTE of_{table}",
    "EXPLAIN ANALYZE DELETE FROM {table}",
    (
        "DECLARE mine CURSOR FOR SELECT * FROM {table}; MOVE mine; "
        "DELETE FROM {table} WHERE CURRENT OF mine"
    ),
    "DO $$ BEGIN DELETE FROM {table}; EXCEPTION WHEN unique_violation THEN NULL; END $$",
)
"""Each of them changes what a table holds, or what guards it."""

ESCAPES = (
    "SET LOCAL session_replication_role = replica",
    "SELECT set_config('session_replication_role', 'replica', true)",
    "ALTER DATABASE {database} SET session_replication_role = replica",
    "ALTER ROLE CURRENT_USER SUPERUSER",
    "ALTER ROLE CURRENT_USER BYPASSRLS",
    "SET SESSION AUTHORIZATION {owner}",
    (
        "CREATE OR REPLACE FUNCTION public.refuse_change() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN RETURN NULL; END'"
    ),
    "DROP FUNCTION public.refuse_change() CASCADE",
    "ALTER FUNCTION public.refuse_change() OWNER TO CURRENT_USER",
    "CREATE FUNCTION public.mine() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
    "CREATE TABLE public.mine (id integer)",
    "CREATE SCHEMA mine",
    "CREATE EXTENSION dblink",
    "DROP SCHEMA public CASCADE",
    "COPY (SELECT 1) TO PROGRAM 'cat'",
    "COPY (SELECT 1) TO '/tmp/ledger'",
    "SELECT pg_read_file('postgresql.conf')",
    "SELECT lo_export(1, '/tmp/ledger')",
    "UPDATE pg_catalog.pg_trigger SET tgenabled = 'D'",
    "DELETE FROM pg_catalog.pg_trigger WHERE tgname = 'append_only'",
    "CREATE EVENT TRIGGER mine ON ddl_command_start EXECUTE FUNCTION refuse_change()",
    "ALTER FUNCTION public.transaction_balances() RESET search_path",
    "ALTER FUNCTION public.ensure_usage_partitions(timestamptz, integer) SECURITY INVOKER",
    "ALTER TABLE public.usage_event DETACH PARTITION public.usage_event_202611",
    "GRANT steelyard_operator TO steelyard_tenant",
    "REASSIGN OWNED BY {owner} TO CURRENT_USER",
    "SET LOCAL ROLE {owner}",
    "DO $$ BEGIN EXECUTE 'SET session_replication_role = replica'; END $$",
)
"""Each of them would end in a session that no trigger and no policy binds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table with one of its columns, all that are written, and those of its primary key."""

    name: str
    column: str
    columns: str
    key: str


@pytest.fixture
def owner(postgres: ServerAddress, database_name: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(postgres.owner_conninfo(database_name), autocommit=True) as connection:
        yield connection


@pytest.fixture
def login(postgres: ServerAddress, database_name: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(postgres.app_conninfo(database_name), autocommit=True) as connection:
        yield connection


def guarded(owner: psycopg.Connection) -> list[Table]:
    """The tables that the append-only trigger guards, partitions included."""
    rows = owner.execute(
        "SELECT c.relname, "
        "(SELECT a.attname FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 "
        " AND NOT a.attisdropped AND a.attidentity = '' AND a.attgenerated = '' LIMIT 1), "
        "(SELECT string_agg(a.attname, ', ') FROM pg_attribute a WHERE a.attrelid = c.oid "
        " AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''), "
        "(SELECT string_agg(a.attname, ', ' ORDER BY a.attnum) FROM pg_index i "
        " JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY (i.indkey) "
        " WHERE i.indrelid = c.oid AND i.indisprimary) "
        "FROM pg_class c JOIN pg_trigger t ON t.tgrelid = c.oid AND t.tgname = 'append_only' "
        "AND t.tgfoid = 'refuse_change'::regproc AND t.tgenabled IN ('O', 'A') "
        # BEFORE, by statement, on DELETE, UPDATE and TRUNCATE, without a condition.
        "AND t.tgtype = 2 + 8 + 16 + 32 AND t.tgqual IS NULL AND t.tgattr = '' "
        "WHERE c.relnamespace = 'public'::regnamespace ORDER BY 1"
    ).fetchall()
    return [
        Table(name=name, column=column, columns=columns, key=key)
        for name, column, columns, key in rows
    ]


def refusal(login: psycopg.Connection, role: str, tenant: int, statement: str) -> str | None:
    """The code with which a statement is refused to a role, or None if it was carried out."""
    try:
        with login.transaction(force_rollback=True):
            login.execute("SELECT set_config('steelyard.tenant_id', %s, true)", (str(tenant),))
            login.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(role)))
            if statement.startswith("COPY") and statement.endswith("STDOUT"):
                with login.cursor() as cursor, cursor.copy(statement.encode()) as copy:
                    copy.read()
            else:
                login.execute(statement.encode())
    except psycopg.Error as error:
        return error.sqlstate
    return None


def test_L2_every_table_is_a_ledger_or_named_as_none(owner: psycopg.Connection) -> None:
    rows = owner.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace "
        "AND relkind IN ('r', 'p') AND relname NOT LIKE 'procrastinate%'"
    ).fetchall()
    ledgers = {table.name for table in guarded(owner)}
    assert {"usage_event", "usage_key", "posting", "ledger_transaction"} <= ledgers
    assert ledgers | MAY_CHANGE == {name for (name,) in rows}
    assert not ledgers & MAY_CHANGE


def test_L2_a_partition_is_guarded_as_its_table_is(owner: psycopg.Connection) -> None:
    ledgers = {table.name for table in guarded(owner)}
    rows = owner.execute(
        "SELECT p.relname, c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid "
        "JOIN pg_class p ON p.oid = i.inhparent WHERE p.relkind = 'p' "
        "AND p.relnamespace = 'public'::regnamespace"
    ).fetchall()
    assert len(rows) > 8
    for table, partition in rows:
        assert (table in ledgers) == (partition in ledgers), partition
        grants = owner.execute(
            "SELECT FROM information_schema.role_table_grants WHERE table_name = %s "
            "AND grantee IN ('PUBLIC', 'steelyard_app') OR table_name = %s "
            "AND grantee LIKE 'steelyard%%' AND privilege_type <> 'SELECT' "
            "AND NOT EXISTS (SELECT FROM pg_roles WHERE rolname = grantee AND rolcanlogin)",
            (partition, partition),
        ).fetchall()
        # Rights come through the table, with its policies; a partition has none of its own.
        assert grants == [], partition


@pytest.mark.parametrize("role", Role)
def test_L2_no_statement_of_a_role_changes_a_ledger_or_its_guard(
    database: Database, owner: psycopg.Connection, login: psycopg.Connection, role: Role
) -> None:
    full = make_full_world(database)
    ledgers = guarded(owner)
    before = contents(owner, ledgers)
    allowed: list[tuple[str, str | None]] = []
    for table in ledgers:
        for change in CHANGES:
            if "{key}" in change and not table.key:
                continue
            statement = change.format(table=table.name, **asdict(table))
            code = refusal(login, role, full.acme.id, statement)
            if code != REFUSED_TO_ROLE and not partition_itself(code, change):
                allowed.append((statement, code))
    assert allowed == []
    assert contents(owner, ledgers) == before


def partition_itself(code: str | None, change: str) -> bool:
    """A partitioned table refuses some statements whoever asks."""
    return code == "42809" and ("TRUNCATE ONLY" in change or "INHERITS" in change)


def contents(owner: psycopg.Connection, tables: list[Table]) -> dict[str, list[tuple[str]]]:
    return {
        table.name: owner.execute(
            f"SELECT t::text FROM {table.name} t ORDER BY 1".encode()
        ).fetchall()
        for table in tables
    }


@pytest.mark.parametrize("role", [*Role, "steelyard_app"])
def test_L2_no_role_frees_itself_of_the_guards(
    database: Database, owner: psycopg.Connection, login: psycopg.Connection, role: str
) -> None:
    full: FullWorld = make_full_world(database)
    names = {"database": owner.info.dbname, "owner": owner.info.user}
    for escape in ESCAPES:
        code = refusal(login, role, full.acme.id, escape.format(**names))
        assert code == REFUSED_TO_ROLE, escape


def test_L2_a_session_takes_on_the_four_roles_and_no_other(
    owner: psycopg.Connection, login: psycopg.Connection
) -> None:
    every = {name for (name,) in owner.execute("SELECT rolname FROM pg_roles").fetchall()}
    assert len(every) > len(Role) + 5
    for start in Role:
        reached = set[str]()
        for name in sorted(every):
            statement = sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(name)).as_string(owner)
            if refusal(login, start, 0, statement) is None:
                reached.add(name)
        assert reached == {*(role.value for role in Role), "steelyard_app"}
    rows = owner.execute(
        "SELECT rolname FROM pg_roles WHERE rolname = ANY (%s) "
        "AND (rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb OR rolreplication)",
        ([*(role.value for role in Role), "steelyard_app"],),
    ).fetchall()
    assert rows == []
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        login.execute("ALTER SYSTEM SET session_replication_role = replica")


def test_L2_what_runs_with_the_owners_rights_cannot_be_bent(owner: psycopg.Connection) -> None:
    rows = owner.execute(
        "SELECT proname, prorettype = 'trigger'::regtype, coalesce(proconfig, '{}'), "
        "EXISTS (SELECT FROM aclexplode(coalesce(proacl, acldefault('f', proowner))) "
        "        WHERE grantee = 0) "
        "FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND prosecdef"
    ).fetchall()
    assert rows
    for name, is_trigger, settings, everybody in rows:
        paths = [setting for setting in settings if setting.startswith("search_path=")]
        # A search path of the caller's choice would let it put its own function in between.
        assert paths, name
        assert paths[0].removeprefix("search_path=").startswith("pg_catalog"), name
        # Left out, the session's own temporary schema would come first, with types in it.
        assert paths[0].endswith(", pg_temp"), name
        # A trigger's function cannot be called; any other one is for those who are named.
        assert is_trigger or not everybody, name
