"""L7: whoever changes one byte of what is sealed, even as the owner of the tables, is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from billing.archive.places import Bucket, archive_place
from billing.operations.metering.ship_journal import append_records
from billing.operations.metering.verify_rollups import verify_rollups
from billing.operations.rating.accrue_usage import accrue_usage
from billing.operations.seal.bundle import make_bundle
from billing.operations.seal.fold import seal_all
from billing.operations.seal.prove import (
    prove_consistency,
    prove_event,
    signed_head,
    tenant_head,
)
from billing.operations.seal.verify import Finding, verify_books, verify_seal
from billing.signing.ed25519 import SealKey
from billing.store.database import Role
from billing.tenancy.tenant import Tenant
from billing.verifier import Document, verify_bundle, verify_document, verify_head
from tests.store.full_world import _proxied
from tests.world import World, usage_report


@pytest.fixture
def acme(world: World, key: SealKey) -> Tenant:
    """A tenant with reported and proxied usage and books, sealed in three folds."""
    acme = world.tenant("acme")
    for number in range(3):
        world.use(acme, {"tokens.input": 1_000_000 + number, "requests": 2})
        with world.database.transaction(Role.INGEST) as connection:
            append_records(connection, _proxied(connection, acme, world, number))
        with world.database.transaction(Role.OPERATOR) as connection:
            period = acme.billing_period(world.now)
            accrue_usage(connection, tenant=acme, period=period, now=world.now)
        seal_all(world.database, key, now=world.now + timedelta(minutes=number))
    return acme


def findings(world: World) -> list[Finding]:
    with world.database.transaction(Role.OPERATOR) as connection:
        return verify_seal(connection) + verify_books(connection)


def columns(owner: psycopg.Connection, table: str) -> list[tuple[str, str]]:
    """(name, type) of a table's columns."""
    return owner.execute(
        "SELECT attname, format_type(atttypid, NULL) FROM pg_attribute "
        "WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        (table,),
    ).fetchall()


CHANGED = {
    "uuid": "(overlay({c}::text placing (CASE right({c}::text, 1) WHEN '0' THEN '1' ELSE '0' END) "
    "from 36))::uuid",
    "timestamp with time zone": "{c} + interval '1 microsecond'",
    "boolean": "NOT {c}",
    "text": "{c} || 'x'",
    "bytea": "CASE length({c}) WHEN 0 THEN '\\x00' ELSE set_byte({c}, 0, get_byte({c}, 0) # 1) END",
    "numeric[]": "array_append({c}[2:], {c}[1] + 0.000001)",
    "xid8": "(({c}::text::bigint + 1)::text)::xid8",
}
NUMBERS = {"integer", "bigint", "smallint", "numeric"}


def change_of(column: str, kind: str) -> str:
    if kind not in NUMBERS:
        return CHANGED[kind].format(c=column)
    # Far enough to meet no other row, and not across the other end of the stretch.
    return f"{column} - 1000" if column in ("epoch_after", "books_from") else f"{column} + 1000"


def test_an_untouched_ledger_verifies(world: World, acme: Tenant) -> None:
    assert findings(world) == []
    with world.database.transaction(Role.OPERATOR) as connection:
        assert verify_rollups(connection) == []


UNSEALED = {
    ("seal_key", "valid_from"),  # evidence of nothing: the heads say what was signed when
    ("seal_tree", "id"),  # what the other tables refer to
    ("usage_source", "id"),  # the same
    ("seal_tree", "kind"),  # a constraint of the table refuses every other kind
}


