"""What an event takes on the disk, with its indexes, its rollups and its place in the seal."""

from __future__ import annotations

from random import Random

import msgspec
import psycopg
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from billing.journal.records import Counts, Usage
from billing.operations.metering.encode_page import append_records
from billing.operations.seal.fold import seal_all
from billing.signing.ed25519 import SealKey
from billing.store.database import Database, Role
from billing.store.embedded.address import ServerAddress
from tests.operations.crash_points import attribution_of, usage_record
from tests.world import make_world

EVENTS = 40_000
PAGE = 5_000
TENANTS = 8
BYTES = 500


def test_an_event_takes_500_bytes_at_most(
    database: Database, postgres: ServerAddress, database_name: str, now
) -> None:
    world, chance = make_world(database, now), Random(5)
    whose = [attribution_of(world, world.tenant(f"tenant-{number}")) for number in range(TENANTS)]

    def usage(number: int) -> Usage:
        prompt, cached, output = (chance.randrange(1, top) for top in (4_000, 500, 900))
        mine = whose[number % TENANTS]
        if number % 2:
            mine = msgspec.structs.replace(mine, run_id=f"run-{number // 400}")
        return msgspec.structs.replace(
            usage_record(world, mine, number),
            counts=Counts(input=prompt, cached_input=cached, output=output),
            raw={
                "prompt_tokens": prompt + cached,
                "completion_tokens": output,
                "total_tokens": prompt + cached + output,
                "prompt_tokens_details.cached_tokens": cached,
            },
        )

    def size(owner: psycopg.Connection) -> int:
        owner.execute("CHECKPOINT")
        row = owner.execute("SELECT pg_database_size(current_database())").fetchone()
        assert row is not None
        return row[0]

    with psycopg.connect(postgres.owner_conninfo(database_name), autocommit=True) as owner:
        before = size(owner)
        for first in range(0, EVENTS, PAGE):
            page = [usage(number) for number in range(first, first + PAGE)]
            with database.transaction(Role.INGEST) as connection:
                append_records(connection, page)
        seal_all(database, SealKey(private=Ed25519PrivateKey.generate()), now=world.now)
        assert (size(owner) - before) / EVENTS <= BYTES
