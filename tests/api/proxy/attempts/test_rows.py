"""Failed attempts on their way into the ledger."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest
import sqlalchemy as sa

from billing.journal.records import UNREACHED, Attempted, Attribution, Intent, Usage
from billing.operations.metering.encode_page import append_records
from billing.operations.metering.ship_journal import JournalShipper
from billing.period import Period
from billing.store.database import Database, Role
from billing.store.usage.read import scrap
from tests.operations.test_ship_journal import (
    attribution_of,
    killed_proxy,
    usage_record,
    void_record,
)
from tests.world import World, make_world

START_US = 1_763_650_800_000_000


@pytest.fixture
def world(database: Database, now: datetime) -> World:
    return make_world(database, now)


@pytest.fixture
def whose(world: World) -> Attribution:
    return attribution_of(world, world.tenant())


def failed(whose: Attribution, *reasons: str) -> tuple[Attempted, ...]:
    return tuple(
        Attempted(ordinal, whose.model_id, f"pool-{ordinal}", START_US, 7_000, reason)
        for ordinal, reason in enumerate(reasons)
    )


def rows(world: World) -> set[tuple[bytes, int, str, str]]:
    with world.database.transaction(Role.OPERATOR) as connection:
        found = connection.execute(
            sa.text(
                "SELECT a.operation_id, a.ordinal, b.name, a.reason FROM usage_attempt a "
                "JOIN backend b ON b.id = a.backend_id"
            )
        )
        return {(row.operation_id.bytes, row.ordinal, row.name, row.reason) for row in found}


def ship(world: World, directory: Path) -> tuple[int, int, int]:
    shipment = JournalShipper(database=world.database, directory=directory).ship(now=world.now)
    return shipment.events, shipment.recovered, shipment.scrap


def with_attempts(usage: Usage, attempts: tuple[Attempted, ...]) -> Usage:
    return Usage(
        id=usage.id,
        at_us=usage.at_us,
        attribution=usage.attribution,
        counts=usage.counts,
        raw=usage.raw,
        cause=usage.cause,
        estimated=usage.estimated,
        ttft_us=usage.ttft_us,
        duration_us=usage.duration_us,
        attempts=attempts,
    )


def test_L5_attempts_survive_a_crash_and_are_written_once(
    world: World, whose: Attribution, tmp_path: Path
) -> None:
    served = with_attempts(
        usage_record(world, whose, 1, output=4),
        failed(whose, "refused_503", UNREACHED, "upstream_broke"),
    )
    cut_off = void_record(world, whose, 2).id
    at_us = served.at_us
    journal = [
        Intent(served.id, at_us, whose),
        Intent(served.id, at_us, whose, failed(whose, "refused_503")),
        served,
        Intent(cut_off, at_us, whose),
        Intent(cut_off, at_us, whose, failed(whose, "timeout")),
    ]
    killed_proxy(tmp_path, journal)
    assert ship(world, tmp_path) == (1, 0, 1)
    expected = {
        (served.id, 0, "pool-0", "refused_503"),
        (served.id, 2, "pool-2", "upstream_broke"),
        (cut_off, 0, "pool-0", "timeout"),
    }
    assert rows(world) == expected
    # A page whose answer was lost comes again.
    with world.database.transaction(Role.INGEST) as connection:
        assert append_records(connection, journal) == (0, 0)
    assert rows(world) == expected
    with world.database.transaction(Role.OPERATOR) as connection:
        ever = Period(start=world.now.replace(year=2020), end=world.now.replace(year=2100))
        assert sum(attempts for _, _, attempts in scrap(connection, period=ever)) == 4
