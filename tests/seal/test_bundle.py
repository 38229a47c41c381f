"""A tenant's bundle holds every sealed record of its month, wherever that lies, in flat memory."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import psycopg
import pytest

import billing.verifier
from billing.archive.places import ArchiveUnavailable, Bucket, archive_place
from billing.errors import InvalidInput, NotFound
from billing.operations.metering.encode_page import append_records
from billing.operations.retention import archive_month as archiving
from billing.operations.retention.archive_month import archive_month, drop_month
from billing.operations.seal import bundle as bundling
from billing.operations.seal.bundle import bundle_lines, make_bundle, open_bundle
from billing.operations.seal.fold import seal_all
from billing.signing.ed25519 import SealKey
from billing.store.database import Role
from billing.store.embedded.address import ServerAddress
from billing.tenancy.tenant import Tenant
from billing.verifier import BundleFile, Document, verify_document
from tests.operations.crash_points import attribution_of, usage_record
from tests.retention.conftest import LATER, MONTH, Closed, closed, seal
from tests.world import World

__all__ = ["closed"]


@pytest.fixture
def owner(postgres: ServerAddress, database_name: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(postgres.owner_conninfo(database_name), autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        yield connection


def write(closed: Closed, tenant: Tenant, path: Path) -> Path:
    """The bundle of November as a file."""
    period = tenant.billing_period(closed.world.now)
    with closed.world.database.transaction(Role.OPERATOR, snapshot=True) as connection:
        made = open_bundle(connection, closed.place, tenant, period)
        with path.open("w", encoding="utf-8") as file:
            file.writelines(bundle_lines(made))
    return path


def leave(closed: Closed) -> None:
    archive_month(closed.world.database, closed.place, MONTH, now=LATER)
    drop_month(closed.world.database, closed.place, MONTH, now=LATER)


def use(closed: Closed, tenant: Tenant, pages: range, *, per_page: int) -> None:
    """Some batches of requests by the proxy, in November."""
    whose = attribution_of(closed.world, tenant)
    for page in pages:
        records = [usage_record(closed.world, whose, page << 20 | n) for n in range(1, per_page)]
        with closed.world.database.transaction(Role.INGEST) as connection:
            append_records(connection, records)


@pytest.mark.parametrize("at_once", [7, 5_000])
def test_a_month_that_has_left_gives_the_bundle_that_it_gave_before(
    closed: Closed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(bundling, "LEAVES_AT_ONCE", at_once)
    monkeypatch.setattr(bundling, "HEADS_AT_ONCE", 2)
    monkeypatch.setattr(archiving, "EVENTS_AT_ONCE", at_once)
    use(closed, closed.acme, range(1, 4), per_page=9)
    seal(closed.world.database, tmp_path)
    use(closed, closed.birch, range(4, 6), per_page=9)
    seal(closed.world.database, tmp_path)
    before = {
        tenant.slug: write(closed, tenant, tmp_path / f"{tenant.slug}.json").read_text()
        for tenant in (closed.acme, closed.birch)
    }
    leave(closed)
    for tenant in (closed.acme, closed.birch):
        path = write(closed, tenant, tmp_path / "again.json")
        assert path.read_text() == before[tenant.slug]
        document = json.loads(path.read_text())
        assert all("record" in entry for entry in document["entries"])
        with closed.world.database.transaction(Role.OPERATOR, snapshot=True) as connection:
            period = tenant.billing_period(closed.world.now)
            whole = make_bundle(connection, closed.place, tenant, period)
        assert json.loads(json.dumps(whole, default=str)) == document
        kept = tmp_path / f"{tenant.slug}.json"
        ran = subprocess.run(
            [sys.executable, billing.verifier.__file__, path, "--kept", kept],
            capture_output=True, text=True, check=True, cwd=tmp_path, env={},
        )  # fmt: skip
        assert f"All {len(document['entries'])} sealed events hold" in ran.stdout
        assert "tokens.input" in ran.stdout


def test_L7_an_archive_that_was_changed_or_is_gone_is_told(
    closed: Closed, tmp_path: Path, owner: psycopg.Connection
) -> None:
    database = closed.world.database
    kept = write(closed, closed.acme, tmp_path / "kept.json")
    # A forged month, archived and dropped as if it were right: only its leaves know better.
    (event,) = owner.execute(
        "UPDATE usage_event SET duration_us = duration_us + 1 WHERE id = "
        "(SELECT id FROM usage_event WHERE tenant_id = %s ORDER BY epoch, id LIMIT 1) "
        "RETURNING id",
        (closed.acme.id,),
    ).fetchall()[0]
    with pytest.raises(archiving.DamagedArchive):
        archive_month(database, closed.place, MONTH, now=LATER)
    found = verify_document(
        BundleFile(str(write(closed, closed.acme, tmp_path / "forged.json"))),
        kept=BundleFile(str(kept)),
    ).problems
    assert any(str(event) in problem for problem in found)
    owner.execute("UPDATE usage_event SET duration_us = duration_us - 1 WHERE id = %s", (event,))
    leave(closed)
    for file in closed.folder.glob("*.parquet"):
        file.unlink()
    with pytest.raises((NotFound, ArchiveUnavailable)):
        write(closed, closed.acme, tmp_path / "gone.json")


def test_a_cut_off_bundle_is_no_bundle(closed: Closed, tmp_path: Path) -> None:
    path = write(closed, closed.acme, tmp_path / "bundle.json")
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-3]))
    with pytest.raises(ValueError, match="ends within"):
        BundleFile(str(path))


def test_a_long_month_takes_no_more_memory_than_a_short_one(
    closed: Closed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundling, "LEAVES_AT_ONCE", 200)
    monkeypatch.setattr(bundling, "BUNDLE_LEAVES_MAX", 500)
    peaks: list[tuple[int, int, int]] = []
    for pages in (range(1, 3), range(3, 23)):
        use(closed, closed.acme, pages, per_page=200)
        seal(closed.world.database, tmp_path)
        tracemalloc.start()
        path = write(closed, closed.acme, tmp_path / "bundle.json")
        _, written = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        result = verify_document(BundleFile(str(path)))
        _, verified = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert result.problems == []
        peaks.append((result.entries, written, verified))
    (few, written, verified), (many, written_many, verified_many) = peaks
    assert many > 8 * few
    assert written_many < 2 * written
    assert verified_many < 2 * verified
    period = closed.acme.billing_period(closed.world.now)
    with (
        pytest.raises(InvalidInput),
        closed.world.database.transaction(Role.OPERATOR, snapshot=True) as connection,
    ):
        make_bundle(connection, closed.place, closed.acme, period)


def test_L7_a_total_of_more_digits_than_a_decimal_usually_keeps_holds(
    world: World, key: SealKey, tmp_path: Path
) -> None:
    acme = world.tenant("acme")
    for quantity in (Decimal(10**18), Decimal("0.000000000000000001"), Decimal(3)):
        world.use(acme, {"tokens.input": quantity})
    seal_all(world.database, key, now=world.now)
    with world.database.transaction(Role.OPERATOR, snapshot=True) as connection:
        document = make_bundle(
            connection, archive_place(str(tmp_path), Bucket()), acme, acme.billing_period(world.now)
        )
    verified = verify_document(Document(json.loads(json.dumps(document, default=str))))
    assert verified.problems == []
    assert f"{verified.totals['tokens.input']:f}" == "1000000000000000003.000000000000000001"
