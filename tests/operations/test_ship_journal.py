"""Journals become usage events exactly once, also those of proxies that were killed."""

from __future__ import annotations

import asyncio
import random
import re
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from pathlib import Path
from uuid import UUID

import msgspec
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing.journal import reader
from billing.journal.journal import Journal
from billing.journal.records import Attribution, Record, encode
from billing.metering.event_id import from_microseconds
from billing.operations.metering.encode_page import append_records
from billing.operations.metering.read_usage import requests_of, usage_of
from billing.operations.metering.ship_journal import JournalShipper
from billing.store.database import Database, Role
from billing.store.usage.read import EventView
from billing.store.usage.verify import rollup_differences
from billing.tenancy.tenant import Tenant
from tests.operations.crash_points import (
    attribution_of,
    checkpoint_record,
    intent_record,
    operation_id,
    usage_record,
    void_record,
    write_journal,
)
from tests.strategies import PATIENT
from tests.world import World, make_world

KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from billing.journal.journal import Journal
from billing.journal.records import decode

async def main():
    journal = await Journal.open(Path(sys.argv[1]), segment_bytes=int(sys.argv[2]))
    for line in sys.stdin.read().split():
        await journal.append(decode(bytes.fromhex(line)))
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


@pytest.fixture
def world(database: Database, now: datetime) -> World:
    return make_world(database, now)


@pytest.fixture
def acme(world: World) -> Tenant:
    return world.tenant()


@pytest.fixture
def whose(world: World, acme: Tenant) -> Attribution:
    return attribution_of(world, acme)


def killed_proxy(
    directory: Path, records: Sequence[Record], *, segment_bytes: int = 1 << 20
) -> None:
    """A journal whose owner made these records durable and was killed with signal 9."""
    owner = subprocess.run(
        [sys.executable, "-c", KILLED, str(directory), str(segment_bytes)],
        input="\n".join(encode(record).hex() for record in records),
        text=True,
        check=False,
        timeout=60,
    )
    assert owner.returncode == -9


def ship(world: World, directory: Path) -> tuple[int, int, int]:
    """Ship as a writer that has just started: (events, recovered, scrap)."""
    shipment = JournalShipper(database=world.database, directory=directory).ship(now=world.now)
    return shipment.events, shipment.recovered, shipment.scrap


def events(world: World, tenant: Tenant) -> dict[bytes, EventView]:
    with world.database.transaction(Role.OPERATOR) as connection:
        assert rollup_differences(connection) == []
        found = requests_of(
            connection, tenant=tenant, period=tenant.billing_period(world.now), limit=1000
        )
    return {view.id.bytes: view for view in found}


def used(world: World, tenant: Tenant) -> dict[str, Decimal]:
    with world.database.transaction(Role.OPERATOR) as connection:
        rows = usage_of(
            connection, tenant=tenant, period=tenant.billing_period(world.now), group="none"
        )
    return {row.meter: row.quantity for row in rows}


def scrap(world: World) -> set[tuple[bytes, str]]:
    with world.database.transaction(Role.OPERATOR) as connection:
        rows = connection.execute(sa.text("SELECT id, reason FROM scrap_attempt"))
        return {(row.id.bytes, row.reason) for row in rows}


def test_L3_a_journal_shipped_again_changes_nothing(
    world: World, acme: Tenant, whose: Attribution, tmp_path: Path
) -> None:
    records = [usage_record(world, whose, n, output=n) for n in range(1, 4)]
    write_journal(tmp_path, [*records, void_record(world, whose, 9)])
    assert ship(world, tmp_path) == (3, 0, 1)
    assert ship(world, tmp_path) == (0, 0, 0)
    # Even a writer that lost its place sends every page again.
    with world.database.transaction(Role.INGEST) as connection:
        assert append_records(connection, records) == (0, 0)
    seen = events(world, acme)
    assert set(seen) == {record.id for record in records}
    assert used(world, acme) == {
        "tokens.input": 30,
        "tokens.cached_input": 6,
        "tokens.output": 6,
        "requests": 3,
    }
    assert scrap(world) == {(operation_id(world, 9), "client_left")}


