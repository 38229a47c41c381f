"""The margin report ties out to the ledger (M2) and to the cost booked (M1), in both groupings."""

from __future__ import annotations

import dataclasses
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.errors import InvalidInput, TieOutFailed
from billing.margin.allocation import FleetAllocation, TokenUsage
from billing.margin.cost_pool import CostPool, gpu_cost, overhead_cost
from billing.margin.figures import (
    cost_profit_margin,
    gross_margin,
    per_million_for_display,
    percent_for_display,
)
from billing.margin.report import GroupBy, MarginReport, margin_report
from billing.margin.revenue import PostedRevenue, split_revenue
from billing.margin.throughput import Throughput
from billing.metering.token_class import TokenClass
from tests.margin.fleets import NOVEMBER, TENANTS, Fleet, decimals, fleets

BOOKS = {"period": NOVEMBER, "currency": "USD"}

REVENUE = st.lists(
    st.builds(
        PostedRevenue,
        tenant=st.sampled_from([*TENANTS, "umbrella"]),
        line=st.just("tokens"),
        model=st.sampled_from([None, *(f"model-{n}" for n in range(7))]),
        amount=decimals("-1000", "1000", 12),
        currency=st.just("USD"),
    ),
    max_size=12,
)


@given(fleets(), REVENUE, st.sampled_from(GroupBy))
def test_M2_rows_add_up_to_posted_revenue_and_booked_cost(
    fleet: Fleet, revenue: list[PostedRevenue], group_by: GroupBy
):
    report = margin_report(group_by=group_by, revenue=revenue, fleet=fleet.allocate(), **BOOKS)
    assert sum(Fraction(r.revenue) for r in report.rows) == sum(
        Fraction(part.amount) for part in revenue
    )
    booked = sum(Fraction(entry.amount) for entry in fleet.entries)
    loaded = sum(Fraction(row.loaded_cost) for row in report.rows)
    assert loaded + Fraction(report.unshared) == booked
    kept = Fraction(report.idle) + Fraction(report.scrap) + Fraction(report.overhead)
    assert Fraction(report.direct_cost) + kept == booked
    delivered = sum(usage.tokens for usage in fleet.usages if not usage.scrap)
    assert sum(row.tokens for row in report.rows) == delivered


@given(
    decimals("-1000000", "1000000", 12),
    st.lists(
        st.tuples(st.none() | st.text(max_size=3), decimals("0", "1000000000", 6)), max_size=6
    ),
)
def test_M2_a_split_posting_is_the_posting(posted, by_model):
    parts = split_revenue(posted, by_model)
    assert sum(Fraction(amount) for _, amount in parts) == Fraction(posted)


def test_revenue_without_weights_belongs_to_no_model():
    assert split_revenue(Decimal(5), []) == [(None, Decimal(5))]
    assert split_revenue(Decimal(5), [("a", Decimal(0))]) == [(None, Decimal(5))]


def two_tenants() -> tuple[FleetAllocation, list[PostedRevenue]]:
    """10 GPU-hours at 2, 6 of them used (4 by acme, 2 by globex), 3 of overhead."""
    pool = CostPool(
        slug="pool",
        throughputs=(
            Throughput(model="tiny", tokens_per_second={TokenClass.OUTPUT: Decimal(100)}),
        ),
    )
    fleet = Fleet(
        pools=(pool,),
        entries=(
            gpu_cost(pool="pool", hours=Decimal(10), rate=Decimal(2), **BOOKS),
            overhead_cost(pool="pool", name="staff", amount=Decimal(3), **BOOKS),
        ),
        usages=tuple(
            TokenUsage(
                tenant=tenant, model=model, token_class=TokenClass.OUTPUT, tokens=hours * 360_000
            )
            for tenant, model, hours in (
                ("acme", "tiny", 4),
                ("globex", "tiny", 2),
                ("globex", "foreign", 1),
            )
        ),
    )
    revenue = [
        PostedRevenue(tenant=tenant, line=line, model=model, amount=Decimal(amount), currency="USD")
        for tenant, line, model, amount in (
            ("acme", "tokens", "tiny", "32"),
            ("acme", "platform", None, "10"),
            ("globex", "tokens", "tiny", "16.000000000001"),
        )
    ]
    return fleet.allocate(), revenue


