"""One PostgreSQL for the whole run, one database per test, made from a migrated template."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import psycopg
import pytest
import structlog
from psycopg import sql

from billing.store.database import Database
from billing.store.embedded.address import ServerAddress
from billing.store.embedded.throwaway import throwaway_server
from billing.store.migrate import migrate
from tests.memory_folder import folder_in_memory

TEMPLATE = "steelyard_template"

FIRST = ("tests/e2e/test_up.py", "tests/api/proxy/limits/test_prepaid_processes.py")
"""Minutes of few tests, for which everybody would wait if they were dealt out last."""

_numbers = count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Deal files out by the number of their tests, but for those to begin with."""
    tests = Counter(item.path for item in items)
    first = [Path(__file__).parents[1] / file for file in FIRST]
    items.sort(key=lambda item: (item.path not in first, -tests[item.path]))


@pytest.fixture(autouse=True)
def unconfigured_logs() -> Iterator[None]:
    """A command that ran in this process leaves logs pointing at its own, closed, output."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def postgres() -> Iterator[ServerAddress]:
    """A throwaway server with a migrated database to copy."""
    with throwaway_server(fsync=False, parent=folder_in_memory()) as address:
        with psycopg.connect(address.owner_conninfo("postgres"), autocommit=True) as owner:
            owner.execute(f"CREATE DATABASE {TEMPLATE}")
        migrate(address.owner_url(TEMPLATE))
        yield address


@contextmanager
def migrated_copy(postgres: ServerAddress) -> Iterator[str]:
    """The name of a migrated database that nobody else uses."""
    name = f"test_{next(_numbers)}"
    with psycopg.connect(postgres.owner_conninfo("postgres"), autocommit=True) as owner:
        owner.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY").format(
                sql.Identifier(name), sql.Identifier(TEMPLATE)
            )
        )
        yield name
        owner.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def database_name(postgres: ServerAddress) -> Iterator[str]:
    """A migrated database of the test's own."""
    with migrated_copy(postgres) as name:
        yield name


@pytest.fixture
def database(postgres: ServerAddress, database_name: str) -> Generator[Database]:
    """The test's database as processes reach it: a login without rights, roles per transaction."""
    opened = Database(postgres.app_url(database_name))
    yield opened
    opened.close()


@pytest.fixture
def now() -> datetime:
    """A fixed instant in the middle of a month."""
    return datetime(2026, 11, 15, 12, 0, tzinfo=UTC)
