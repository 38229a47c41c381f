"""A world with a closed month of sealed usage of two tenants, and a place for its archive."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from billing.archive.places import ArchivePlace, Bucket, archive_place
from billing.operations.metering.define_meter import define_meter
from billing.operations.metering.encode_page import append_records
from billing.operations.seal.fold import fold
from billing.signing.ed25519 import load_or_make
from billing.store.database import Database, Role
from billing.store.usage.append import ensure_partitions
from billing.tenancy.tenant import Tenant
from tests.invariants.tampering import SPLIT_METER, use_split
from tests.operations.crash_points import attribution_of, usage_record
from tests.world import World, make_world

MONTH = date(2026, 11, 1)
LATER = datetime(2027, 2, 3, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """Usage of November, seen from February."""

    world: World
    acme: Tenant
    birch: Tenant
    folder: Path
    place: ArchivePlace


def seal(database: Database, folder: Path) -> None:
    """Seal everything that is committed."""
    key = load_or_make(folder.joinpath("seal.key"))
    behind = True
    while behind:
        with database.transaction(Role.OPERATOR) as connection:
            behind = fold(connection, key, now=LATER).behind


@pytest.fixture
def closed(database: Database, now: datetime, tmp_path: Path) -> Closed:
    world = make_world(database, now)
    acme, birch = world.tenant("acme"), world.tenant("birch")
    for number, tenant in enumerate((acme, birch)):
        whose = attribution_of(world, tenant)
        with database.transaction(Role.INGEST) as connection:
            records = [usage_record(world, whose, number << 10 | n, output=n) for n in range(1, 40)]
            append_records(connection, records)
        world.use(tenant, {"tokens.input": 1_000_000, "tokens.output": 7})
    with database.transaction(Role.OPERATOR) as connection:
        define_meter(connection, SPLIT_METER, now=now)
    use_split(world, acme)
    # December has usage, too: it stays.
    december = World(database=database, now=now + timedelta(days=30))
    december.use(acme, {"tokens.output": 5})
    with database.transaction(Role.MAINTAINER) as connection:
        ensure_partitions(connection, now=now, months=6)
    seal(database, tmp_path)
    folder = tmp_path.joinpath("archive")
    place = archive_place(str(folder), Bucket())
    return Closed(world=world, acme=acme, birch=birch, folder=folder, place=place)