def test_an_event_says_what_its_record_said(
    world: World, acme: Tenant, whose: Attribution, tmp_path: Path
) -> None:
    record = usage_record(world, whose, 1, output=7)
    write_journal(tmp_path, [record])
    ship(world, tmp_path)
    (view,) = events(world, acme).values()
    assert view == EventView(
        id=UUID(bytes=record.id),
        occurred_at=from_microseconds(record.at_us),
        model="tiny",
        kind=0,
        cause=1,
        estimated=False,
        quantities={
            "tokens.input": Decimal(10),
            "tokens.cached_input": Decimal(2),
            "tokens.output": Decimal(7),
            "requests": Decimal(1),
        },
        raw={"completion_tokens": 7, "prompt_tokens": 12},
        duration_us=2_000,
    )


def test_a_live_journal_is_followed_and_left_to_its_owner(
    world: World, acme: Tenant, whose: Attribution, tmp_path: Path
) -> None:
    async def live() -> None:
        journal = await Journal.open(tmp_path, segment_bytes=600)
        shipper = JournalShipper(database=world.database, directory=tmp_path)
        await journal.append(intent_record(world, whose, 99))
        for number in range(1, 6):
            await journal.append(usage_record(world, whose, number))
            shipped = await asyncio.to_thread(shipper.ship, now=world.now)
            assert (shipped.events, shipped.recovered) == (1, 0)
        # The operation that is open in a live proxy is nobody else's to end.
        assert scrap(world) == set()
        await journal.append(usage_record(world, whose, 99, output=50))
        await journal.close()
        assert (await asyncio.to_thread(shipper.ship, now=world.now)).events == 1

    asyncio.run(live())
    assert len(events(world, acme)) == 6
    assert used(world, acme)["tokens.output"] == 5 * 3 + 50
    assert scrap(world) == set()


@pytest.mark.parametrize("segment_bytes", [1 << 20, 500])
def test_L5_what_a_killed_proxy_left_open_is_billed_as_its_last_checkpoint(
    world: World, acme: Tenant, whose: Attribution, tmp_path: Path, segment_bytes: int
) -> None:
    killed_proxy(
        tmp_path,
        [
            intent_record(world, whose, 1),
            intent_record(world, whose, 2),
            intent_record(world, whose, 3),
            checkpoint_record(world, 1, output=4),
            usage_record(world, whose, 2, output=30),
            checkpoint_record(world, 1, output=9),
        ],
        segment_bytes=segment_bytes,
    )
    assert ship(world, tmp_path) == (2, 1, 1)
    assert ship(world, tmp_path) == (0, 0, 0)
    seen = events(world, acme)
    cut, whole = seen[operation_id(world, 1)], seen[operation_id(world, 2)]
    assert (cut.estimated, cut.quantities["tokens.output"], cut.cause) == (True, 9, 6)
    assert (whole.estimated, whole.quantities["tokens.output"], whole.cause) == (False, 30, 1)
    assert scrap(world) == {(operation_id(world, 3), "crash")}


def test_L5_an_outcome_shipped_before_the_kill_is_not_recovered_again(
    world: World, acme: Tenant, whose: Attribution, tmp_path: Path
) -> None:
    records = [
        intent_record(world, whose, 1),
        checkpoint_record(world, 1, output=4),
        usage_record(world, whose, 1, output=30),
    ]
    # A first writer got as far as the page with the usage and died before it moved its cursor.
    with world.database.transaction(Role.INGEST) as connection:
        append_records(connection, records)
    killed_proxy(tmp_path, records[:2])
    assert ship(world, tmp_path) == (0, 0, 0)
    (view,) = events(world, acme).values()
    assert (view.estimated, view.quantities["tokens.output"]) == (False, 30)


def test_every_journal_of_a_folder_is_shipped_and_pruned_when_it_is_old(
    world: World, acme: Tenant, whose: Attribution, tmp_path: Path
) -> None:
    for first in (0, 10, 20):
        write_journal(tmp_path, [usage_record(world, whose, first + n) for n in range(5)])
    killed_proxy(tmp_path, [usage_record(world, whose, 30)])
    shipper = JournalShipper(database=world.database, directory=tmp_path)
    assert shipper.prune(now=world.now + timedelta(days=30)) == 0
    assert shipper.ship(now=world.now).events == 16
    assert shipper.prune(now=world.now - timedelta(days=30)) == 0
    assert shipper.prune(now=datetime.now(UTC) + timedelta(days=4)) == 4
    assert reader.list_instances(tmp_path) == []
    assert len(events(world, acme)) == 16


