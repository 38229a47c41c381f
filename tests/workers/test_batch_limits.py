"""What batches use counts in the limits of their tenants, once."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest

from billing.admission.limit import Unit, Window
from billing.operations.holds.define_limit import LimitTerms, define_limit, list_limits
from billing.operations.metering import settle_batch
from billing.store.database import Role
from tests.fake_engine.batch_shapes import BatchEngine, answered_line, failed_line
from tests.operations.crash_points import dying_everywhere
from tests.workers.batch_bench import Bench, lines

MANY = Decimal(1_000_000)
LIMITS = {
    "money": LimitTerms(unit=Unit.MONEY, window=Window.MONTH, capacity=MANY, currency="USD"),
    "spent": LimitTerms(unit=Unit.MONEY, capacity=Decimal(0), currency="USD"),
    "tokens": LimitTerms(unit=Unit.TOKENS, window=Window.DAY, capacity=MANY),
    "requests": LimitTerms(unit=Unit.REQUESTS, window=Window.WEEK, capacity=MANY),
    "of-model": LimitTerms(unit=Unit.TOKENS, window=Window.DAY, capacity=MANY, model="tiny"),
    "of-other": LimitTerms(unit=Unit.TOKENS, window=Window.DAY, capacity=MANY, model="other"),
    "rate": LimitTerms(unit=Unit.REQUESTS, window=Window.MINUTE, capacity=MANY),
    "at-once": LimitTerms(unit=Unit.SLOTS, capacity=MANY),
}


@pytest.fixture
def limited(bench: Bench) -> Bench:
    """A tenant with every kind of limit, set after it has used a model once."""
    now = bench.world.now
    bench.submit()
    bench.engine.end(output=[answered_line("other", model="other", prompt=1, output=1)])
    bench.settle()
    with bench.database.transaction(Role.OPERATOR) as connection:
        for name, terms in LIMITS.items():
            define_limit(connection, tenant=bench.tenant, name=name, terms=terms, now=now)
    return bench


def used(bench: Bench) -> dict[str, Decimal]:
    with bench.database.transaction(Role.OPERATOR) as connection:
        found = list_limits(connection, tenant=bench.tenant, now=bench.world.now)
    return {each.row.name: each.row.used for each in found}


def three_lines(engine: BatchEngine) -> None:
    engine.end(
        "batch_2",
        output=lines(3, prompt=100, cached=40, output=7),
        errors=[failed_line("x"), failed_line("y")],
    )


EXPECTED = {
    # 3 x (60 x 0.20 + 40 x 0.05 + 7 x 0.80) / 1,000,000
    "money": Decimal("0.0000588"),
    "spent": Decimal("0.0000588"),
    "tokens": Decimal(321),
    "requests": Decimal(3),
    "of-model": Decimal(321),
    "of-other": Decimal(0),
    "rate": Decimal(0),
    "at-once": Decimal(0),
}


def test_a_batch_counts_in_every_limit_that_it_is_under(limited: Bench) -> None:
    limited.submit("batch_2")
    three_lines(limited.engine)
    limited.settle("batch_2")
    assert used(limited) == EXPECTED


def test_L5_a_worker_that_dies_draws_each_line_once(
    limited: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settle_batch, "PAGE_LINES", 2)
    limited.submit("batch_2")
    three_lines(limited.engine)
    dying_everywhere(limited.database.engine, lambda: limited.settle("batch_2"))
    assert used(limited) == EXPECTED


def test_a_window_that_has_passed_counts_no_more(limited: Bench) -> None:
    limited.submit("batch_2", submitted_at=limited.world.now - timedelta(days=2))
    three_lines(limited.engine)
    limited.engine.batches["batch_2"]["completed_at"] = int(
        (limited.world.now - timedelta(days=1)).timestamp()
    )
    limited.submit("batch_3")
    limited.engine.end("batch_3", output=lines(1))
    limited.settle("batch_3")
    today = used(limited)
    limited.settle("batch_2")
    later = used(limited)
    assert later["tokens"] == today["tokens"] == Decimal(15)
    assert later["money"] > today["money"], "the month goes on"
