"""Seats and other levels by days, against an oracle that goes from midnight to midnight."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from billing.catalog.charge import Charge
from billing.catalog.price import Graduated, PerUnit, Price, Volume
from billing.catalog.price_plan import PricePlan, ProrationDays
from billing.catalog.selector import Selector
from billing.catalog.tier import Tier
from billing.metering.aggregation import Point
from billing.money import EXACT, currency
from billing.period import Period, month, zone
from billing.rating.levels import LevelSpan, changes_of_spans, spans_of_level
from billing.rating.pipeline import Slice, rate
from billing.rating.quantity import LevelChange, MeteredQuantity
from tests.rating.drawn import ROUNDS
from tests.strategies import decimals

UTC_ZONE = zone("UTC")
NOVEMBER = month(2026, 11, UTC_ZONE)
DAYS = 30
DAY, HOUR = timedelta(days=1), timedelta(hours=1)
thirties = st.integers(0, 40).map(lambda number: Decimal(30 * number))
"""Of levels and bounds, so that their thirtieths are whole."""
prices = decimals(limit=100, places=12)


@st.composite
def tiers(draw: st.DrawFn) -> tuple[Tier, ...]:
    bounds = sorted(draw(st.sets(thirties.filter(bool), max_size=3)))
    return tuple(
        Tier(up_to=bound, unit=draw(prices), flat=draw(prices)) for bound in [*bounds, None]
    )


models = st.one_of(
    st.builds(PerUnit, price=prices),
    st.builds(Graduated, tiers=tiers()),
    st.builds(Volume, tiers=tiers()),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Moves:
    """Levels of two projects, and the whole days in which a contract is in force.

    Attributes:
        initial: of each project, before any move.
        moves: (hour of the month, project, level), each hour once.
        cuts: days on which somebody else's contract begins or ends.
    """

    initial: tuple[Decimal, Decimal]
    moves: list[tuple[int, int, Decimal]]
    first_day: int
    end_day: int
    cuts: list[int]

    @property
    def covered(self) -> Period:
        return Period(
            start=NOVEMBER.start + self.first_day * DAY, end=NOVEMBER.start + self.end_day * DAY
        )

    def level(self, until: datetime) -> Decimal:
        """Of both projects together, moves at the instant included."""
        found = list(self.initial)
        for hour, project, level in self.moves:
            if NOVEMBER.start + hour * HOUR <= until:
                found[project] = level
        return sum(found, Decimal(0))

    def spans(self) -> list[LevelSpan]:
        """As the ledger hands them out, cut at days that have nothing to do with the contract."""
        inner = sorted(day for day in self.cuts if self.first_day < day < self.end_day)
        edges = [self.first_day, *inner, self.end_day]
        parts = [
            Period(start=NOVEMBER.start + start * DAY, end=NOVEMBER.start + end * DAY)
            for start, end in pairwise(edges)
        ]
        found: list[LevelSpan] = []
        for project in (0, 1):
            points = [
                Point(
                    occurred_at=NOVEMBER.start + hour * HOUR,
                    epoch=1,
                    event_id=UUID(int=hour),
                    value=level,
                )
                for hour, owner, level in self.moves
                if owner == project
            ]
            before = [point for point in points if point.occurred_at < self.covered.start]
            found += spans_of_level(
                points[len(before) :],
                parts,
                series=project,
                initial=before[-1].value if before else self.initial[project],
            )
        return found

    def changes(self) -> tuple[LevelChange, ...]:
        return changes_of_spans(self.spans(), period=NOVEMBER, zone=UTC_ZONE)


@st.composite
def drawn_moves(draw: st.DrawFn) -> Moves:
    hours = sorted(draw(st.sets(st.integers(0, DAYS * 24 - 1), max_size=6)))
    first, end = sorted(draw(st.sets(st.integers(0, DAYS), min_size=2, max_size=2)))
    return Moves(
        initial=(draw(thirties), draw(thirties)),
        moves=[(hour, draw(st.integers(0, 1)), draw(thirties)) for hour in hours],
        first_day=first,
        end_day=end,
        cuts=sorted(draw(st.sets(st.integers(1, DAYS - 1), max_size=3))),
    )


def plan_of(price: Price) -> PricePlan:
    seats = Charge(
        key="seats",
        description="Seats",
        selector=Selector(meter="seats"),
        price=price,
        prorated=True,
    )
    return PricePlan(slug="p", name="P", currency=currency("USD"), charges=(seats,))


def used(changes, before=()) -> MeteredQuantity:
    return MeteredQuantity(
        meter="seats",
        quantity=weight(changes),
        before=weight(before),
        changes=tuple(changes),
        changes_before=tuple(before),
    )


def weight(changes) -> Decimal:
    total = Decimal(0)
    for change in changes:
        total = EXACT.add(total, change.prorated)
    return total


def oracle(price: Price, moves: Moves) -> Fraction:
    """Each day costs its share of the month for the units that are there at its midnight."""
    covered = moves.covered
    midnights = [
        Fraction(moves.level(NOVEMBER.start + day * DAY))
        for day in range(moves.first_day, moves.end_day)
    ]
    if isinstance(price, PerUnit):
        return sum(midnights, Fraction(0)) / DAYS * Fraction(price.price)
    instants = [NOVEMBER.start + hour * HOUR for hour, _, _ in moves.moves]
    seen = [moves.level(each) for each in (covered.start, *instants) if each in covered]
    if isinstance(price, Volume):
        last = moves.level(covered.end - HOUR)
        tier = next(t for t in price.tiers if t.up_to is None or last <= t.up_to)
        flat = Fraction(tier.flat) if last else Fraction(0)
        return sum(midnights, Fraction(0)) / DAYS * Fraction(tier.unit) + flat
    assert isinstance(price, Graduated)
    total, floor = Fraction(0), Fraction(0)
    for tier in price.tiers:
        top = None if tier.up_to is None else Fraction(tier.up_to)
        for level in midnights:
            inside = max((level if top is None else min(level, top)) - floor, Fraction(0))
            total += inside / DAYS * Fraction(tier.unit)
        total += Fraction(tier.flat) if max(seen) > floor else 0
        floor = top or floor
    return total


def exact(rating) -> Fraction:
    return sum((Fraction(line.exact) for line in rating.lines), Fraction(0))


@ROUNDS
@given(models, drawn_moves())
def test_R1_a_level_costs_what_its_days_cost_however_it_is_cut(price, moves):
    assert exact(rate(plan_of(price), [used(moves.changes())])) == oracle(price, moves)


@ROUNDS
@given(models, drawn_moves(), st.integers(0, 8))
def test_R2_a_level_in_slices_costs_the_whole(price, moves, cut):
    changes, plan = moves.changes(), plan_of(price)
    first = rate(plan, [used(changes[:cut])])
    second = rate(plan, [used(changes[cut:], changes[:cut])], of=Slice(opens_period=False))

    assert exact(first) + exact(second) == oracle(price, moves)


@ROUNDS
@given(drawn_moves(), st.sampled_from(ProrationDays))
def test_contracts_one_after_the_other_weigh_what_one_does(moves, days):
    """Half-open days, and months of thirty, are parted between adjoining contracts."""
    inner = sorted({moves.first_day, *moves.cuts, moves.end_day} & set(range(DAYS + 1)))
    inner = [day for day in inner if moves.first_day <= day <= moves.end_day]
    parts = [replace(moves, first_day=start, end_day=end) for start, end in pairwise(inner)]

    def weighs(each: Moves) -> Decimal:
        return weight(changes_of_spans(each.spans(), period=NOVEMBER, zone=UTC_ZONE, days=days))

    total = sum((Fraction(weighs(part)) for part in parts), Fraction(0))
    if days is ProrationDays.INCLUSIVE:
        # A day on which one ends and the other begins counts in both.
        assert total >= weighs(moves)
    else:
        assert total == weighs(moves)


def test_inclusive_days_free_a_seat_that_leaves_before_its_contract_ends():
    """Else the last day of the contract would be paid by seats that were gone."""
    moves = Moves(
        initial=(Decimal(30), Decimal(0)),
        moves=[(4 * 24 + 12, 0, Decimal(0))],
        first_day=0,
        end_day=20,
        cuts=[],
    )
    changes = changes_of_spans(
        moves.spans(), period=NOVEMBER, zone=UTC_ZONE, days=ProrationDays.INCLUSIVE
    )
    # The first to the fifth.
    assert weight(changes) == 5


def test_a_level_below_zero_counts_as_none():
    moves = Moves(
        initial=(Decimal(-30), Decimal(60)),
        moves=[(240, 0, Decimal(30)), (480, 0, Decimal(-60))],
        first_day=0,
        end_day=DAYS,
        cuts=[15],
    )
    assert weight(moves.changes()) == 60 + 10