def test_L7_one_change_in_any_column_of_a_sealed_event_is_named(
    world: World, acme: Tenant, owner: psycopg.Connection
) -> None:
    ids = owner.execute("SELECT id FROM usage_event ORDER BY id").fetchall()
    tried = 0
    for which, (event,) in enumerate(ids[:: max(1, len(ids) // 3)]):
        for column, kind in columns(owner, "usage_event"):
            owner.execute(
                f"UPDATE usage_event SET {column} = {change_of(column, kind)} "
                "WHERE id = %s".encode(),
                (event,),
            )
            found = findings(world)
            assert found, (which, column)
            if column not in ("id", "epoch", "tenant_id"):
                assert str(event) in {finding.subject for finding in found}, (column, found)
            else:
                assert any("usage:" in f.subject or f.kind == "event" for f in found), column
            restore(owner)
            tried += 1
    assert findings(world) == []
    assert tried >= 36


def restore(owner: psycopg.Connection) -> None:
    owner.execute("DELETE FROM usage_event")
    owner.execute("INSERT INTO usage_event SELECT * FROM kept_event")


@pytest.fixture(autouse=True)
def kept_events(acme: Tenant, owner: psycopg.Connection) -> None:
    owner.execute("CREATE TABLE kept_event AS SELECT * FROM usage_event")


def test_L7_an_event_that_is_deleted_added_or_moved_is_named(
    world: World, acme: Tenant, owner: psycopg.Connection
) -> None:
    (event,) = owner.execute("SELECT id FROM usage_event ORDER BY id LIMIT 1").fetchall()[0]
    owner.execute("DELETE FROM usage_event WHERE id = %s", (event,))
    found = findings(world)
    assert [finding.kind for finding in found] == ["event"]
    assert found[0].subject.startswith(f"usage:{acme.id} leaf ")
    restore(owner)
    owner.execute(
        "CREATE TEMP TABLE added AS SELECT * FROM usage_event LIMIT 1; "
        "UPDATE added SET id = overlay(id::text placing 'ffff' from 33)::uuid; "
        "INSERT INTO usage_event SELECT * FROM added"
    )
    (added,) = owner.execute("SELECT id FROM added").fetchall()[0]
    assert str(added) in {finding.subject for finding in findings(world)}


@pytest.mark.parametrize(
    "table",
    ["seal_key", "seal_tree", "seal_hashes", "seal_fold", "seal_head", "usage_key", "usage_source"],
)
def test_L7_one_change_in_any_column_of_the_seal_itself_is_named(
    world: World, acme: Tenant, owner: psycopg.Connection, table: str
) -> None:
    names = columns(owner, table)
    owner.execute(f"CREATE TABLE kept_rows AS SELECT * FROM {table}".encode())
    insert = f"INSERT INTO {table} OVERRIDING SYSTEM VALUE SELECT * FROM kept_rows".encode()
    for column, kind in names:
        if (table, column) in UNSEALED:
            continue
        chosen = f"SELECT tableoid, ctid FROM {table} WHERE {column} IS NOT NULL ORDER BY 1, 2"
        changed = owner.execute(
            f"UPDATE {table} SET {column} = {change_of(column, kind)} "
            f"WHERE (tableoid, ctid) = ({chosen} LIMIT 1)".encode()
        ).rowcount
        assert changed == 1, column
        found = findings(world)
        assert found, (table, column)
        assert all(finding.subject for finding in found)
        owner.execute(f"DELETE FROM {table}".encode())
        owner.execute(insert)
        assert findings(world) == [], column


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE usage_key SET foreign_id = foreign_key::text WHERE foreign_id IS NULL",
        "UPDATE usage_key SET foreign_id = NULL WHERE foreign_id IS NOT NULL",
        "UPDATE usage_key SET source_id = (SELECT id FROM usage_source WHERE source = 'unused')",
        "DELETE FROM usage_source WHERE source <> 'unused'",
        "DELETE FROM usage_key WHERE foreign_id IS NULL",
        "DELETE FROM usage_key WHERE foreign_id IS NOT NULL",
    ],
)
def test_L7_a_reporters_identity_that_is_changed_is_named(
    world: World, acme: Tenant, owner: psycopg.Connection, key: SealKey, change: str
) -> None:
    uuid = "0190f3a1-7c2e-4b5d-9e8f-0a1b2c3d4e5f"
    world.report(acme, usage_report(foreign_id=uuid, occurred_at=world.now))
    seal_all(world.database, key, now=world.now + timedelta(minutes=5))
    owner.execute("INSERT INTO usage_source (tenant_id, source) VALUES (%s, 'unused')", (acme.id,))
    assert findings(world) == []
    changed = owner.execute(change.encode()).rowcount
    assert changed > 0
    assert "event" in {finding.kind for finding in findings(world)}


def test_L7_a_changed_leaf_is_told_from_a_changed_event(
    world: World, acme: Tenant, owner: psycopg.Connection
) -> None:
    owner.execute(
        "UPDATE seal_hashes SET hashes = set_byte(hashes, 40, get_byte(hashes, 40) # 1) "
        "WHERE level = 0 AND first = 0 AND tree_id = "
        "(SELECT id FROM seal_tree WHERE tenant_id = %s)",
        (acme.id,),
    )
    assert findings(world) == [
        Finding(
            kind="leaf", subject=f"usage:{acme.id} leaf 1", problem="the stored hash was changed"
        )
    ]


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE posting SET amount = amount + 0.000000000001 WHERE ordinal = 0",
        "UPDATE posting SET line_key = 'other' WHERE line_key IS NOT NULL",
        "UPDATE ledger_transaction SET reference = reference || 'x'",
        "UPDATE ledger_transaction SET posted_at = posted_at + interval '1 microsecond'",
        "DELETE FROM posting WHERE ordinal = 1",
        "UPDATE ledger_transaction SET postings_hash = sha256('x')",
    ],
)
def test_a_changed_book_entry_is_named(
    world: World, acme: Tenant, owner: psycopg.Connection, change: str
) -> None:
    entries = owner.execute("SELECT id::text FROM ledger_transaction").fetchall()
    owner.execute(change.encode())
    subjects = {finding.subject for finding in findings(world) if finding.kind == "transaction"}
    assert subjects & {entry for (entry,) in entries}


