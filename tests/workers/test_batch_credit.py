"""A prepaid batch holds what it can cost until it is settled, and draws what it did cost."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest
import sqlalchemy as sa

from billing.admission.amounts import PICO
from billing.ledger.hold import CREDIT, SpendLimit
from billing.operations.holds.holds import require_limit
from billing.operations.metering import settle_batch
from billing.operations.metering.ask_batch import batch_client
from billing.operations.metering.find_batch import BatchFinder
from billing.operations.minting import mint_id
from billing.operations.stored_objects.batches import (
    CreditShort,
    CreditWanted,
    intend_batch,
    record_batch,
    refuse_batch,
)
from billing.planfiles.backend_file import BackendSpec
from billing.store.batch_runs import BatchRun, BatchState, read_run
from billing.store.database import Role
from tests.credits.grants import give
from tests.operations.crash_points import dying_everywhere
from tests.workers.batch_bench import BACKEND, Bench, lines

COST = Decimal("0.0000588")
"""Of three lines: 3 x (60 x 0.20 + 40 x 0.05 + 7 x 0.80) / 1,000,000."""


@pytest.fixture
def prepaid(bench: Bench) -> Bench:
    """A tenant with 10 USD."""
    with bench.database.transaction(Role.OPERATOR) as connection:
        give(connection, bench.tenant, "10", key="credit", now=bench.world.now)
    return bench


def credit(bench: Bench) -> SpendLimit:
    with bench.database.transaction(Role.OPERATOR) as connection:
        return require_limit(
            connection, tenant=bench.tenant, name=CREDIT, currency_code="USD", now=bench.world.now
        )


def intended(bench: Bench) -> BatchRun:
    """A batch that no backend has named."""
    bench.submit("batch_pattern")
    with bench.database.transaction(Role.OPERATOR) as connection:
        pattern = read_run(connection, backend=BACKEND, batch_id="batch_pattern")
    assert pattern is not None
    hold_id = mint_id(bench.world.now)
    return replace(pattern, batch_id=f"req_{hold_id.hex}", hold_id=hold_id)


def intend(bench: Bench, batch: BatchRun, major: int) -> CreditShort | None:
    wanted = CreditWanted(limit_id=credit(bench).id, amount=major * PICO)

    def work(connection: sa.Connection) -> CreditShort | None:
        return intend_batch(connection, batch, credit=wanted, now=bench.world.now)

    return bench.database.retrying(Role.OPERATOR, work)


def record(bench: Bench, batch: BatchRun, batch_id: str) -> None:
    bench.engine.submit(batch_id)
    with bench.database.transaction(Role.OPERATOR) as connection:
        named = replace(batch, batch_id=batch_id)
        record_batch(connection, named, [], request_id=batch.batch_id)


def states(bench: Bench) -> dict[str, str]:
    with bench.database.transaction(Role.OPERATOR) as connection:
        rows = connection.execute(sa.text("SELECT batch_id, state FROM batch_run")).all()
    return {row.batch_id: row.state for row in rows if row.batch_id != "batch_pattern"}


def test_what_a_batch_can_cost_is_held_until_it_is_settled_and_its_cost_is_drawn(
    prepaid: Bench,
) -> None:
    first, second = intended(prepaid), intended(prepaid)
    assert intend(prepaid, first, 6) is None
    assert intend(prepaid, first, 6) is None, "the same again"
    short = intend(prepaid, second, 6)
    assert short == CreditShort(used=6 * PICO, capacity=10 * PICO, currency="USD")
    assert states(prepaid) == {first.batch_id: "intended"}
    record(prepaid, first, "batch_1")
    assert (credit(prepaid).held, credit(prepaid).spent) == (6, 0)
    prepaid.engine.end(output=lines(3, prompt=100, cached=40, output=7))
    assert prepaid.settle().state is BatchState.BILLED
    assert (credit(prepaid).held, credit(prepaid).spent) == (0, COST)
    assert credit(prepaid).available == 10 - COST
    assert intend(prepaid, second, 6) is None


def test_L5_a_worker_that_dies_draws_and_frees_once(
    prepaid: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settle_batch, "PAGE_LINES", 2)
    batch = intended(prepaid)
    intend(prepaid, batch, 6)
    record(prepaid, batch, "batch_1")
    prepaid.engine.end(output=lines(3, prompt=100, cached=40, output=7))
    dying_everywhere(prepaid.database.engine, prepaid.settle)
    assert (credit(prepaid).held, credit(prepaid).spent) == (0, COST)


def test_L5_a_batch_that_is_given_up_frees_what_it_held_once(prepaid: Bench) -> None:
    batch = intended(prepaid)

    def work() -> None:
        def steps(connection: sa.Connection) -> None:
            refuse_batch(
                connection, backend=BACKEND, request_id=batch.batch_id, now=prepaid.world.now
            )

        assert intend(prepaid, batch, 6) is None
        prepaid.database.retrying(Role.OPERATOR, steps)

    dying_everywhere(prepaid.database.engine, work)
    assert states(prepaid) == {batch.batch_id: "refused"}
    assert (credit(prepaid).held, credit(prepaid).available) == (0, 10)


def test_L6_batches_at_once_hold_no_more_than_there_is(prepaid: Bench) -> None:
    batches = [intended(prepaid) for _ in range(12)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda batch: intend(prepaid, batch, 3), batches))
    assert answers.count(None) == 3
    assert (credit(prepaid).held, len(states(prepaid))) == (9, 3)


def test_a_lost_batch_holds_nothing(prepaid: Bench) -> None:
    batch = intended(prepaid)
    intend(prepaid, batch, 6)
    record(prepaid, batch, "batch_1")
    del prepaid.engine.batches["batch_1"]
    prepaid.settle()
    assert credit(prepaid).held == 6, "it may come back"
    assert prepaid.settle(later=settle_batch.LOST_AFTER).state is BatchState.LOST
    assert credit(prepaid).held == 0


def look_for(bench: Bench, later: timedelta) -> tuple[int, int]:
    spec = BackendSpec(name=BACKEND, url=bench.engine.base_url, engine="generic", models=())
    with batch_client() as client:
        finder = BatchFinder(database=bench.database, client=client, backends={BACKEND: spec})
        return finder.find(now=bench.world.now + later)


def test_a_batch_that_never_ran_is_given_up_after_an_hour_if_its_backend_says_so(
    prepaid: Bench,
) -> None:
    batch = replace(intended(prepaid), submitted_at=prepaid.world.now)
    intend(prepaid, batch, 6)
    hour = timedelta(hours=1)
    assert look_for(prepaid, hour - timedelta(seconds=1)) == (0, 0)
    prepaid.engine.status = 503
    assert look_for(prepaid, hour) == (0, 0), "nothing follows from no answer"
    prepaid.engine.status = 200
    assert look_for(prepaid, hour) == (0, 1)
    assert states(prepaid) == {batch.batch_id: "refused"}
    assert credit(prepaid).held == 0


def test_L5_a_batch_that_was_found_for_an_earlier_intention_is_recorded_once(
    prepaid: Bench,
) -> None:
    """Its proxy was slow: the worker has taken what it is about to record for the other's."""
    first, second = intended(prepaid), intended(prepaid)
    for batch in (first, second):
        intend(prepaid, batch, 3)
    record(prepaid, first, "batch_1")
    record(prepaid, second, "batch_1")
    assert states(prepaid) == {"batch_1": "open", second.batch_id: "refused"}
    assert credit(prepaid).held == 3
