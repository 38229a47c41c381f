"""Steps of agents' runs on their way into the ledger, and to the tenant that they belong to."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa

from billing.journal.records import Attribution, Checkpoint, Counts, Intent
from billing.operations.metering.encode_page import append_records
from billing.operations.metering.ship_journal import JournalShipper
from billing.store.database import Database, Role
from billing.tenancy.tenant import Tenant
from tests.operations.test_ship_journal import (
    attribution_of,
    events,
    killed_proxy,
    operation_id,
    usage_record,
)
from tests.world import World, make_world


@pytest.fixture
def world(database: Database, now: datetime) -> World:
    return make_world(database, now)


@pytest.fixture
def acme(world: World) -> Tenant:
    return world.tenant()


@pytest.fixture
def whose(world: World, acme: Tenant) -> Attribution:
    return attribution_of(world, acme)


def steps(world: World) -> int:
    with world.database.transaction(Role.OPERATOR) as connection:
        return connection.execute(sa.text("SELECT count(*) FROM usage_step")).scalar_one()


def test_L5_steps_survive_a_crash_and_are_written_once(
    world: World, acme: Tenant, whose: Attribution, tmp_path: Path
) -> None:
    of_step = msgspec.structs.replace(whose, run_id="r", step_id="s", agent_id="Grüße")
    of_agent = msgspec.structs.replace(whose, agent_id="alone")
    of_run = msgspec.structs.replace(whose, run_id="r")
    cut, at_us = operation_id(world, 4), usage_record(world, whose, 1, output=1).at_us
    journal = [
        usage_record(world, of_step, 1, output=4),
        usage_record(world, of_agent, 2, output=4),
        usage_record(world, of_run, 3, output=4),
        Intent(cut, at_us, of_step),
        Checkpoint(cut, at_us, Counts(input=3, output=2)),
    ]
    killed_proxy(tmp_path, journal)
    shipper = JournalShipper(database=world.database, directory=tmp_path)
    assert shipper.ship(now=world.now).recovered == 1
    with world.database.transaction(Role.INGEST) as connection:  # its answer was lost
        assert append_records(connection, journal) == (0, 0)
    seen = {key: (e.run_id, e.step_id, e.agent_id) for key, e in events(world, acme).items()}
    assert seen == {
        operation_id(world, 1): ("r", "s", "Grüße"),
        operation_id(world, 2): ("", "", "alone"),
        operation_id(world, 3): ("r", "", ""),
        cut: ("r", "s", "Grüße"),
    }
    assert steps(world) == 3  # a run alone needs no row
