"""`steelyard batch` at the terminal and for machines, with a backend over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from api.metrics import Metrics
from billing.operations.metering.settle_batch import LOST_AFTER
from billing.settings import Settings
from billing.store.batch_runs import BatchRun, insert_run
from billing.store.database import Database, Role
from tests.cli.conftest import Run
from tests.fake_engine.batch_shapes import BatchEngine, answered_line, batch_engine, failed_line
from tests.world import make_world
from workers.batches import settle_batches

BACKENDS = ("pool-a", "pool-b")


@pytest.fixture
def engine() -> Iterator[BatchEngine]:
    with batch_engine() as served:
        yield served


@pytest.fixture
def submitted(
    database: Database, engine: BatchEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> BatchRun:
    """A batch that goes on; commands find its backend."""
    now = datetime.now(UTC)
    world = make_world(database, now)
    file = tmp_path / "backends.yaml"
    file.write_text(
        "backends:\n" + "".join(f"  - {{name: {n}, url: {engine.base_url}}}\n" for n in BACKENDS)
    )
    monkeypatch.setenv("STEELYARD_BACKENDS", str(file))
    batch = BatchRun(
        batch_id=engine.submit(),
        backend="pool-a",
        tenant_id=world.tenant().id,
        project_id=1,
        key_id=1,
        model_id=None,
        price_version_id=1,
        endpoint="/v1/chat/completions",
        input_file_id="file-in",
        submitted_at=now - timedelta(hours=1),
    )
    record(database, batch)
    return batch


def told(database: Database) -> str:
    return Metrics(database, lambda: datetime.now(UTC)).text().decode()


def record(database: Database, batch: BatchRun) -> None:
    with database.transaction(Role.OPERATOR) as connection:
        insert_run(connection, batch)


@pytest.mark.usefixtures("submitted")
def test_a_batch_is_billed_when_asked_for(steelyard: Run, engine: BatchEngine) -> None:
    ran = steelyard("batch", "settle", "batch_1", "--json")
    assert (ran.status, ran.document["state"]) == (1, "open")
    engine.end(output=[answered_line("a"), b"?"], errors=[failed_line("b")])
    ran = steelyard("batch", "settle", "batch_1", "--json")
    assert ran.status == 0
    figures = {name: ran.document[name] for name in ("lines", "events", "errors", "unreadable")}
    assert figures == {"lines": 3, "events": 1, "errors": 1, "unreadable": 1}
    assert ran.document["outcome"] == "completed"
    assert "2 were answered, 1 are billed" in ran.document["problem"]
    listed = steelyard("batch", "list", "--json").document["batches"]
    assert listed == [ran.document]
    assert steelyard("batch", "list", "--state", "lost", "--json").document == {"batches": []}
    assert "billed" in steelyard("batch", "list", "--tenant", "acme").out


def test_what_was_lost_is_tried_again(
    steelyard: Run, engine: BatchEngine, submitted: BatchRun, database: Database, tmp_path: Path
) -> None:
    kept = engine.batches.pop(submitted.batch_id)
    settings = Settings(backends=str(tmp_path / "backends.yaml"))
    for now in (submitted.submitted_at, submitted.submitted_at + LOST_AFTER):
        settle_batches(database, settings, now=now)
    assert [each["batch"] for each in listed_as("lost", steelyard)] == ["batch_1"]
    metrics = told(database)
    assert 'steelyard_batch_runs{backend="pool-a",state="lost"} 1.0' in metrics
    assert 'steelyard_batch_problems{backend="pool-a",state="lost"} 1.0' in metrics
    engine.batches[submitted.batch_id] = kept
    engine.end(output=[answered_line("a")])
    assert steelyard("batch", "settle", "batch_1").status == 0
    metrics = told(database)
    assert 'steelyard_batch_lines_total{backend="pool-a",outcome="event"} 1.0' in metrics
    assert 'steelyard_batch_runs{backend="pool-a",state="billed"} 1.0' in metrics


def listed_as(state: str, steelyard: Run) -> list[dict[str, object]]:
    return steelyard("batch", "list", "--state", state, "--json").document["batches"]


def test_an_id_of_two_backends_needs_the_name_of_one(
    steelyard: Run, submitted: BatchRun, database: Database
) -> None:
    ran = steelyard("batch", "settle", "batch_2", "--json")
    assert ran.error["code"] == "not_found"
    record(database, replace(submitted, backend="pool-b"))
    assert "pool-a, pool-b" in steelyard("batch", "settle", "batch_1", "--json").error["message"]
    ran = steelyard("batch", "settle", "batch_1", "--backend", "pool-b", "--json")
    assert ran.document["backend"] == "pool-b"


def test_where_there_is_none_it_says_so(steelyard: Run) -> None:
    assert "No such batch" in steelyard("batch", "list").out


def test_metrics_are_told_while_the_database_is_away() -> None:
    away = Database("postgresql+psycopg://nobody@127.0.0.1:1/none")
    assert "steelyard_api_requests" in told(away)
    away.close()


def test_a_batch_is_counted_once_however_often_and_late_it_is_asked_for(
    engine: BatchEngine, submitted: BatchRun, database: Database, tmp_path: Path
) -> None:
    settings = Settings(backends=str(tmp_path / "backends.yaml"))
    begun = submitted.submitted_at
    at = [begun]
    often = Metrics(database, lambda: at[0])
    for hour in range(1, 5):
        batch = replace(submitted, batch_id=engine.submit(f"batch_of_{hour}"))
        record(database, batch)
        engine.end(batch.batch_id, output=[answered_line("a"), answered_line("b")])
        settle_batches(database, settings, now=begun + timedelta(hours=hour))
        for minutes in (0, 30, 59, 61, 59):
            at[0] = begun + timedelta(hours=hour, minutes=minutes)
            told_often = often.text().decode()
            billed = f'{{backend="pool-a",state="billed"}} {hour}.0'
            assert f"steelyard_batch_runs{billed}" in told_often
            events = f'{{backend="pool-a",outcome="event"}} {2 * hour}.0'
            assert f"steelyard_batch_lines_total{events}" in told_often
            assert 'steelyard_batch_runs{backend="pool-a",state="open"} 1.0' in told_often
