"""Limits where another model answers than the one that was asked for."""

from __future__ import annotations

from dataclasses import replace

from billing.admission.amounts import PICO, Rates
from billing.admission.limit import Limit, Unit
from tests.api.proxy.conftest import TENANT
from tests.api.proxy.limits.conftest import RATES, LimitedYard, LimitedYards, limit_of

DEAR = Rates(input=10**13, cached_input=10**13, output=10**13)
"""Ten times as much as the others."""


def fall_back(world: LimitedYard, asked: str, *fallbacks: str, dear: str) -> None:
    """Have models answer in place of one, and one of them all cost more."""
    snapshot = world.yard.control.snapshot
    terms = snapshot.terms[TENANT]
    models = {**snapshot.models, asked: replace(snapshot.models[asked], fallbacks=fallbacks)}
    priced = replace(terms, rates={**terms.rates, dear: DEAR})
    world.yard.control.snapshot = replace(snapshot, models=models, terms={TENANT: priced})


def on_model(limit: Limit, model_id: int) -> Limit:
    return replace(limit, model_id=model_id)


TINY, RENAMED, DEAD = 1, 2, 3


async def test_what_is_drawn_is_at_the_price_of_the_model_that_served(
    limited: LimitedYards,
) -> None:
    world = await limited(limit_of(10**9 * PICO, Unit.MONEY))
    fall_back(world, "tiny", "renamed", dear="renamed")
    assert (await world.yard.chat(max_tokens=5)).status_code == 200
    usage = world.yard.journal.usage
    tokens = usage.counts.input + usage.counts.cached_input + usage.counts.output
    assert [draw.units for draw in usage.draws] == [tokens * 10**6]
    assert RATES.input * 10 == DEAR.input


async def test_a_dearer_fallback_that_served_is_drawn_at_its_own_price(
    limited: LimitedYards,
) -> None:
    world = await limited(limit_of(10**9 * PICO, Unit.MONEY))
    fall_back(world, "dead", "tiny", dear="tiny")
    answer = await world.yard.chat(model="dead", max_tokens=5)
    assert answer.headers["x-steelyard-served-model"] == "tiny"
    usage = world.yard.journal.usage
    tokens = usage.counts.input + usage.counts.cached_input + usage.counts.output
    assert [draw.units for draw in usage.draws] == [tokens * 10**7]


async def test_L6_a_limit_on_a_model_counts_what_it_answers_for_another(
    limited: LimitedYards,
) -> None:
    world = await limited(on_model(limit_of(2), TINY))
    fall_back(world, "dead", "tiny", dear="tiny")
    statuses = [(await world.yard.chat(model="dead")).status_code for _ in range(4)]
    assert statuses == [200, 200, 503, 503]
    await world.yard.settled()
    assert world.holds.held == {"budget": (0, 2)}
    assert (await world.yard.chat(model="tiny")).status_code == 429


async def test_a_fallback_whose_limit_is_reached_is_passed_over(limited: LimitedYards) -> None:
    world = await limited(on_model(limit_of(1), TINY), limit_of(10**9, Unit.TOKENS))
    fall_back(world, "dead", "tiny", "renamed", dear="tiny")
    served = [
        (await world.yard.chat(model="dead", stream=stream)).headers["x-steelyard-served-model"]
        for stream in (False, True, False)
    ]
    assert served == ["tiny", "renamed", "renamed"]
    await world.yard.settled()
    assert world.holds.held["budget"] == (0, 1)
    drawn = world.holds.held["budget-2"]
    counts = [usage.counts for usage in world.yard.journal.usages]
    assert drawn == (0, sum(each.input + each.cached_input + each.output for each in counts))


async def test_a_limit_on_a_model_does_not_count_what_another_answered_for_it(
    limited: LimitedYards,
) -> None:
    world = await limited(on_model(limit_of(2), DEAD))
    fall_back(world, "dead", "tiny", dear="tiny")
    statuses = [(await world.yard.chat(model="dead")).status_code for _ in range(3)]
    assert statuses == [200] * 3
    await world.yard.settled()
    assert world.holds.held == {"budget": (0, 0)}
