"""Cost files: what the example says, and that every refusal names its line and field."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from billing.errors import InvalidPlan
from billing.margin.cost_pool import CostCategory, owned_gpu_hours
from billing.metering.token_class import TokenClass
from billing.period import Period
from billing.planfiles.cost_file import read_costs
from billing.planfiles.plan_file import EXAMPLES

GOOD = """\
currency: USD
period: 2026-11
zone: Europe/Berlin
pools:
  - slug: chat
    gpu:
      hours: 720
      rate: "2.5"
    energy:
      kwh: 100
      pue: "1.2"
      tariff: "0.10"
    overhead:
      - name: staff
        amount: "10"
    models:
      llama-3.1-8b:
        input: 1000
        output: 100
  - slug: spare
    gpu: {hours: 0, rate: 0}
    models:
      other: {input: 1}
"""


def test_the_example_is_valid():
    sheet = read_costs((EXAMPLES / "costs.yaml").read_bytes())
    assert [pool.slug for pool in sheet.pools] == ["chat", "embeddings"]
    amounts = {
        (entry.pool, entry.category, entry.inputs.get("name")): entry.amount
        for entry in sheet.entries
    }
    assert amounts == {
        ("chat", CostCategory.GPU, None): Decimal(12096),
        ("chat", CostCategory.ENERGY, None): Decimal("554.4"),
        ("chat", CostCategory.OVERHEAD, "operations staff"): Decimal(1800),
        ("chat", CostCategory.OVERHEAD, "network"): Decimal(240),
        ("embeddings", CostCategory.GPU, None): Decimal(936),
        ("embeddings", CostCategory.ENERGY, None): Decimal("42.625"),
    }
    assert owned_gpu_hours(sheet.entries) == 5760 + 720
    assert sheet.booked == Decimal("15669.025")


def test_a_month_is_bounded_by_the_midnights_of_its_zone():
    sheet = read_costs(GOOD)
    assert sheet.period == Period(
        start=datetime(2026, 10, 31, 23, tzinfo=UTC), end=datetime(2026, 11, 30, 23, tzinfo=UTC)
    )
    assert {entry.period for entry in sheet.entries} == {sheet.period}


def test_a_period_by_instants():
    spelled = "period: {from: 2026-11-01T00:00:00Z, to: 2026-11-08T00:00:00+00:00}"
    sheet = read_costs(GOOD.replace("period: 2026-11", spelled))
    assert sheet.period == Period(
        start=datetime(2026, 11, 1, tzinfo=UTC), end=datetime(2026, 11, 8, tzinfo=UTC)
    )


def test_throughput_has_defaults_for_the_caches_only():
    (model,) = read_costs(GOOD).pools[0].throughputs
    assert model.tokens_per_second == {
        TokenClass.INPUT: 1000,
        TokenClass.CACHED_INPUT: 10_000,
        TokenClass.CACHE_WRITE: 1000,
        TokenClass.OUTPUT: 100,
    }


@pytest.mark.parametrize(
    ("old", "new", "line", "field"),
    [
        ("currency: USD\n", "", None, "currency"),
        ("currency: USD", "currency: XXX", 1, "currency"),
        ("period: 2026-11", "period: 2026-13", 2, "period"),
        ("period: 2026-11", "period: {from: 2026-11-01, to: 2026-11-08}", 2, "period.from"),
        (
            "period: 2026-11",
            "period: {from: 2026-11-08T00:00:00Z, to: 2026-11-01T00:00:00Z}",
            2,
            "period",
        ),
        ("zone: Europe/Berlin", "zone: Europe/Atlantis", 3, "zone"),
        ("slug: chat", "slug: Chat Pool", 5, "pools[0].slug"),
        ('rate: "2.5"', "rate: 2.5", 8, "pools[0].gpu.rate"),
        ('rate: "2.5"', 'rate: "2,5"', 8, "pools[0].gpu.rate"),
        ('rate: "2.5"', 'rate: "-2.5"', 8, "pools[0].gpu.rate"),
        ('      rate: "2.5"\n', "", 6, "pools[0].gpu.rate"),
        ("hours: 720", "hours: -1", 7, "pools[0].gpu.hours"),
        ("kwh: 100", "kwh: 100\n      kilowatts: 1", 11, "pools[0].energy.kilowatts"),
        ("kwh: 100", "cents: 1", 9, "pools[0].energy.kwh"),
        ('pue: "1.2"', 'pue: "0.8"', 11, "pools[0].energy.pue"),
        ('amount: "10"', 'amount: "-10"', 15, "pools[0].overhead[0].amount"),
        ("input: 1000", "input: 0", 18, "pools[0].models.llama-3.1-8b.input"),
        ("output: 100", "cached_input: 0", 19, "pools[0].models.llama-3.1-8b.cached_input"),
        ("output: 100", "output: 1e2", 19, "pools[0].models.llama-3.1-8b.output"),
        ("output: 100", "reasoning: 100", 19, "pools[0].models.llama-3.1-8b.reasoning"),
        ("slug: spare", "slug: chat", 20, "pools[1].slug"),
        ("other:", "llama-3.1-8b:", 22, "pools[1].models"),
        ("{input: 1}", "{input: 1, input: 2}", 23, "pools[1].models.other.input"),
        ("\n      other: {input: 1}", " {}", 22, "pools[1].models"),
    ],
)
def test_a_refusal_names_line_and_field(old, new, line, field):
    assert old in GOOD
    with pytest.raises(InvalidPlan) as refused:
        read_costs(GOOD.replace(old, new, 1))
    assert refused.value.field == field
    if line is not None:
        assert refused.value.line == line


def test_no_pools_and_no_file_are_refused():
    for text in ("currency: USD\nperiod: 2026-11\npools: []\n", "", "pools: [", "- 1"):
        with pytest.raises(InvalidPlan):
            read_costs(text)
