"""Under which model, and in which classes, a line of a batch is billed."""

from __future__ import annotations

from datetime import timedelta

from billing.operations.metering.unrated_usage import unrated_usage
from billing.planfiles.backend_file import BackendModel
from billing.store.batch_settlement import Counted
from billing.store.database import Role
from tests.fake_engine.batch_shapes import (
    answered_line,
)
from tests.workers.batch_bench import Bench, lines


def test_a_model_is_billed_by_the_name_that_tenants_know(bench: Bench) -> None:
    bench.submit()
    bench.engine.end(output=lines(1, model="org/tiny-8b"))
    settled = bench.settle(models=[BackendModel(name="tiny", upstream="org/tiny-8b")])
    assert settled.counted == Counted(events=1)
    assert bench.events()[0]["model"] == "tiny"


def test_of_two_names_for_one_model_the_batchs_own_counts(bench: Bench) -> None:
    bench.submit(model="tiny-batch")
    bench.engine.end(output=lines(1, model="org/tiny-8b"))
    bench.settle(
        models=[
            BackendModel(name="tiny", upstream="org/tiny-8b"),
            BackendModel(name="tiny-batch", upstream="org/tiny-8b"),
        ]
    )
    assert bench.events()[0]["model"] == "tiny-batch"


def test_a_dated_name_is_the_batchs_one_model(bench: Bench) -> None:
    bench.submit(model="tiny")
    bench.engine.end(output=lines(1, model="tiny-2026-11-01"))
    assert bench.settle().counted == Counted(events=1)
    assert bench.events()[0]["model"] == "tiny"


def test_what_was_written_to_a_cache_has_a_class_where_the_model_has_one(bench: Bench) -> None:
    line = answered_line("a", prompt=100, cached=40)
    line["response"]["body"]["usage"]["prompt_tokens_details"]["cache_write_tokens"] = 10
    bench.submit("batch_1", model="tiny")
    bench.engine.end("batch_1", output=[line])
    bench.settle("batch_1")
    line["response"]["body"]["model"] = "tiny-2026-11-01"
    bench.submit("batch_2", model="tiny")
    bench.engine.end("batch_2", output=[line])
    bench.settle("batch_2", models=[BackendModel(name="tiny", cache_write=True)])
    assert [each["quantities"] for each in bench.events()] == [
        [60, 40, 0, 5, 1],
        [50, 40, 10, 5, 1],
    ]


def test_R5_an_unknown_model_waits_among_what_is_not_rated(bench: Bench) -> None:
    bench.submit()
    bench.engine.end(output=lines(1, model="mystery"))
    assert bench.settle().counted == Counted(events=1, anomalies=1)
    now = bench.world.now
    with bench.database.transaction(Role.OPERATOR) as connection:
        waiting = unrated_usage(connection, instant=now, now=now + timedelta(hours=1))
    assert {(each.quantity.meter, each.quantity.model) for each in waiting} == {
        ("tokens.input", "mystery"),
        ("tokens.output", "mystery"),
    }
