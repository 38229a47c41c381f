"""L7 where the evidence is outside: archives, the exit status, and what a tenant kept.

An operator who rewrites everything that it holds can make it agree with itself. What does not
change then is a head that a tenant kept, and the tenant needs one file and no program of ours.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from billing.operations.seal.fold import seal_all
from billing.store.database import Database
from billing.store.embedded.address import ServerAddress
from tests.cli.conftest import Ran, run_command
from tests.invariants.tampering import Sealed, make_sealed

POSITIONS = 48


@pytest.fixture
def owner(postgres: ServerAddress, database_name: str) -> Iterator[sa.Engine]:
    engine = sa.create_engine(postgres.owner_url(database_name))
    yield engine
    engine.dispose()


@pytest.fixture
def sealed(
    database: Database,
    owner: sa.Engine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Sealed:
    sealed = make_sealed(database, owner, tmp_path)
    url = database.engine.url.render_as_string(hide_password=False)
    monkeypatch.setenv("STEELYARD_DATABASE_URL", url)
    monkeypatch.setenv("STEELYARD_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("STEELYARD_ARCHIVE_URL", str(sealed.folder))
    return sealed


def change(sealed: Sealed, *statements: str) -> None:
    """Changes by the owner with every guard switched off, for good."""
    with sealed.owner.begin() as connection:
        connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
        for statement in statements:
            connection.exec_driver_sql(statement)


def archive_of(sealed: Sealed) -> Path:
    (path,) = sealed.folder.glob("*.parquet")
    return path


@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        ("UPDATE usage_event SET duration_us = duration_us + 1", "event"),
        ("UPDATE usage_rollup SET quantity = quantity + 1", "rollup"),
        ("UPDATE seal_head SET root = sha256(root)", "head"),
        ("UPDATE posting SET line_key = line_key || 'x'", "transaction"),
        ("UPDATE usage_archive SET sha256 = sha256(sha256)", "archive"),
    ],
)
def test_L7_the_command_fails_and_says_what_is_wrong(
    sealed: Sealed, statement: str, kind: str
) -> None:
    assert run_command("ledger", "verify", "--json").status == 0
    change(sealed, statement)
    ran = run_command("ledger", "verify", "--json")
    assert ran.status == 1
    assert kind in {each["kind"] for each in ran.document["findings"]}


def test_L7_one_bit_anywhere_in_an_archive_is_named(sealed: Sealed) -> None:
    path = archive_of(sealed)
    whole = path.read_bytes()
    ends = [*range(4), *range(len(whole) - 12, len(whole))]
    places = sorted({*ends, *range(4, len(whole), max(1, len(whole) // POSITIONS))})
    assert len(places) > POSITIONS
    for place in places:
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        found = sealed.findings()
        assert any(each.kind == "archive" and path.name in each.subject for each in found), place
    path.write_bytes(whole[:-1])
    assert any(each.kind == "archive" for each in sealed.findings())
    path.unlink()
    assert any(each.kind == "archive" for each in sealed.findings())
    path.write_bytes(whole)
    assert sealed.findings() == []


def test_L7_an_archive_and_its_checksum_forged_together_meet_the_seal(sealed: Sealed) -> None:
    path = archive_of(sealed)
    whole = path.read_bytes()
    table = pq.read_table(path)
    at = table.column_names.index("duration_us")
    figures = [figure.as_py() + 1 for figure in table.column(at)]
    longer = pa.array(figures, table.column(at).type)
    for forged in (table.set_column(at, table.schema.field(at), longer), table.slice(1)):
        pq.write_table(forged, path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        found = sealed.findings(f"UPDATE usage_archive SET sha256 = '\\x{digest}'")
        assert {"archive", "event"} <= {each.kind for each in found}
    path.write_bytes(whole)


def test_L7_a_month_that_was_dropped_behind_a_forged_archive_is_named(sealed: Sealed) -> None:
    """Who may write archives down and who may drop months can, together, lose one: not unseen."""
    with sealed.owner.connect() as connection, connection.begin() as undone:
        for statement in (
            "SET LOCAL ROLE steelyard_operator",
            (
                "INSERT INTO usage_archive (month, ordinal, url, bytes, sha256, events, "
                "first_epoch, last_epoch, archived_at) SELECT '2026-12-01', 1, "
                "'usage-2026-12.1.parquet', 1, sha256(''), count(*), min(epoch), max(epoch), now() "
                "FROM usage_event"
            ),
            "SET LOCAL ROLE steelyard_maintainer",
            "SELECT drop_usage_month('2026-12-01', now())",
            "RESET ROLE",
        ):
            connection.exec_driver_sql(statement)
        undone.commit()
    found = sealed.findings()
    assert any(each.kind == "archive" and "2026-12" in each.subject for each in found)
    assert any(each.kind == "event" and "leaf" in each.subject for each in found)


def alone(tmp_path: Path, *arguments: str) -> Ran:
    """The verifier as a tenant runs it: one file, an isolated interpreter without packages."""
    verifier = tmp_path / "verifier.py"
    verifier.write_text(run_command("ledger", "verifier").out)
    command = [sys.executable, "-I", "-S", str(verifier), *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    return Ran(status=ran.returncode, out=ran.stdout, err=ran.stderr)


def bundle(path: Path, *, tenant: str = "acme", month: str = "2026-12") -> str:
    made = run_command("ledger", "bundle", tenant, "--month", month, "-o", str(path))
    assert made.status == 0, made.err
    return str(path)


RESEALED = (
    "DELETE FROM seal_head",
    "DELETE FROM seal_fold",
    "DELETE FROM seal_hashes",
    "DELETE FROM seal_tree",
    "INSERT INTO unsealed_transaction SELECT transaction_id FROM sealed_transaction",
    "DELETE FROM sealed_transaction",
)
"""A history without a seal: the next fold makes it a new one."""


def test_L7_what_events_carried_is_proved_from_the_archive_too(
    sealed: Sealed, tmp_path: Path
) -> None:
    honest = bundle(tmp_path / "b.json", tenant="cedar", month="2026-11")
    entries = json.loads(Path(honest).read_text())["entries"]
    carried = [member for each in entries for member in json.loads(each["record"])[27:]]
    assert sorted(texts for _, _, _, texts in carried) == [["9000", "eu"]] * 2 + [["us"]] * 2
    assert alone(tmp_path, honest).status == 0
    path = archive_of(sealed)
    table = pq.read_table(path)
    at = table.column_names.index("property_texts")
    texts = [said and ["x", *said[1:]] for said in table.column(at).to_pylist()]
    forged = pa.array(texts, table.column(at).type)
    pq.write_table(table.set_column(at, table.schema.field(at), forged), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    found = sealed.findings(f"UPDATE usage_archive SET sha256 = '\\x{digest}'")
    assert {"archive", "event"} <= {each.kind for each in found}
    forgery = bundle(tmp_path / "c.json", tenant="cedar", month="2026-11")
    assert "missing or changed" in alone(tmp_path, forgery).out


def test_L7_a_tenant_that_kept_its_head_finds_an_omitted_event(
    sealed: Sealed, tmp_path: Path
) -> None:
    kept = bundle(tmp_path / "kept.json")
    head = tmp_path / "head.json"
    head.write_text(json.dumps(json.loads(Path(kept).read_text())["head"]))
    assert alone(tmp_path, kept, "--kept", str(head)).status == 0
    ((event,),) = sealed.rows(
        f"SELECT id::text FROM usage_event WHERE tenant_id = {sealed.acme.id} "
        "AND run_id <> '' ORDER BY id LIMIT 1"
    )
    change(
        sealed,
        f"DELETE FROM usage_event WHERE id = '{event}'",
        "DELETE FROM usage_key WHERE event_id NOT IN (SELECT id FROM usage_event)",
        *RESEALED,
    )
    seal_all(sealed.database, sealed.key, now=sealed.world.now)
    forged = bundle(tmp_path / "forged.json")
    for known in (kept, str(head)):
        ran = alone(tmp_path, forged, "--kept", known)
        assert ran.status == 1
        assert "PROBLEM" in ran.out
    assert str(event) in alone(tmp_path, forged, "--kept", kept).out


def test_L7_a_history_cut_short_is_found_by_a_kept_head(sealed: Sealed, tmp_path: Path) -> None:
    """The newest folds go, with everything that they sealed: what is left agrees with itself."""
    kept = bundle(tmp_path / "kept.json")
    ((epoch,),) = sealed.rows("SELECT max(epoch) FROM usage_event WHERE run_id <> ''")
    change(
        sealed,
        f"DELETE FROM usage_event WHERE epoch > {epoch}",
        "DELETE FROM usage_correction",
        "DELETE FROM usage_key WHERE event_id NOT IN (SELECT id FROM usage_event)",
        *RESEALED,
    )
    seal_all(sealed.database, sealed.key, now=sealed.world.now)
    short = bundle(tmp_path / "short.json")
    assert len(json.loads(Path(short).read_text())["entries"]) < len(
        json.loads(Path(kept).read_text())["entries"]
    )
    ran = alone(tmp_path, short, "--kept", kept)
    assert ran.status == 1
    assert "PROBLEM" in ran.out
