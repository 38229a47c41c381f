"""M1: what was booked is what is shown, to the last unit of 10^-12."""

from __future__ import annotations

import dataclasses
import random
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.errors import InvalidInput, TieOutFailed
from billing.margin.allocation import TokenUsage, allocate_fleet, exact_sum
from billing.margin.cost_pool import CostPool, energy_cost, gpu_cost, overhead_cost
from billing.margin.loading import load_pool
from billing.margin.throughput import Throughput, measured_throughput
from billing.metering.token_class import TokenClass
from tests.margin.fleets import NOVEMBER, Fleet, fleets

BOOKS = {"period": NOVEMBER, "currency": "USD"}


def one_pool(*, gpu_hours: str, rate: str, usages: list[TokenUsage], tokens_per_second: int = 100):
    """A pool of one model, `tiny`, that needs 1/tokens_per_second GPU-seconds per output token."""
    pool = CostPool(
        slug="pool",
        throughputs=(
            Throughput(
                model="tiny",
                tokens_per_second={TokenClass.OUTPUT: Decimal(tokens_per_second)},
            ),
        ),
    )
    cost = gpu_cost(pool="pool", hours=Decimal(gpu_hours), rate=Decimal(rate), **BOOKS)
    fleet = allocate_fleet(pools=[pool], entries=[cost], usages=usages, **BOOKS)
    return fleet.pools[0]


def output(tenant: str, tokens: int, *, scrap: bool = False) -> TokenUsage:
    return TokenUsage(
        tenant=tenant,
        model="tiny",
        token_class=TokenClass.OUTPUT,
        tokens=tokens,
        scrap=scrap,
    )


@given(fleets())
def test_M1_every_booked_cost_is_allocated_scrap_idle_or_overhead(fleet: Fleet):
    split = fleet.allocate()
    parts = [
        part
        for pool in split.pools
        for part in (*(share.cost for share in pool.shares), pool.idle, pool.overhead)
    ]
    booked = sum((Fraction(entry.amount) for entry in fleet.entries), Fraction(0))
    assert sum(map(Fraction, parts), Fraction(0)) == booked


@given(fleets())
def test_M1_each_part_is_within_one_unit_of_its_exact_share(fleet: Fleet):
    unit = Fraction(1, 10**12)
    for pool in fleet.allocate().pools:
        by_time = Fraction(pool.booked) - Fraction(pool.overhead)
        base = max(pool.owned_gpu_hours, pool.busy_gpu_hours) * 3600
        for share in pool.shares:
            if base:
                assert abs(Fraction(share.cost) - by_time * share.gpu_seconds / base) < unit
            else:
                assert share.cost == 0