def test_a_damaged_journal_is_named_and_holds_up_no_other(
    world: World, acme: Tenant, whose: Attribution, tmp_path: Path
) -> None:
    folder = write_journal(tmp_path, [usage_record(world, whose, n) for n in range(20)])
    (segment,) = reader.segments(folder)
    content = bytearray(segment.path.read_bytes())
    content[len(content) // 2] ^= 1
    segment.path.write_bytes(content)
    write_journal(tmp_path, [usage_record(world, whose, 100)])
    for _ in range(2):
        shipper = JournalShipper(database=world.database, directory=tmp_path)
        (complaint,) = shipper.ship(now=world.now).damaged
        assert re.search(rf"{re.escape(str(segment.path))} is damaged at offset \d+", complaint)
        assert shipper.prune(now=datetime.now(UTC) + timedelta(days=30)) <= 1
    assert segment.path.exists()
    before = len(events(world, acme))
    assert operation_id(world, 100) in events(world, acme)
    assert 1 < before < 21
    # Whoever repairs it loses nothing: what was shipped is not shipped twice.
    content[len(content) // 2] ^= 1
    segment.path.write_bytes(content)
    assert ship(world, tmp_path) == (21 - before, 0, 0)
    assert len(events(world, acme)) == 21


def test_a_folder_that_cannot_be_read_is_named_and_holds_up_no_other(
    world: World, acme: Tenant, whose: Attribution, tmp_path: Path
) -> None:
    folder = write_journal(tmp_path, [usage_record(world, whose, 1)])
    (segment,) = reader.segments(folder)
    # Reading it fails as it does on a disk with bad sectors, or without the right to it.
    kept = segment.path.read_bytes()
    segment.path.unlink()
    segment.path.mkdir()
    write_journal(tmp_path, [usage_record(world, whose, 2)])
    tmp_path.joinpath("lost+found").mkdir()
    shipper = JournalShipper(database=world.database, directory=tmp_path)
    (complaint,) = shipper.ship(now=world.now).damaged
    assert complaint.startswith(f"{folder} cannot be read")
    assert shipper.prune(now=datetime.now(UTC)) == 0
    assert operation_id(world, 2) in events(world, acme)
    segment.path.rmdir()
    segment.path.write_bytes(kept)
    assert ship(world, tmp_path) == (1, 0, 0)


def test_a_record_that_the_ledger_refuses_holds_up_no_other_journal(
    world: World, acme: Tenant, whose: Attribution, tmp_path: Path
) -> None:
    good = usage_record(world, whose, 1)
    # Written by a host whose clock stood at 1970: no partition takes the id.
    old = msgspec.structs.replace(good, id=bytes(5) + b"\x10" + good.id[6:], at_us=16_000)
    write_journal(tmp_path, [old])
    write_journal(tmp_path, [good])
    shipment = JournalShipper(database=world.database, directory=tmp_path).ship(now=world.now)
    assert (shipment.damaged, shipment.refused, shipment.events) == ([], 1, 1)
    assert operation_id(world, 1) in events(world, acme)


def test_an_owner_that_closed_over_an_open_stream_has_it_billed_too(
    world: World, acme: Tenant, whose: Attribution, tmp_path: Path
) -> None:
    open_streams = [intent_record(world, whose, 1), checkpoint_record(world, 1, output=8)]
    write_journal(tmp_path, [*open_streams, usage_record(world, whose, 2)])
    assert ship(world, tmp_path) == (2, 1, 0)
    cut = events(world, acme)[operation_id(world, 1)]
    assert (cut.estimated, cut.quantities["tokens.output"]) == (True, 8)


_runs = count(1)


@given(seed=st.integers(0, 2**32), size=st.integers(1, 40), segment_bytes=st.integers(200, 3_000))
@settings(
    PATIENT,
    max_examples=6,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
def test_L4_any_cut_into_segments_and_journals_gives_the_same_totals(
    world: World,
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    size: int,
    segment_bytes: int,
) -> None:
    dice = random.Random(seed)
    # Examples share the database, and one may come twice: each has a tenant and ids of its own.
    run = next(_runs)
    tenant = world.tenant(f"t-{run}")
    whose = attribution_of(world, tenant)
    first = run << 20
    outputs = [dice.randrange(100) for _ in range(size)]
    records = [usage_record(world, whose, first + n, output=o) for n, o in enumerate(outputs)]
    directory = tmp_path_factory.mktemp("journals")
    for _ in range(2):  # each record in two journals, as a copied folder would have it
        dice.shuffle(records)
        write_journal(directory, records, segment_bytes=segment_bytes)
    assert ship(world, directory)[0] == size
    assert used(world, tenant).get("tokens.output", 0) == sum(outputs)
    assert used(world, tenant)["requests"] == len(events(world, tenant)) == size
