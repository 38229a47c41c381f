"""Folding: what is sealed is what is stored, once, whatever happens in between."""

from __future__ import annotations

import hashlib
import json
from decimal import Decimal
from itertools import pairwise
from threading import Barrier, Thread

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.ledger.seal_record import SealedUsage, usage_record
from billing.ledger.tree import leaf_hash, nodes_of, root
from billing.operations.metering.define_meter import define_meter
from billing.operations.seal.fold import fold, seal_all
from billing.signing.ed25519 import SealKey, load_or_make, verify
from billing.store.database import Database, Role, become, only, query
from billing.store.seal.folds import folds, newest_fold
from billing.store.seal.hashes import StoredTree, TreeKind, leaves_of, tree_of
from billing.store.seal.records import newest_epoch, usage_records
from tests.invariants.tampering import SPLIT_METER, use_split
from tests.world import World


def sealed_rows(owner: psycopg.Connection) -> list[list[tuple[object, ...]]]:
    tables = ("seal_tree", "seal_hashes", "seal_head", "seal_fold")
    return [
        owner.execute(f"SELECT * FROM {t} ORDER BY 1, 2, 3".encode()).fetchall() for t in tables
    ]


def test_L7_the_leaf_of_an_event_is_built_alike_by_the_database_and_in_python(
    world: World, owner: psycopg.Connection
) -> None:
    acme = world.tenant("acme")
    with world.database.transaction(Role.OPERATOR) as connection:
        define_meter(connection, SPLIT_METER, now=world.now)
    world.use(acme, {"tokens.input": Decimal("12.500"), "requests": 3})
    use_split(world, acme)
    with world.database.transaction(Role.OPERATOR) as connection:
        rows = usage_records(connection, tenant_id=acme.id, after=0, to=newest_epoch(connection))
    assert len(rows) == 5
    for row in rows:
        stored = owner.execute(
            "SELECT e.*, m.name AS model, b.name AS backend, k.source, k.foreign_id, k.body_hash, "
            "p.tenant_id AS carrier, p.shape_id, h.paths, p.texts, "
            "(SELECT array_agg(v.code ORDER BY n) FROM meter_set s, "
            " unnest(s.meter_version_ids) WITH ORDINALITY u (x, n), meter_version v "
            " WHERE s.id = e.meter_set_id AND v.id = u.x) AS codes FROM usage_event e "
            "LEFT JOIN model m ON m.id = e.model_id LEFT JOIN backend b ON b.id = e.backend_id "
            "LEFT JOIN usage_property p ON p.event_id = e.id "
            "LEFT JOIN usage_shape h ON h.id = p.shape_id "
            "JOIN reported_event k ON k.event_id = e.id WHERE e.id = %s",
            (row.id,),
        )
        names = [column.name for column in stored.description or ()]
        event = dict(zip(names, stored.fetchall()[0], strict=True))
        quantities = [f"{q.normalize():f}" for q in event["quantities"]]
        carried = [event[name] for name in ("carrier", "shape_id", "paths", "texts")]
        expected = usage_record(
            SealedUsage(
                **{
                    name: event[name]
                    for name in SealedUsage.__annotations__
                    if name in event and name not in ("quantities", "raw_counts", "body_hash")
                },
                quantities=list(zip(event["codes"], quantities, strict=True)),
                raw_paths=[],
                raw_counts=event["raw_counts"].hex(),
                body_hash=event["body_hash"].hex(),
                carried=carried if event["texts"] else None,
            )
        )
        assert row.record == expected
    assert '["tokens.input", "12.5"]' in rows[0].record + rows[1].record
    # Two of three said something; all others have no member for it.
    assert sorted(len(json.loads(row.record)) for row in rows) == [27, 27, 27, 28, 28]