def test_L7_a_changed_rollup_is_named(
    world: World, acme: Tenant, owner: psycopg.Connection
) -> None:
    owner.execute("UPDATE usage_rollup SET quantity = quantity + 1 WHERE meter_version_id = 1")
    with world.database.transaction(Role.OPERATOR) as connection:
        found = verify_rollups(connection)
    assert found
    assert {difference.tenant for difference in found} == {"acme"}


def test_events_that_an_archive_holds_are_not_missing(
    world: World, acme: Tenant, owner: psycopg.Connection
) -> None:
    owner.execute("DELETE FROM usage_event")
    assert findings(world)
    with world.database.transaction(Role.OPERATOR) as connection:
        assert verify_seal(connection, elsewhere=lambda _: True) == []


Bundles = Callable[..., dict[str, object]]


@pytest.fixture
def bundle(world: World, acme: Tenant, tmp_path: Path) -> Bundles:
    """The tenant's bundle of this month, through JSON as it travels."""

    place = archive_place(str(tmp_path), Bucket())

    def make(kept_size: int | None = None) -> dict[str, object]:
        with world.database.transaction(Role.OPERATOR, snapshot=True) as connection:
            period = acme.billing_period(world.now)
            document = make_bundle(connection, place, acme, period, kept_size=kept_size)
        return json.loads(json.dumps(document, default=str))

    return make


def test_a_tenant_verifies_its_month_offline(bundle: Bundles, key: SealKey) -> None:
    document = bundle()
    assert verify_bundle(document, public_key=key.public_key.hex()) == []
    summed = verify_document(Document(document)).totals
    totals = {meter: int(quantity) for meter, quantity in summed.items()}
    assert totals["tokens.input"] == 3_000_003 + 21
    assert verify_bundle(document, public_key="00" * 32) == [
        "the head is signed by another key than the one that you know"
    ]


