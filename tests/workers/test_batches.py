"""Batches of a backend, from their result files into the ledger, with the backend over HTTP."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from structlog.testing import capture_logs

from billing.admission.binding import Binding, ObjectKind
from billing.errors import Conflict, NotFound
from billing.metering.event_id import microseconds
from billing.operations.metering import settle_batch
from billing.operations.metering.ask_batch import batch_client
from billing.operations.metering.settle_batch import (
    CLOSED_MONTH,
    LOST_AFTER,
    NO_FILE,
    NOT_CONFIGURED,
    NOT_METERED,
    BatchSettler,
    reopen_batch,
)
from billing.operations.stored_objects.batches import is_awaited
from billing.store.batch_runs import BatchState
from billing.store.batch_settlement import Counted, unbilled_totals
from billing.store.database import Role, query
from billing.store.embedded.address import ServerAddress
from tests.fake_engine.batch_shapes import (
    answered_line,
    failed_line,
    unbegun_line,
)
from tests.metering.test_token_dimensions import BANDED, amounts, by_value, define, require_exact
from tests.operations.crash_points import dying_everywhere
from tests.workers.batch_bench import BACKEND, Bench, lines
from tests.world import MONTH_START
from workers.batches import settle_batches


def test_result_lines_reconcile_to_events(bench: Bench) -> None:
    bench.submit()
    assert bench.settle().ended is None
    bench.engine.end(
        output=[*lines(3, prompt=100, cached=40, output=7), b"not a line"],
        errors=[failed_line("x"), unbegun_line("y")],
    )
    settled = bench.settle()
    assert settled.state is BatchState.BILLED
    assert settled.billed_at == bench.world.now
    assert settled.counted == Counted(events=3, errors=2, unreadable=1)
    assert settled.counted.lines == 6
    ended_at = datetime.fromtimestamp(1_794_700_060, UTC)
    assert settled.ended is not None
    events = bench.events()
    assert [each["foreign_id"] for each in events] == [f"batch_1:r-{n:04d}" for n in range(3)]
    for each in events:
        assert each["source"] == f"batch:{BACKEND}"
        assert (each["model"], each["backend"], each["key_id"]) == ("tiny", BACKEND, 7)
        assert each["quantities"] == [60, 40, 0, 7, 1]
        # The backend's clock is a day behind the batch's begin here: it cannot have ended before.
        assert each["occurred_at"] == settled.ended.at > ended_at
        assert not each["estimated"]


def test_events_occur_when_the_batch_was_over_at_the_price_of_its_begin(bench: Bench) -> None:
    begun = bench.world.now - timedelta(days=14, hours=12)  # before the contract, which is free
    bench.submit(submitted_at=begun)
    bench.engine.end(output=lines(1))
    bench.settle()
    (event,) = bench.events()
    assert event["occurred_at"] == datetime.fromtimestamp(1_794_700_060, UTC)
    assert event["price_version_id"] == bench.read().batch.price_version_id


def test_polling_100_times_bills_once(bench: Bench) -> None:
    bench.submit()
    for _ in range(50):
        bench.settle()
    bench.engine.end(output=lines(4))
    for turn in range(50):
        assert bench.settle(later=timedelta(seconds=turn)).counted == Counted(events=4)
    assert len(bench.events()) == 4
    assert len(bench.engine.asked) == 52, "a batch that is billed is asked about no more"


@pytest.mark.parametrize("outcome", ["expired", "cancelled", "failed"])
def test_what_was_answered_is_billed_however_the_batch_ended(bench: Bench, outcome: str) -> None:
    bench.submit()
    bench.engine.end(output=lines(2), errors=[unbegun_line("x")], status=outcome)
    settled = bench.settle()
    assert (settled.state, settled.problem) == (BatchState.BILLED, None)
    assert settled.counted == Counted(events=2, errors=1)


def test_a_batch_that_answered_nothing_is_settled_without_events(bench: Bench) -> None:
    bench.submit()
    bench.engine.end(status="failed")
    settled = bench.settle()
    assert (settled.state, settled.problem) == (BatchState.BILLED, None)
    assert settled.counted == Counted()


def test_L3_an_id_that_comes_twice_is_billed_once_and_said(bench: Bench) -> None:
    bench.submit()
    bench.engine.end(output=[*lines(2), answered_line("r-0001"), answered_line("r-0000", output=9)])
    settled = bench.settle()
    assert settled.counted == Counted(events=2, unreadable=2)
    assert settled.problem == "4 were answered, 2 are billed"
    assert [each["quantities"][3] for each in bench.events()] == [5, 5]


def test_two_batches_may_name_their_lines_alike(bench: Bench) -> None:
    for batch_id in ("batch_1", "batch_2"):
        bench.submit(batch_id)
        bench.engine.end(batch_id, output=lines(2))
        assert bench.settle(batch_id).counted == Counted(events=2)
    assert len(bench.events()) == 4


def test_an_id_that_no_ledger_keeps_is_billed_by_its_hash(bench: Bench) -> None:
    bench.submit()
    long = ["x" * 300, "x" * 301, "a\0b"]
    bench.engine.end(output=[answered_line(custom_id) for custom_id in long])
    assert bench.settle().counted == Counted(events=3)
    assert all(each["foreign_id"].startswith("batch_1:sha256:") for each in bench.events())


def test_an_answer_without_usage_is_a_flagged_event(bench: Bench) -> None:
    bench.submit()
    line = answered_line("a")
    del line["response"]["body"]["usage"]
    bench.engine.end(output=[line])
    assert bench.settle().counted == Counted(events=1, anomalies=1)
    (event,) = bench.events()
    assert event["estimated"]
    assert event["quantities"] == [0, 0, 0, 0, 1]


def test_lines_that_are_missing_are_said(bench: Bench) -> None:
    bench.submit()
    bench.engine.end(output=lines(2))
    bench.engine.batches["batch_1"]["request_counts"] = {"total": 5, "completed": 2, "failed": 3}
    assert bench.settle().problem == "5 requests came back as 2 lines"


def test_L5_a_resumed_worker_bills_no_line_twice(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settle_batch, "PAGE_LINES", 2)
    bench.submit()
    bench.engine.end(
        output=lines(5), errors=[failed_line("x"), failed_line("y"), unbegun_line("z")]
    )
    settled = dying_everywhere(bench.database.engine, bench.settle)
    assert settled.state is BatchState.BILLED
    assert settled.counted == Counted(events=5, errors=3)
    assert [each["foreign_id"] for each in bench.events()] == [
        f"batch_1:r-{number:04d}" for number in range(5)
    ]


def test_L5_the_key_table_holds_where_the_place_in_the_file_was_lost(bench: Bench) -> None:
    bench.submit()
    bench.engine.end(output=lines(3))
    bench.settle()
    with bench.database.transaction(Role.OPERATOR) as connection:
        query(
            connection,
            "UPDATE batch_run SET state = 'open', billed_at = NULL, output_passed = 0, "
            "lines = 0, events = 0 RETURNING 1",
        )
    assert bench.settle().counted == Counted(unreadable=3)
    assert len(bench.events()) == 3


def test_workers_at_once_bill_each_line_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settle_batch, "PAGE_LINES", 1)
    bench.submit()
    bench.engine.end(output=lines(20))

    def settle(_: int) -> bool:
        with suppress(Conflict):
            bench.settle()
            return True
        return False

    with ThreadPoolExecutor(max_workers=4) as pool:
        assert any(pool.map(settle, range(4)))
    assert bench.settle().counted == Counted(events=20)
    assert len(bench.events()) == 20


def test_a_backend_that_is_away_is_asked_again(bench: Bench) -> None:
    bench.submit()
    bench.engine.end(output=lines(2))
    away = bench.settle(url="http://127.0.0.1:1")
    assert (away.state, away.ended) == (BatchState.OPEN, None)
    assert away.problem == "the backend does not answer, or broke off"
    bench.engine.status = 503
    assert bench.settle(later=LOST_AFTER * 100).problem == "the backend answers 503"
    bench.engine.status = 200
    assert bench.settle().counted == Counted(events=2)
    assert bench.read().problem is None


def test_a_file_that_breaks_off_is_read_on_from_its_last_page(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settle_batch, "PAGE_LINES", 1)
    bench.submit()
    bench.engine.end(output=lines(3))
    bench.engine.breaks_at = len(bench.engine.files["file-out-batch_1"]) - 10
    broken = bench.settle()
    assert (broken.state, broken.counted) == (BatchState.OPEN, Counted(events=2))
    bench.engine.breaks_at = None
    assert bench.settle().counted == Counted(events=3)
    assert len(bench.events()) == 3


def test_results_that_are_gone_are_lost_and_said_aloud(bench: Bench) -> None:
    bench.submit()
    bench.engine.end(output=lines(2))
    kept = bench.engine.files.pop("file-out-batch_1")
    assert bench.settle().state is BatchState.OPEN, "a gateway that restarts says so too"
    with capture_logs() as logs:
        settle_batches(
            bench.database, bench.settings(), now=bench.world.now + LOST_AFTER + timedelta(hours=1)
        )
    lost = bench.read()
    assert (lost.state, lost.counted) == (BatchState.LOST, Counted())
    assert lost.problem == "the backend has it no more"
    assert [each["log_level"] for each in logs] == ["error"]
    with bench.database.transaction(Role.OPERATOR) as connection:
        (totals,) = unbilled_totals(connection)
        assert (totals.state, totals.batches, totals.problems) == ("lost", 1, 1)
        assert (
            reopen_batch(connection, backend=BACKEND, batch_id="batch_1", now=bench.world.now).state
            is BatchState.OPEN
        )
    bench.engine.files["file-out-batch_1"] = kept
    assert bench.settle().counted == Counted(events=2)


def test_a_batch_that_the_backend_forgot_is_lost_and_one_that_came_back_is_not(
    bench: Bench,
) -> None:
    bench.submit()
    kept = bench.engine.batches.pop("batch_1")
    bench.settle()
    bench.engine.batches["batch_1"] = kept
    assert bench.settle(later=LOST_AFTER / 2).problem is None
    del bench.engine.batches["batch_1"]
    assert bench.settle(later=LOST_AFTER * 2).state is BatchState.OPEN
    assert bench.settle(later=LOST_AFTER * 3).state is BatchState.LOST


def test_answers_without_a_file_are_lost(bench: Bench) -> None:
    bench.submit()
    bench.engine.end(output=lines(2))
    bench.engine.batches["batch_1"]["output_file_id"] = None
    lost = bench.settle()
    assert (lost.state, lost.problem) == (BatchState.LOST, NO_FILE)


def test_what_cannot_be_asked_or_metered_stays_open_and_says_why(bench: Bench) -> None:
    bench.submit("batch_1", endpoint="/v1/audio/speech")
    assert bench.settle().problem == NOT_METERED
    bench.submit("batch_2")
    with batch_client() as client:
        settler = BatchSettler(database=bench.database, client=client, backends={})
        found = settler.settle(BACKEND, "batch_2", now=bench.world.now)
        assert (found.state, found.problem) == (BatchState.OPEN, NOT_CONFIGURED)
        with pytest.raises(NotFound):
            settler.settle(BACKEND, "batch_3", now=bench.world.now)


def test_a_batch_of_a_month_that_left_the_ledger_is_lost(
    bench: Bench, postgres: ServerAddress, database_name: str
) -> None:
    bench.submit(submitted_at=bench.world.now - timedelta(days=40))
    bench.engine.end(output=lines(1), at=int((bench.world.now - timedelta(days=30)).timestamp()))
    with psycopg.connect(postgres.owner_conninfo(database_name)) as owner:
        owner.execute(
            "WITH archive AS (INSERT INTO usage_archive (month, ordinal, url, bytes, sha256, "
            "events, archived_at) VALUES ('2026-10-01', 1, 'x', 0, %s, 0, %s) RETURNING *) "
            "INSERT INTO usage_horizon SELECT month, id, '2026-11-01T00:00Z', archived_at "
            "FROM archive",
            (bytes(32), bench.world.now),
        )
    lost = bench.settle()
    assert (lost.state, lost.problem) == (BatchState.LOST, CLOSED_MONTH)
    assert bench.events() == []


def test_a_turn_asks_about_young_batches_often_and_old_ones_seldom(bench: Bench) -> None:
    bench.submit("batch_young", submitted_at=bench.world.now - timedelta(seconds=30))
    bench.submit("batch_old", submitted_at=bench.world.now - timedelta(hours=20))
    settings, asked = bench.settings(), bench.engine.asked

    def turn(seconds: int) -> set[str]:
        asked.clear()
        settle_batches(bench.database, settings, now=bench.world.now + timedelta(seconds=seconds))
        return {path.rpartition("/")[2] for _, path in asked}

    assert turn(0) == {"batch_young", "batch_old"}
    assert turn(5) == set()
    assert turn(10) == {"batch_young"}
    assert turn(299) == {"batch_young"}
    assert turn(300) == {"batch_old"}


def test_one_batch_that_cannot_be_settled_stops_no_other(bench: Bench) -> None:
    bench.submit("batch_1")
    bench.submit("batch_2")
    bench.engine.end("batch_2", output=lines(1))
    bench.engine.batches["batch_1"] = {"status": 5}
    settled = settle_batches(bench.database, bench.settings(), now=bench.world.now)
    assert {each.batch.batch_id: each.state for each in settled} == {
        "batch_1": BatchState.OPEN,
        "batch_2": BatchState.BILLED,
    }


def test_a_batch_is_rated_like_the_requests_that_it_is_made_of(bench: Bench) -> None:
    bench.submit()
    bench.engine.end(output=lines(3, prompt=100, cached=40, output=7))
    bench.settle()
    with bench.database.transaction(Role.OPERATOR) as connection:
        rows = query(
            connection,
            "SELECT v.code, sum(r.quantity) AS quantity FROM usage_rollup r "
            "JOIN meter_version v ON v.id = r.meter_version_id GROUP BY 1",
        )
    assert {row.code: row.quantity for row in rows} == {
        "tokens.input": Decimal(180),
        "tokens.cached_input": Decimal(120),
        "tokens.output": Decimal(21),
        "requests": Decimal(3),
    }


def test_results_that_are_not_billed_are_awaited(bench: Bench) -> None:
    bench.submit(submitted_at=bench.world.now)

    def awaited(file_id: str, seconds: int, **changes: Any) -> bool:
        binding = Binding(
            kind=ObjectKind.FILE,
            backend=BACKEND,
            object_id=file_id,
            tenant_id=bench.tenant.id,
            project_id=1,
            key_id=1,
            model_id=None,
            created_at_us=microseconds(bench.world.now) + seconds * 1_000_000,
        )
        with bench.database.transaction(Role.OPERATOR) as connection:
            return is_awaited(connection, replace(binding, **changes))

    assert awaited("file-any", 1), "a batch goes on, and this came to be known since"
    assert not awaited("file-in", -1)
    assert not awaited("file-any", 1, tenant_id=bench.tenant.id + 1)
    assert not awaited("file-any", 1, backend="pool-b")
    bench.engine.end(output=lines(1), errors=[failed_line("x")])
    kept = bench.engine.files.pop("file-out-batch_1")
    bench.settle()
    assert not awaited("file-any", 1), "its files are known by now"
    assert awaited("file-out-batch_1", 1)
    assert awaited("file-err-batch_1", 1)
    bench.engine.files["file-out-batch_1"] = kept
    assert bench.settle().state is BatchState.BILLED
    assert not awaited("file-out-batch_1", 1)


def test_lines_of_a_batch_are_priced_in_their_band_as_a_batch(bench: Bench) -> None:
    define(bench.world, now=MONTH_START)
    bench.world.plan(BANDED)
    tenant = bench.world.tenant("deep", plan="banded")
    deep = replace(bench, tenant=tenant)
    deep.submit()
    deep.engine.end(output=[*lines(1, prompt=100, cached=40, output=7), answered_line("short")])
    assert deep.settle().counted.events == 2
    require_exact(bench.world)
    split = by_value(bench.world, tenant, "service_tier")
    assert {value for _, value in split} == {"batch"}
    assert by_value(bench.world, tenant, "context")["tokens.output", "100..1000"] == 7
    assert amounts(bench.world, tenant)["tokens/cached_input/100..1000/others"] == 40 * 100
