"""kill -9 of the ledger writer, and of the server under it, at moments that nobody chose (L5).

A writer process ships a folder of journals in a loop and is killed; another one goes on. In the
end every operation of every journal is in the ledger exactly once, and the rollups say so.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from billing.operations.metering.ship_journal import JournalShipper
from billing.store.database import Database, Role
from billing.store.embedded.address import ServerAddress
from billing.store.usage.read import usage_of_all
from billing.store.usage.verify import rollup_differences
from billing.tenancy.tenant import Tenant
from tests.operations.crash_points import (
    attribution_of,
    checkpoint_record,
    intent_record,
    usage_record,
    void_record,
    write_journal,
)
from tests.world import World, make_world

ROUNDS = 40 if os.environ.get("STEELYARD_ROUNDS") == "full" else 3
OPERATIONS = 3_000

WRITER = """
import os, sys
from datetime import datetime
from pathlib import Path
from billing.operations.metering.ship_journal import JournalShipper
from billing.store.database import Database

database = Database(os.environ["WRITER_URL"])
print("READY", flush=True)
JournalShipper(database=database, directory=Path(sys.argv[1])).ship(
    now=datetime.fromisoformat(sys.argv[2])
)
"""


@pytest.fixture
def world(database: Database, now: datetime) -> World:
    return make_world(database, now)


def fill(world: World, tenant: Tenant, directory: Path, first: int) -> int:
    """One journal: mostly usage, some voids, some streams that nobody ended; its output tokens."""
    whose = attribution_of(world, tenant)
    tokens = 0
    records = []
    for number in range(first, first + OPERATIONS):
        match number % 10:
            case 0:
                records.append(void_record(world, whose, number))
            case 1:
                records += [
                    intent_record(world, whose, number),
                    checkpoint_record(world, number, output=2),
                ]
                tokens += 2
            case _:
                records.append(usage_record(world, whose, number, output=3))
                tokens += 3
    write_journal(directory, records, segment_bytes=100_000, at_once=200)
    return tokens


def start_writer(url: str, directory: Path, now: datetime) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(directory), now.isoformat()],
        env={**os.environ, "WRITER_URL": url},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def require_once(world: World, tenant: Tenant, tokens: int, journals: int) -> None:
    with world.database.transaction(Role.OPERATOR) as connection:
        events = connection.execute(sa.text("SELECT count(*) FROM usage_event")).scalar_one()
        scrap = connection.execute(sa.text("SELECT count(*) FROM scrap_attempt")).scalar_one()
        used = {
            meter: quantity
            for _, meter, _, quantity in usage_of_all(
                connection, period=tenant.billing_period(world.now)
            )
        }
        assert rollup_differences(connection) == []
    assert (events, scrap) == (journals * OPERATIONS * 9 // 10, journals * OPERATIONS // 10)
    assert used["tokens.output"] == tokens
    assert used["requests"] == events


def test_L5_a_killed_writer_loses_and_repeats_nothing(
    world: World, postgres: ServerAddress, database_name: str, tmp_path: Path
) -> None:
    acme = world.tenant()
    url = postgres.app_url(database_name)
    dice = random.Random(5)
    tokens = sum(fill(world, acme, tmp_path, n * OPERATIONS) for n in range(ROUNDS))
    killed = 0
    for _ in range(ROUNDS):
        writer = start_writer(url, tmp_path, world.now)
        assert writer.stdout is not None
        assert writer.stdout.readline() == "READY\n"
        time.sleep(dice.random() / 2)
        writer.send_signal(signal.SIGKILL)
        killed += writer.wait(timeout=60) == -signal.SIGKILL
        writer.stdout.close()
    assert killed
    JournalShipper(database=world.database, directory=tmp_path).ship(now=world.now)
    require_once(world, acme, tokens, ROUNDS)


def test_L5_a_writer_whose_connections_die_loses_and_repeats_nothing(
    world: World, postgres: ServerAddress, database_name: str, tmp_path: Path
) -> None:
    acme = world.tenant()
    url = postgres.app_url(database_name)
    dice = random.Random(6)
    tokens = sum(fill(world, acme, tmp_path, n * OPERATIONS) for n in range(2))
    cut = 0
    with psycopg.connect(postgres.owner_conninfo(database_name), autocommit=True) as owner:
        for _ in range(ROUNDS):
            writer = start_writer(url, tmp_path, world.now)
            assert writer.stdout is not None
            assert writer.stdout.readline() == "READY\n"
            time.sleep(dice.random() / 5)
            cut += owner.execute(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                "WHERE datname = %s AND pid <> pg_backend_pid() AND usename = 'steelyard_app'",
                (database_name,),
            ).fetchall()[0][0]
            writer.wait(timeout=60)
            writer.stdout.close()
    assert cut
    JournalShipper(database=world.database, directory=tmp_path).ship(now=world.now)
    require_once(world, acme, tokens, 2)
