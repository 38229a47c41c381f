"""Published unit economics: our figures against other people's, within their printed precision.

The cases are facts from outside (tests/golden/margin_cases.json); those named here are the ones
whose formula the margin report contains.
"""

from __future__ import annotations

import json
from decimal import Decimal
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

from billing.margin.allocation import PoolAllocation, TokenUsage, allocate_fleet
from billing.margin.cost_pool import CostPool, gpu_cost, overhead_cost
from billing.margin.figures import cost_profit_margin, gross_margin, per_million_for_display
from billing.margin.throughput import Throughput
from billing.metering.token_class import TokenClass
from tests.margin.fleets import NOVEMBER

CASES = Path(__file__).parents[1] / "golden" / "margin_cases.json"
BOOKS = {"period": NOVEMBER, "currency": "USD"}


@cache
def case(name: str) -> dict[str, Any]:
    """A case, numbers read as exact decimals."""
    cases = json.loads(CASES.read_text(), parse_float=Decimal)["cases"]
    return next(found for found in cases if found["id"] == name)


def assert_expected(name: str, figure: str, ours: Decimal | Fraction | list[Fraction]) -> None:
    """Compare a figure, or a list of them, with the case's within its stated tolerance."""
    expected = next(e for e in case(name)["expected"] if e["name"] == figure)
    theirs = expected["value"]
    pairs = zip(ours, theirs, strict=True) if isinstance(ours, list) else [(ours, theirs)]
    for mine, published in pairs:
        assert_within(Fraction(mine), Fraction(str(published)), expected["tol"])


def assert_within(mine: Fraction, published: Fraction, tolerance: dict[str, Any]) -> None:
    match tolerance:
        case {"exact": True}:
            assert mine == published
        case {"abs": allowed}:
            assert abs(mine - published) <= Fraction(str(allowed))
        case {"rel": allowed}:
            assert abs(mine - published) <= abs(published) * Fraction(str(allowed))
        case _:
            raise AssertionError(f"unknown tolerance {tolerance}")


def one_pool(
    *, hours: Decimal, rate: Decimal, per_second: dict[TokenClass, Decimal], tokens: dict[str, int]
) -> PoolAllocation:
    """A pool of one model, used by one tenant; `tokens` by token class."""
    pool = CostPool(slug="pool", throughputs=(Throughput(model="m", tokens_per_second=per_second),))
    usages = [
        TokenUsage(tenant="t", model="m", token_class=TokenClass(name), tokens=count)
        for name, count in tokens.items()
    ]
    cost = gpu_cost(pool="pool", hours=hours, rate=rate, **BOOKS)
    return allocate_fleet(pools=[pool], entries=[cost], usages=usages, **BOOKS).pools[0]


def test_deepseek_day_cost_revenue_and_both_margins():
    name = "deepseek-v3r1-day"
    given = case(name)["inputs"]
    hours = given["avg_nodes"] * given["gpus_per_node"] * given["hours"]
    rate = Decimal(given["usd_per_gpu_hour"])
    cost = gpu_cost(pool="pool", hours=hours, rate=rate, **BOOKS).amount
    prices = given["price_usd_per_million"]
    revenue = sum(
        (given["tokens"][kind] * Decimal(price) / 10**6 for kind, price in prices.items()),
        Decimal(0),
    )
    assert_expected(name, "daily_cost_usd", cost)
    assert_expected(name, "daily_revenue_usd_from_rounded_tokens", revenue)
    assert_expected(name, "theoretical_daily_profit_usd", revenue - cost)
    of_cost, of_revenue = cost_profit_margin(revenue, cost), gross_margin(revenue, cost)
    assert of_cost is not None
    assert of_revenue is not None
    assert_expected(name, "cost_profit_margin_percent", of_cost * 100)
    assert_expected(name, "gross_margin_percent", of_revenue * 100)


