"""What sealing, proving and verifying cost as a tenant's log grows.

The leaves of the sizes above the sealed events are made up: a proof reads hashes only, so what they
are hashes of makes no difference to it. Sealing and verifying are of real events.
"""

from __future__ import annotations

import hashlib
import random
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import psycopg

from billing.ledger.tree import (
    consistency_proof,
    inclusion_proof,
    root,
    verify_consistency,
    verify_inclusion,
)
from billing.operations.metering.ship_journal import append_records
from billing.operations.seal.fold import seal_all
from billing.operations.seal.verify import verify_seal
from billing.signing.ed25519 import load_or_make
from billing.store.database import Database, Role
from billing.store.embedded.throwaway import throwaway_server
from billing.store.migrate import migrate
from billing.store.seal.hashes import StoredTree, TreeKind, ensure_tree
from tests.benchmarks.report import Figure, publish
from tests.operations.crash_points import attribution_of, usage_record
from tests.world import World, make_world

EVENTS = 20_000
PAGE = 2_000
SIZES = (1_000, 10_000, 100_000, 1_000_000)
PROOFS = 50


def milliseconds(start: float) -> float:
    return (time.perf_counter() - start) * 1000


def seal_and_verify(world: World, folder: Path) -> list[Figure]:
    """Fold real events, then verify all of them."""
    database = world.database
    whose = attribution_of(world, world.tenant("acme"))
    for page in range(0, EVENTS, PAGE):
        records = [usage_record(world, whose, number) for number in range(page, page + PAGE)]
        with database.transaction(Role.INGEST) as connection:
            append_records(connection, records)
    key = load_or_make(folder / "seal.key")
    start = time.perf_counter()
    sealed = sum(each.events for each in seal_all(database, key, now=world.now))
    sealing = time.perf_counter() - start
    assert sealed == EVENTS
    start = time.perf_counter()
    with database.transaction(Role.OPERATOR, snapshot=True) as connection:
        assert verify_seal(connection) == []
    verifying = time.perf_counter() - start
    return [
        Figure(name="sealed", value=EVENTS / sealing, unit="events/s"),
        Figure(name="verified", value=EVENTS / verifying, unit="events/s"),
    ]


def prove(world: World) -> list[Figure]:
    """Read proofs from the database at growing sizes, each with nothing in memory."""
    dice = random.Random(7)
    owner = world.tenant("grown")
    figures: list[Figure] = []
    size = 0
    with world.database.transaction(Role.OPERATOR) as connection:
        tree_id = ensure_tree(connection, TreeKind.USAGE, owner.id)
        for goal in SIZES:
            while size < goal:
                leaves = [
                    hashlib.sha256(str(number).encode()).digest()
                    for number in range(size, min(goal, size + 5_000))
                ]
                size = StoredTree(connection, tree_id).append(size, b"".join(leaves))
            proving: list[float] = []
            checking: list[float] = []
            for _ in range(PROOFS):
                index, earlier = dice.randrange(size), dice.randrange(1, size)
                start = time.perf_counter()
                tree = StoredTree(connection, tree_id)
                inclusion = inclusion_proof(tree.node, index, size)
                consistency = consistency_proof(tree.node, earlier, size)
                proving.append(milliseconds(start))
                leaf, top, old = (
                    tree.node(0, index),
                    root(tree.node, size),
                    root(tree.node, earlier),
                )
                start = time.perf_counter()
                assert verify_inclusion(leaf, index, size, inclusion, top)
                assert verify_consistency(earlier, size, old, top, consistency)
                checking.append(milliseconds(start))
            first = f"prove at {SIZES[0]:,}"
            figures.append(
                Figure(
                    name=f"prove at {size:,}",
                    value=statistics.median(proving),
                    unit="ms",
                    baseline=None if size == SIZES[0] else first,
                )
            )
            figures.append(
                Figure(
                    name=f"check a proof at {size:,}", value=statistics.median(checking), unit="ms"
                )
            )
    return figures


def main() -> int:
    with tempfile.TemporaryDirectory() as folder, throwaway_server(fsync=True) as address:
        with psycopg.connect(address.owner_conninfo("postgres"), autocommit=True) as owner:
            owner.execute("CREATE DATABASE bench")
        migrate(address.owner_url("bench"))
        database = Database(address.app_url("bench"))
        world = make_world(database, datetime(2026, 11, 15, 12, tzinfo=UTC))
        figures = seal_and_verify(world, Path(folder)) + prove(world)
        database.close()
    publish("seal", figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
