"""`steelyard ledger` and `steelyard verify-bundle`, and the verifier as a file of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import psycopg
import pytest

import billing.verifier
from billing.store.database import Database
from billing.store.embedded.address import ServerAddress
from tests.cli.conftest import Run
from tests.world import make_world


@pytest.fixture
def sealed(
    database: Database,
    now: datetime,
    steelyard: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Run:
    """A deployment whose one tenant has usage, sealed from the command line."""
    monkeypatch.setenv("STEELYARD_DATA_DIR", str(tmp_path / "data"))
    world = make_world(database, now)
    world.use(world.tenant("acme"), {"tokens.input": 1500, "requests": 2})
    assert "Nothing was sealed yet" in steelyard("ledger", "heads").out
    done = steelyard("ledger", "seal", "--json")
    assert done.document == {"folds": 1, "events": 2, "transactions": 0}
    assert "Nothing new" in steelyard("ledger", "seal").out
    return steelyard


def test_verify_says_that_all_holds_and_names_what_does_not(
    sealed: Run, postgres: ServerAddress, database_name: str
) -> None:
    assert "All is as it was sealed" in sealed("ledger", "verify").out
    assert sealed("ledger", "heads", "--json").document["signed_head"]["size"] == 1
    with psycopg.connect(postgres.owner_conninfo(database_name), autocommit=True) as owner:
        owner.execute("SET session_replication_role = replica")
        owner.execute("UPDATE usage_event SET ttft_us = ttft_us + 1")
        ids = {str(name) for (name,) in owner.execute("SELECT id FROM usage_event").fetchall()}
    ran = sealed("ledger", "verify", "--json")
    assert ran.status == 1
    assert {each["subject"] for each in ran.document["findings"]} == ids
    assert sealed("ledger", "verify").status == 1


def test_a_bundle_is_verified_by_the_command_and_by_the_lone_file(
    sealed: Run, tmp_path: Path
) -> None:
    path, verifier = tmp_path / "acme.json", tmp_path / "alone" / "verifier.py"
    made = sealed("ledger", "bundle", "acme", "--month", "2026-11", "-o", str(path))
    assert made.status == 0
    shown = sealed("verify-bundle", str(path), "--json")
    assert shown.document == {"problems": [], "totals": {"requests": "2", "tokens.input": "1500"}}
    verifier.parent.mkdir()
    verifier.write_text(sealed("ledger", "verifier").out)
    command = [sys.executable, "-I", "-S", str(verifier), str(path)]
    alone = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (alone.returncode, alone.stderr) == (0, "")
    assert "tokens.input  1500" in alone.stdout

    document = json.loads(path.read_text())
    document["entries"].pop()
    path.write_text(json.dumps(document))
    assert sealed("verify-bundle", str(path)).status == 1
    alone = subprocess.run(command, capture_output=True, text=True, check=False)
    assert alone.returncode == 1
    assert "PROBLEM" in alone.stdout


def test_what_is_no_bundle_is_refused(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for content in ("[]", "no json", '{"format": "steelyard-bundle v1"}'):
        path.write_text(content)
        ran = run("verify-bundle", str(path), "--json")
        assert ran.status == 1
        assert ran.error["code"] == "invalid_input"


def test_what_cannot_be_verified_names_the_file_at_fault(sealed: Run, tmp_path: Path) -> None:
    made, other = tmp_path / "acme.json", tmp_path / "other.json"
    assert sealed("ledger", "bundle", "acme", "--month", "2026-11", "-o", str(made)).status == 0
    gone = sealed("verify-bundle", str(other), "--json").error
    assert (gone["file"], "no such file" in gone["message"]) == (str(other), True)
    for content, said in ((None, "no such file"), ("{}", "neither a head nor a bundle")):
        if content is not None:
            other.write_text(content)
        refused = sealed("verify-bundle", str(made), "--kept", str(other), "--json").error
        assert (refused["field"], refused["file"]) == ("kept", str(other))
        assert said in refused["message"]
    verifier = str(billing.verifier.__file__)
    command = [sys.executable, "-I", "-S", verifier, str(tmp_path / "nobody.json")]
    alone = subprocess.run(command, capture_output=True, text=True, check=False)
    assert alone.returncode == 2
    assert "nobody.json" in alone.stderr