@given(fleets(), st.randoms(use_true_random=False))
def test_M1_order_and_splitting_of_usage_change_nothing(fleet: Fleet, shuffle: random.Random):
    halves = [
        dataclasses.replace(usage, tokens=tokens)
        for usage in fleet.usages
        for tokens in (usage.tokens // 3, usage.tokens - usage.tokens // 3)
    ]
    shuffle.shuffle(halves)
    assert dataclasses.replace(fleet, usages=tuple(halves)).allocate() == fleet.allocate()


@given(fleets())
def test_M1_loading_shares_all_cost_or_shows_it_unshared(fleet: Fleet):
    for pool in fleet.allocate().pools:
        loaded = load_pool(pool)
        shared = [(s.direct, s.idle, s.scrap, s.overhead) for s in loaded.shares]
        assert exact_sum(a for amounts in shared for a in amounts) + loaded.unshared == pool.booked
        if loaded.unshared:
            assert not any(share.gpu_seconds for share in pool.shares if not share.usage.scrap)


def test_idle_is_the_part_of_the_gpu_hours_that_no_token_used():
    # 100 tokens/s: an hour of one GPU is 360,000 tokens. 6 of 10 hours are used.
    split = one_pool(
        gpu_hours="10",
        rate="2",
        usages=[output("acme", 4 * 360_000), output("globex", 2 * 360_000)],
    )
    costs = {share.usage.tenant: share.cost for share in split.shares}
    assert costs == {"acme": Decimal(8), "globex": Decimal(4)}
    assert split.idle == Decimal(8)
    assert split.utilisation == Fraction(6, 10)


def test_over_subscription_scales_uses_to_what_was_owned():
    split = one_pool(
        gpu_hours="1",
        rate="3",
        usages=[output("acme", 2 * 360_000), output("globex", 360_000)],
    )
    assert [share.cost for share in split.shares] == [Decimal(2), Decimal(1)]
    assert split.idle == 0
    assert split.utilisation == 3


@pytest.mark.parametrize("usages", [[], [output("acme", 0)]])
@pytest.mark.parametrize("hours", ["0", "24"])
def test_without_use_all_cost_stays_idle(usages, hours):
    pool = CostPool(
        slug="pool",
        throughputs=(measured_throughput(model="tiny", input_rate=Decimal(1)),),
    )
    entries = [
        gpu_cost(pool="pool", hours=Decimal(hours), rate=Decimal(2), **BOOKS),
        energy_cost(
            pool="pool", kwh=Decimal(10), pue=Decimal("1.2"), tariff=Decimal("0.1"), **BOOKS
        ),
    ]
    split = allocate_fleet(pools=[pool], entries=entries, usages=usages, **BOOKS).pools[0]
    assert split.idle == split.booked == Decimal(hours) * 2 + Decimal("1.2")
    assert load_pool(split).unshared == split.booked


def test_tokens_without_a_measured_throughput_cost_nothing_and_leave_the_cost_idle():
    usage = TokenUsage(tenant="acme", model="tiny", token_class=TokenClass.INPUT, tokens=10**9)
    split = one_pool(gpu_hours="10", rate="2", usages=[usage])
    assert split.shares[0].cost == 0
    assert split.idle == Decimal(20)


def test_scrap_is_costed_apart_and_nobody_pays_it_directly():
    split = one_pool(
        gpu_hours="4",
        rate="1",
        usages=[output("acme", 360_000), output("acme", 2 * 360_000, scrap=True)],
    )
    assert (split.allocated, split.scrap, split.idle) == (1, 2, 1)
    (share,) = load_pool(split).shares
    assert (share.direct, share.scrap, share.idle) == (1, 2, 1)


def test_thirds_of_a_cent_sum_to_the_cent():
    split = one_pool(
        gpu_hours="1",
        rate="0.01",
        usages=[output(tenant, 120_000) for tenant in ("a", "b", "c")],
    )
    assert [share.cost for share in split.shares] == [
        Decimal("0.003333333334"),
        Decimal("0.003333333333"),
        Decimal("0.003333333333"),
    ]


def test_usage_of_a_model_that_no_pool_serves_is_shown_without_cost():
    usage = TokenUsage(tenant="acme", model="other", token_class=TokenClass.INPUT, tokens=5)
    assert allocate_fleet(pools=[], entries=[], usages=[usage], **BOOKS).uncosted == (usage,)


def test_an_allocation_that_loses_a_unit_cannot_be_made():
    split = one_pool(gpu_hours="1", rate="1", usages=[output("acme", 7)])
    with pytest.raises(TieOutFailed):
        dataclasses.replace(split, idle=split.idle - Decimal("0.000000000001"))


def test_a_cost_that_does_not_belong_is_refused():
    pool = CostPool(slug="pool", throughputs=())
    entry = overhead_cost(pool="pool", name="staff", amount=Decimal(1), **BOOKS)
    december = dataclasses.replace(NOVEMBER, end=NOVEMBER.end.replace(month=12, day=2))
    for wrong in (
        dataclasses.replace(entry, pool="other"),
        dataclasses.replace(entry, currency="EUR"),
        dataclasses.replace(entry, period=december),
    ):
        with pytest.raises(InvalidInput):
            allocate_fleet(pools=[pool], entries=[wrong], usages=[], **BOOKS)


def test_a_model_in_two_pools_is_refused():
    throughput = measured_throughput(model="tiny", input_rate=Decimal(1))
    pools = [CostPool(slug=slug, throughputs=(throughput,)) for slug in ("a", "b")]
    with pytest.raises(InvalidInput, match="same model"):
        allocate_fleet(pools=pools, entries=[], usages=[], **BOOKS)
    with pytest.raises(InvalidInput, match="twice"):
        CostPool(slug="a", throughputs=(throughput, throughput))
    with pytest.raises(InvalidInput, match="same slug"):
        allocate_fleet(pools=[pools[0], pools[0]], entries=[], usages=[], **BOOKS)


def test_negative_inputs_are_refused():
    with pytest.raises(InvalidInput):
        gpu_cost(pool="pool", hours=Decimal(-1), rate=Decimal(1), **BOOKS)
    with pytest.raises(InvalidInput):
        overhead_cost(pool="pool", name="staff", amount=Decimal(-1), **BOOKS)
    with pytest.raises(InvalidInput, match="PUE"):
        energy_cost(pool="pool", kwh=Decimal(1), pue=Decimal("0.9"), tariff=Decimal(1), **BOOKS)
    with pytest.raises(InvalidInput):
        one_pool(gpu_hours="1", rate="1", usages=[output("acme", -1)])
    with pytest.raises(InvalidInput):
        Throughput(model="tiny", tokens_per_second={TokenClass.INPUT: Decimal(0)})


def test_cached_input_is_ten_times_faster_until_measured():
    assumed = measured_throughput(model="m", input_rate=Decimal(50))
    measured = measured_throughput(
        model="m", input_rate=Decimal(50), cached_input_rate=Decimal(200)
    )
    assert assumed.gpu_seconds(TokenClass.CACHED_INPUT, 1000) == 2
    assert measured.gpu_seconds(TokenClass.CACHED_INPUT, 1000) == 5
    assert assumed.gpu_seconds(TokenClass.CACHE_WRITE, 1000) == 20
    assert assumed.gpu_seconds(TokenClass.OUTPUT, 1000) == 0
