"""Migrations: one line of revisions, up from nothing, down to nothing, and every step both ways."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.script import ScriptDirectory

from billing.store.embedded.address import ServerAddress
from billing.store.migrate import configuration, migrate
from billing.store.schema_version import current_revision, newest_revision

# An object that the schema owns, by kind: what stands here in no order is the whole schema.
OBJECTS = """
SELECT 'relation', c.relname, c.relkind::text, coalesce(
         (SELECT string_agg(a.attname || ' ' || format_type(a.atttypid, a.atttypmod)
                            || CASE WHEN a.attnotnull THEN ' not null' ELSE '' END, ', '
                            ORDER BY a.attnum)
            FROM pg_attribute a
           WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), ''),
       c.relrowsecurity::text, coalesce(array_to_string(c.relacl, ' '), '')
  FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace
UNION ALL
SELECT 'function', p.proname, p.prosecdef::text, pg_get_functiondef(p.oid),
       coalesce(array_to_string(p.proconfig, ' '), ''), coalesce(array_to_string(p.proacl, ' '), '')
  FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace AND p.prokind = 'f'
UNION ALL
SELECT 'type', t.typname, t.typtype::text, '', '', '' FROM pg_type t
 WHERE t.typnamespace = 'public'::regnamespace AND t.typtype IN ('e', 'd')
UNION ALL
SELECT 'constraint', conname, conrelid::regclass::text, pg_get_constraintdef(oid), '', ''
  FROM pg_constraint WHERE connamespace = 'public'::regnamespace
UNION ALL
SELECT 'trigger', tgname, tgrelid::regclass::text, pg_get_triggerdef(oid), '', ''
  FROM pg_trigger WHERE NOT tgisinternal
UNION ALL
SELECT 'policy', policyname, tablename, roles::text, coalesce(qual, ''), coalesce(with_check, '')
  FROM pg_policies WHERE schemaname = 'public'
UNION ALL
SELECT 'index', indexname, tablename, indexdef, '', '' FROM pg_indexes WHERE schemaname = 'public'
"""

_numbers = count(1)

Schema = set[tuple[str, ...]]


@pytest.fixture
def empty(postgres: ServerAddress) -> Iterator[str]:
    """Name of a database with nothing in it."""
    name = f"migrated_{next(_numbers)}"
    with psycopg.connect(postgres.owner_conninfo("postgres"), autocommit=True) as owner:
        owner.execute(f"CREATE DATABASE {name}".encode())
        yield name
        owner.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def schema(postgres: ServerAddress, database: str) -> Schema:
    with psycopg.connect(postgres.owner_conninfo(database)) as owner:
        return schema_over(owner)


def schema_over(owner: psycopg.Connection) -> Schema:
    """Everything that the schema owns, and the meters that exist without being declared."""
    found: Schema = {tuple(row) for row in owner.execute(OBJECTS).fetchall()}
    if ("relation", "meter_version") in {row[:2] for row in found}:
        rows = owner.execute("SELECT 'meter', code FROM meter_version").fetchall()
        found |= {tuple(row) for row in rows}
    return found


def move(url: str, revision: str, *, down: bool = False) -> None:
    """Step as the owner; `migrate` itself only goes up."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    config = configuration()
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        (command.downgrade if down else command.upgrade)(config, revision)
        connection.commit()
    engine.dispose()


def revisions() -> list[str]:
    """Revisions, oldest first."""
    script = ScriptDirectory.from_config(configuration())
    return [step.revision for step in script.walk_revisions()][::-1]


def test_there_is_one_line_of_revisions() -> None:
    script = ScriptDirectory.from_config(configuration())
    assert script.get_heads() == [newest_revision()]
    assert script.get_bases() == [revisions()[0]]
    for step in script.walk_revisions():
        assert not step.is_branch_point
        assert not step.is_merge_point


def test_files_are_named_by_their_revisions_in_order() -> None:
    script = ScriptDirectory.from_config(configuration())
    files = sorted(Path(script.versions).glob("2*.py"))
    names = [re.fullmatch(r"(\d{8}_\d{4})_[a-z0-9_]+", file.stem) for file in files]
    assert [name[1] if name else None for name in names] == revisions()
    for step in script.walk_revisions():
        assert step.doc, step.revision


def test_up_from_nothing_down_to_nothing_and_up_again(postgres: ServerAddress, empty: str) -> None:
    url = postgres.owner_url(empty)
    nothing = schema(postgres, empty)
    assert nothing == set()
    assert current_revision(postgres.owner_url(empty)) is None

    assert migrate(url) == revisions()
    first = schema(postgres, empty)
    assert ("relation", "usage_event") in {row[:2] for row in first}
    assert current_revision(url) == newest_revision()
    assert migrate(url) == []
    assert schema(postgres, empty) == first

    move(url, "base", down=True)
    # Only the table in which Alembic writes down where it is, and it is empty.
    assert {row[1] for row in schema(postgres, empty) if row[0] == "relation"} == {
        "alembic_version",
        "alembic_version_pkc",
    }
    assert {row[0] for row in schema(postgres, empty)} <= {"relation", "constraint", "index"}
    assert current_revision(url) is None

    assert migrate(url) == revisions()
    assert schema(postgres, empty) == first


def test_every_revision_goes_up_down_and_up(postgres: ServerAddress, empty: str) -> None:
    url = postgres.owner_url(empty)
    move(url, revisions()[0])
    # One connection reads them all: each new one would have to learn the whole catalog first.
    with psycopg.connect(postgres.owner_conninfo(empty), autocommit=True) as owner:
        before = schema_over(owner)
        for revision in revisions()[1:]:
            move(url, revision)
            after = schema_over(owner)
            assert after != before, revision
            move(url, "-1", down=True)
            assert schema_over(owner) == before, revision
            move(url, revision)
            assert schema_over(owner) == after, revision
            before = after


def test_processes_that_start_together_migrate_once(postgres: ServerAddress, empty: str) -> None:
    url = postgres.owner_url(empty)
    with ThreadPoolExecutor(3) as threads:
        applied = list(threads.map(lambda _: migrate(url), range(3)))
    assert sorted(map(len, applied)) == [0, 0, len(revisions())]


def test_a_migrated_database_has_what_events_need_first(
    postgres: ServerAddress, database_name: str
) -> None:
    with psycopg.connect(postgres.owner_conninfo(database_name)) as owner:
        meters = owner.execute("SELECT code FROM meter_version ORDER BY id").fetchall()
        partition = owner.execute(
            "SELECT to_regclass('usage_event_' || to_char(now() AT TIME ZONE 'UTC', 'YYYYMM'))"
        ).fetchall()
    assert [code for (code,) in meters] == [
        "tokens.input", "tokens.cached_input", "tokens.cache_write", "tokens.output", "requests",
        "images", "audio.seconds", "speech.characters", "rerank.searches",
    ]  # fmt: skip
    assert partition != [(None,)]