def report_by(group_by: GroupBy) -> MarginReport:
    fleet, revenue = two_tenants()
    return margin_report(group_by=group_by, revenue=revenue, fleet=fleet, **BOOKS)


def test_report_by_tenant_names_both_margins():
    acme, globex = report_by(GroupBy.TENANT).rows
    assert (acme.key, acme.revenue, acme.direct_cost) == ("acme", 42, 8)
    assert acme.idle_share == Decimal("5.333333333333")
    assert globex.idle_share == Decimal("2.666666666667")
    assert (acme.overhead_share, globex.overhead_share) == (2, 1)
    assert acme.gross_margin == Fraction(34, 42)
    assert acme.cost_profit_margin == Fraction(34, 8)
    assert acme.loaded_gross_margin == Fraction(42 - Fraction("15.333333333333"), 42)
    assert acme.cost_per_million == Decimal("5.555556")
    assert acme.revenue_per_million == Decimal("29.166667")
    # globex: 2 hours on the pool, 1 hour's tokens on a model that no pool serves.
    assert (globex.tokens, globex.uncosted_tokens) == (3 * 360_000, 360_000)
    assert globex.cost_per_million == Decimal("5.555556")


def test_report_by_model_shows_revenue_of_no_model_in_a_row_of_its_own():
    rows = report_by(GroupBy.MODEL).rows
    assert [(row.label, row.revenue) for row in rows] == [
        ("foreign", Decimal(0)),
        ("tiny", Decimal("48.000000000001")),
        ("unattributed", Decimal(10)),
    ]
    assert rows[0].gross_margin is None
    assert rows[2].cost_per_million is None


def test_the_operator_keeps_idle_and_overhead_by_default():
    report = report_by(GroupBy.TENANT)
    assert (report.direct_cost, report.idle, report.overhead, report.booked) == (12, 8, 3, 23)
    assert report.unshared == 0
    assert report.gross_margin == 1 - Fraction(12) / Fraction("58.000000000001")
    assert report.net_margin == 1 - Fraction(23) / Fraction("58.000000000001")


def test_a_pool_shows_utilisation_and_revenue_per_owned_hour():
    (pool,) = report_by(GroupBy.TENANT).pools
    assert pool.allocation.utilisation == Fraction(6, 10)
    assert pool.revenue == Decimal("48.000000000001")
    assert pool.revenue_per_gpu_hour == Decimal("4.800000")


@pytest.mark.parametrize("figure", ["posted", "booked", "idle", "unshared"])
def test_M2_a_report_that_does_not_tie_out_cannot_be_made(figure):
    report = report_by(GroupBy.MODEL)
    off = getattr(report, figure) + Decimal("0.000000000001")
    with pytest.raises(TieOutFailed):
        dataclasses.replace(report, **{figure: off})


def test_two_currencies_or_periods_are_refused():
    fleet, revenue = two_tenants()
    with pytest.raises(InvalidInput, match="currency"):
        margin_report(
            group_by=GroupBy.TENANT,
            revenue=[dataclasses.replace(revenue[0], currency="EUR")],
            fleet=fleet,
            **BOOKS,
        )
    with pytest.raises(InvalidInput, match="period"):
        margin_report(
            group_by=GroupBy.TENANT, revenue=[], fleet=fleet, period=NOVEMBER, currency="EUR"
        )


def test_ratios_without_a_base_are_none_and_not_zero():
    assert gross_margin(Decimal(0), Decimal(1)) is None
    assert gross_margin(Decimal(-1), Decimal(1)) is None
    assert cost_profit_margin(Decimal(1), Decimal(0)) is None
    assert per_million_for_display(Decimal(1), 0) is None
    assert percent_for_display(None) is None
    assert percent_for_display(Fraction(-2, 3)) == Decimal("-66.7")