def test_L7_an_omitted_event_is_found_and_named_by_who_kept_a_bundle(
    world: World, acme: Tenant, owner: psycopg.Connection, bundle: Bundles, key: SealKey
) -> None:
    kept = bundle()
    (event,) = owner.execute("SELECT id FROM usage_event ORDER BY id LIMIT 1").fetchall()[0]
    owner.execute("DELETE FROM usage_event WHERE id = %s", (event,))
    problems = verify_bundle(bundle(), kept=kept)
    assert any("missing or changed" in problem for problem in problems)
    assert any(str(event) in problem for problem in problems)
    # The operator goes further and seals the history anew, without the event.
    for table in ("seal_head", "seal_fold", "seal_hashes", "seal_tree"):
        owner.execute(f"DELETE FROM {table}".encode())
    owner.execute("DELETE FROM usage_rollup")
    seal_all(world.database, key, now=world.now)
    assert findings(world) == []
    forged = bundle()
    problems = verify_bundle(forged, kept=kept)
    assert any(str(event) in problem for problem in problems)
    head = kept["head"]
    assert isinstance(head, dict)
    problems = verify_bundle(forged, kept=head)
    assert any("kept head" in problem for problem in problems)


def test_a_kept_head_of_any_age_is_shown_to_be_extended(
    world: World, acme: Tenant, bundle: Bundles, key: SealKey
) -> None:
    with world.database.transaction(Role.OPERATOR) as connection:
        kept = json.loads(json.dumps(tenant_head(connection, acme), default=str))
    world.use(acme, {"requests": 1})
    seal_all(world.database, key, now=world.now + timedelta(hours=1))
    assert verify_head(kept) == []
    assert verify_bundle(bundle(), kept=kept) == []
    assert verify_bundle(bundle(kept["size"]), kept=kept) == []
    with world.database.transaction(Role.OPERATOR) as connection:
        proof = prove_consistency(connection, acme, kept["size"])
        assert proof["head"]["size"] == kept["size"] + 1
        newest = signed_head(connection)
    assert newest["size"] == proof["head"]["signed"]["size"]


@pytest.mark.parametrize("where", ["record", "totals", "root", "signature", "proof", "left out"])
def test_L7_a_bundle_that_was_tampered_with_does_not_verify(bundle: Bundles, where: str) -> None:
    document = json.loads(json.dumps(bundle()))
    if where == "record":
        entry = document["entries"][3]
        entry["record"] = entry["record"].replace('"1000001"', '"1"').replace("completed", "x")
        entry["record"] = entry["record"].replace(", 1, ", ", 2, ", 1)
    elif where == "totals":
        document["totals"]["requests"] = "1"
    elif where == "left out":
        del document["entries"][0]
    elif where == "root":
        document["head"]["root"] = "00" * 32
    elif where == "signature":
        signature = document["head"]["signed"]["signature"]
        document["head"]["signed"]["signature"] = signature[:-1] + (
            "0" if signature[-1] != "0" else "1"
        )
    else:
        document["head"]["proof"] = document["head"]["proof"][:-1]
    assert verify_bundle(document)


def test_every_event_is_proved_to_be_sealed(
    world: World, acme: Tenant, owner: psycopg.Connection
) -> None:
    from billing.ledger.tree import leaf_hash, verify_inclusion

    for (event,) in owner.execute("SELECT id FROM usage_event").fetchall():
        with world.database.transaction(Role.OPERATOR) as connection:
            proof = prove_event(connection, acme, event)
        head = proof["head"]
        assert json.loads(proof["record"])[1] == str(event)
        assert verify_head(head) == []
        assert verify_inclusion(
            leaf_hash(proof["record"].encode()),
            proof["leaf"],
            head["size"],
            [bytes.fromhex(each) for each in proof["proof"]],
            bytes.fromhex(head["root"]),
        )
