"""What an engine counted in an hour, from looks at its counters."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from billing.metering.leakage import (
    SETTLED_AFTER,
    EngineSample,
    EngineWork,
    Reconciled,
    engine_work,
    is_complete,
    leakage,
)
from billing.period import Period

START = datetime(2026, 11, 15, 12, tzinfo=UTC)
HOUR = Period(start=START, end=START + timedelta(hours=1))


def samples(*looks: tuple[int, int, int]) -> list[EngineSample]:
    """Samples of (second, prompt, generation)."""
    found: list[EngineSample] = []
    for second, prompt, generation in looks:
        sample = EngineSample(
            at=START + timedelta(seconds=second),
            engine_epoch=1,
            prompt=prompt,
            generation=generation,
        )
        found.append(sample.succeeds(found[-1] if found else None))
    return found


def every(step: int, *, start: int = 0, end: int = 3600) -> list[tuple[int, int, int]]:
    return [(second, second, 2 * second + 8000) for second in range(start, end + 1, step)]


def test_an_hour_that_was_watched_is_counted_exactly():
    assert engine_work(samples(*every(15)), HOUR) == EngineWork(
        prompt=3600, generation=7200, restarts=0, unbroken=True, counts_cached=True
    )


def test_a_gap_over_a_minute_leaves_an_hour_incomplete_and_loses_no_token():
    gapped = [look for look in every(15) if not 600 < look[0] < 661]
    work = engine_work(samples(*gapped), HOUR)
    assert work is not None
    assert (work.prompt, work.unbroken) == (3600, False)
    shorter = [look for look in every(15) if not 600 < look[0] < 660]
    found = engine_work(samples(*shorter), HOUR)
    assert found is not None
    assert found.unbroken


def test_an_hour_whose_first_or_last_minute_nobody_saw_is_incomplete():
    for looks in (every(15, start=15), every(15, end=3585)):
        work = engine_work(samples(*looks), HOUR)
        assert work is not None
        assert not work.unbroken


def test_an_hour_without_two_looks_is_not_known():
    assert engine_work([], HOUR) is None
    assert engine_work(samples((60, 5, 5)), HOUR) is None
    assert engine_work(samples((-30, 1, 1), (-15, 5, 5)), HOUR) is None


def test_a_counter_that_fell_is_a_restart_and_never_negative():
    work = engine_work(samples((0, 900, 900), (15, 1000, 1000), (30, 7, 3), (45, 10, 5)), HOUR)
    assert work is not None
    assert (work.prompt, work.generation, work.restarts) == (110, 105, 1)
    one_fell = engine_work(samples((0, 100, 900), (15, 120, 4)), HOUR)
    assert one_fell is not None
    assert (one_fell.prompt, one_fell.generation, one_fell.restarts) == (120, 4, 1)


counters = st.lists(
    st.tuples(st.integers(1, 1200), st.integers(0, 10**9), st.integers(0, 10**9)),
    min_size=2,
    max_size=60,
)


@given(counters)
def test_hours_add_up_to_what_was_counted_altogether(steps: list[tuple[int, int, int]]):
    second, looks = -1800, list[tuple[int, int, int]]()
    for wait, prompt, generation in steps:
        second += wait
        looks.append((second, prompt, generation))
    taken = samples(*looks)
    day = Period(start=START - timedelta(hours=12), end=START + timedelta(hours=36))
    whole = engine_work(taken, day)
    assert whole is not None
    hours = [
        engine_work(taken, Period(start=at, end=at + timedelta(hours=1)))
        for at in (day.start + timedelta(hours=n) for n in range(48))
    ]
    known = [work for work in hours if work is not None]
    assert sum(work.prompt for work in known) == whole.prompt >= 0
    assert sum(work.generation for work in known) == whole.generation >= 0
    assert sum(work.restarts for work in known) == whole.restarts


def test_an_hour_is_complete_once_it_is_over_and_settled():
    work = engine_work(samples(*every(15)), HOUR)
    assert work is not None
    settled = HOUR.end + SETTLED_AFTER
    assert is_complete(work, HOUR, journals_behind=0, now=settled)
    assert not is_complete(work, HOUR, journals_behind=1, now=settled)
    too_early = settled - timedelta(microseconds=1)
    assert not is_complete(work, HOUR, journals_behind=0, now=too_early)
    unwatched = replace(work, unbroken=False)
    assert not is_complete(unwatched, HOUR, journals_behind=0, now=settled)


def test_leakage_is_what_no_ledger_has_of_all_that_was_counted():
    row = Reconciled(
        backend="pool-a",
        hour=START,
        engine_prompt=600,
        engine_generation=400,
        ledger_prompt=600,
        ledger_generation=390,
        scrap_attempts=1,
        reasons={"crash": 1},
        journals_behind=0,
        restarts=0,
        complete=True,
    )
    assert leakage([row]) == Fraction(1, 100)
    assert leakage([replace(row, ledger_generation=400)]) == 0
    assert leakage([replace(row, ledger_generation=500)]) == Fraction(-1, 10)
    assert leakage([row, replace(row, ledger_generation=410)]) == 0
    assert leakage([replace(row, engine_prompt=0, engine_generation=0)]) is None
    assert leakage([]) is None