@settings(max_examples=60, deadline=None)
@given(text=st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"])))
def test_texts_are_escaped_alike_by_the_database_and_in_python(
    postgres_connection: psycopg.Connection, text: str
) -> None:
    found = postgres_connection.execute(
        "SELECT jsonb_build_array('usage v1'::text, %s::text, NULL, true, 7)::text", (text,)
    ).fetchall()[0][0]
    assert found == json.dumps(["usage v1", text, None, True, 7], ensure_ascii=False)


@pytest.fixture(scope="module")
def postgres_connection(postgres):
    with psycopg.connect(postgres.owner_conninfo("postgres"), autocommit=True) as connection:
        yield connection


def test_L7_the_stored_leaves_are_the_events_in_order_and_the_head_is_their_root(
    world: World, key: SealKey
) -> None:
    acme, birch = world.tenant("acme"), world.tenant("birch")
    for number in range(5):
        world.use(acme, {"tokens.input": number + 1, "tokens.output": 2})
        world.use(birch, {"requests": 1})
        if number % 2:
            seal_all(world.database, key, now=world.now)
    seal_all(world.database, key, now=world.now)
    with world.database.transaction(Role.OPERATOR) as connection:
        for tenant, count in ((acme, 10), (birch, 5)):
            rows = usage_records(
                connection, tenant_id=tenant.id, after=0, to=newest_epoch(connection)
            )
            assert len(rows) == count
            expected = [leaf_hash(row.record.encode()) for row in rows]
            assert leaves_of(connection, tenant.id, 0, 1000) == expected
            assert leaves_of(connection, tenant.id, 2, 2) == expected[2:4]
            head = only(
                connection,
                "SELECT h.size, h.root FROM seal_head h JOIN seal_tree t ON t.id = h.tree_id "
                "WHERE t.tenant_id = :tenant ORDER BY h.size DESC LIMIT 1",
                tenant=tenant.id,
            )
            assert (head.size, head.root) == (count, root(nodes_of(expected), count))


def test_a_head_is_signed_by_the_published_key(world: World, key: SealKey) -> None:
    world.use(world.tenant(), {"requests": 1})
    (folded,) = seal_all(world.database, key, now=world.now)
    assert folded.head is not None
    assert len(folded.head.signature) == 64
    with world.database.transaction(Role.OPERATOR) as connection:
        published = query(connection, "SELECT id, public_key FROM seal_key")
    assert [(row.id, row.public_key) for row in published] == [(key.id, key.public_key)]
    assert not verify(key.public_key, "another text", folded.head.signature)


def test_nothing_new_is_not_sealed_again(world: World, key: SealKey) -> None:
    assert seal_all(world.database, key, now=world.now) == []
    world.use(world.tenant(), {"requests": 1})
    assert len(seal_all(world.database, key, now=world.now)) == 1
    assert seal_all(world.database, key, now=world.now) == []


def test_L5_a_fold_that_dies_and_is_repeated_seals_the_same(
    world: World, key: SealKey, owner: psycopg.Connection
) -> None:
    acme = world.tenant()
    for _ in range(3):
        world.use(acme, {"requests": 1})
    with world.database.engine.connect() as connection, connection.begin() as transaction:
        become(connection, Role.OPERATOR)
        died = fold(connection, key, now=world.now)
        transaction.rollback()
    assert sealed_rows(owner)[3] == []
    with world.database.transaction(Role.OPERATOR) as connection:
        repeated = fold(connection, key, now=world.now)
    assert died.head is not None
    assert repeated.head is not None
    assert (repeated.head.size, repeated.events) == (died.head.size, died.events)
    assert repeated.events == 3


def test_two_sealers_seal_everything_once(world: World, key: SealKey) -> None:
    acme = world.tenant()
    for _ in range(20):
        world.use(acme, {"requests": 1})
    start = Barrier(4)

    def seal() -> None:
        start.wait()
        with world.database.transaction(Role.OPERATOR) as connection:
            fold(connection, key, now=world.now, epochs=5)
        seal_all(world.database, key, now=world.now)

    threads = [Thread(target=seal) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seal_all(world.database, key, now=world.now)
    with world.database.transaction(Role.OPERATOR) as connection:
        stored = leaves_of(connection, acme.id, 0, 1000)
        rows = usage_records(connection, tenant_id=acme.id, after=0, to=newest_epoch(connection))
        signed = folds(connection)
    assert stored == [leaf_hash(row.record.encode()) for row in rows]
    for before, after in pairwise(signed):
        assert before.epoch_to == after.epoch_after
        assert before.books_before == after.books_from


def test_every_stored_level_is_that_of_the_tree(database: Database, world: World) -> None:
    leaves = [hashlib.sha256(str(n).encode()).digest() for n in range(70_000)]
    whole = nodes_of(leaves)
    acme = world.tenant()
    with database.transaction(Role.OPERATOR) as connection:
        tree_id = query(
            connection,
            "INSERT INTO seal_tree (kind, tenant_id) VALUES ('usage', :tenant) RETURNING id",
            tenant=acme.id,
        )[0].id
        assert tree_of(connection, TreeKind.USAGE, acme.id) == tree_id
        size = 0
        for count in (1, 254, 1, 1, 300, 65_000, 0, 4_443):
            tree = StoredTree(connection, tree_id)
            if count:
                size = tree.append(size, b"".join(leaves[size : size + count]))
            assert root(StoredTree(connection, tree_id).node, size) == root(whole, size)
        assert size == 70_000
        read = StoredTree(connection, tree_id)
        for level, index in ((0, 69_999), (7, 3), (8, 0), (8, 272), (12, 16), (16, 0)):
            assert read.node(level, index) == whole(level, index)
        assert read.hashes(0, 32_700, 256) == b"".join(leaves[32_700:32_956])
        levels = query(connection, "SELECT DISTINCT level FROM seal_hashes ORDER BY level")
    assert [row.level for row in levels] == [0, 8, 16]


def test_books_are_sealed_per_legal_entity(world: World, key: SealKey) -> None:
    from billing.operations.rating.accrue_usage import accrue_usage

    acme = world.tenant()
    world.use(acme, {"tokens.input": 5_000_000})
    with world.database.transaction(Role.OPERATOR) as connection:
        accrue_usage(connection, tenant=acme, period=acme.billing_period(world.now), now=world.now)
    (folded,) = seal_all(world.database, key, now=world.now)
    assert folded.transactions == 1
    with world.database.transaction(Role.OPERATOR) as connection:
        rows = query(connection, "SELECT kind, legal_entity_id FROM seal_tree WHERE kind = 'books'")
        assert newest_fold(connection) == folded.head
    assert len(rows) == 1


def test_the_key_is_made_once_and_for_its_user_alone(tmp_path) -> None:
    path = tmp_path / "data" / "seal.key"
    made = load_or_make(path)
    assert load_or_make(path).public_key == made.public_key
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["seal.key"]
