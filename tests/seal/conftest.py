"""A small world whose usage and books can be sealed, and a key to seal them with."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import psycopg
import pytest

from billing.signing.ed25519 import SealKey, load_or_make
from billing.store.database import Database
from billing.store.embedded.address import ServerAddress
from tests.world import World, make_world


@pytest.fixture
def world(database: Database, now: datetime) -> World:
    return make_world(database, now)


@pytest.fixture
def key(tmp_path: Path) -> SealKey:
    return load_or_make(tmp_path / "seal.key")


@pytest.fixture
def owner(postgres: ServerAddress, database_name: str) -> Iterator[psycopg.Connection]:
    """The owner of the tables with every trigger switched off: who can do anything at all."""
    with psycopg.connect(postgres.owner_conninfo(database_name), autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        yield connection