def test_deepseek_day_split_between_prefill_and_decode():
    name = "deepseek-v3r1-prefill-decode-split"
    given = case(name)["inputs"]
    gpus = 8
    cost = Decimal(given["day_cost_usd"])
    hours = given["avg_nodes_published"] * gpus * 24
    rates = {
        TokenClass.INPUT: Decimal(given["node_tps"]["prefill"]) / gpus,
        TokenClass.OUTPUT: Decimal(given["node_tps"]["decode"]) / gpus,
    }
    tokens = {"input": given["tokens"]["input_total"], "output": given["tokens"]["output"]}
    split = one_pool(hours=hours, rate=cost / hours, per_second=rates, tokens=tokens)
    prefill, decode = split.shares
    node_day = gpus * 86_400
    assert_expected(name, "prefill_nodes", prefill.gpu_seconds / node_day)
    assert_expected(name, "decode_nodes", decode.gpu_seconds / node_day)
    assert_expected(name, "sum_nodes_vs_published_average", split.busy_gpu_hours / (gpus * 24))
    assert_expected(name, "prefill_cost_usd", prefill.cost)
    assert_expected(name, "decode_cost_usd", decode.cost)
    of_input = per_million_for_display(prefill.cost, tokens["input"])
    of_output = per_million_for_display(decode.cost, tokens["output"])
    assert of_input is not None
    assert of_output is not None
    assert_expected(name, "usd_per_million_input_including_cache_hits", of_input)
    assert_expected(name, "usd_per_million_output", of_output)
    assert_expected(name, "output_to_input_cost_ratio", Fraction(of_output) / Fraction(of_input))


def saturated_cost_per_million(rate: Decimal, per_second: Decimal) -> Fraction:
    """A GPU that is busy for 1,000 hours with nothing but output."""
    split = one_pool(
        hours=Decimal(1000),
        rate=rate,
        per_second={TokenClass.OUTPUT: per_second},
        tokens={"output": int(per_second * 3_600_000)},
    )
    per_million = per_million_for_display(split.allocated, split.shares[0].usage.tokens)
    assert per_million is not None
    assert split.utilisation == 1
    return Fraction(per_million)


def test_cost_per_million_from_hourly_rate_and_throughput():
    name = "gpu-rate-formula-4-rows"
    ours = [
        saturated_cost_per_million(Decimal(row["usd_per_hour"]), Decimal(row["tps"]))
        for row in case(name)["inputs"]["rows"]
    ]
    assert_expected(name, "usd_per_million", ours)


def test_cost_per_million_of_24_published_configurations():
    given = case("inferencex-tokens-per-megawatt")["inputs"]
    assert len(given["rows"]) == 24
    for row in given["rows"]:
        rate = Decimal(given["usd_per_gpu_hour_implied"][row["gpu"]])
        ours = saturated_cost_per_million(rate, Decimal(row["tok_s_gpu"]))
        assert_within(ours, Fraction(row["usd_per_million_published"]), {"rel": "0.08"})


def test_gross_margin_against_a_list_price():
    name = "deluair-gross-margin"
    given = case(name)["inputs"]
    margin = gross_margin(
        Decimal(given["price_per_million"]), Decimal(given["cost_per_million"]["total"])
    )
    assert margin is not None
    assert_expected(name, "gross_margin_percent", margin * 100)


def test_utilisation_is_the_realised_share_of_what_was_possible():
    name = "seed-utilization-60"
    hours = Decimal(100)
    busy = int(Decimal(case(name)["inputs"]["utilization"]) * hours * 3600)
    split = one_pool(
        hours=hours,
        rate=Decimal(2),
        per_second={TokenClass.OUTPUT: Decimal(1)},
        tokens={"output": busy},
    )
    assert split.utilisation is not None
    assert_expected(name, "realized_share_of_potential", split.utilisation)


def test_workload_idle_and_overhead_add_up_to_the_total():
    name = "opencost-identities"
    given = case(name)["inputs"]["example"]
    nodes, requested = Decimal(given["gpu_nodes_cost"]), int(given["requested"])
    pool = CostPool(
        slug="pool",
        throughputs=(Throughput(model="m", tokens_per_second={TokenClass.OUTPUT: Decimal(1)}),),
    )
    usage = TokenUsage(
        tenant="t", model="m", token_class=TokenClass.OUTPUT, tokens=requested * 3600
    )
    entries = [
        gpu_cost(pool="pool", hours=nodes, rate=Decimal(1), **BOOKS),
        overhead_cost(pool="pool", name="fixed", amount=Decimal(given["overhead"]), **BOOKS),
    ]
    split = allocate_fleet(pools=[pool], entries=entries, usages=[usage], **BOOKS).pools[0]
    assert_expected(name, "workload_cost", split.allocated)
    assert_expected(name, "idle_cost", split.idle)
    assert_expected(name, "total", split.booked)
    assert split.utilisation is not None
    assert_expected(name, "idle_percent", (1 - split.utilisation) * 100)
