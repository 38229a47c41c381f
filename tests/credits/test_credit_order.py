"""C1 and invariant 16 on values: who pays first, exactly, whatever the order of the lists."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.errors import InvalidInput
from billing.ledger.breakage import lapse
from billing.ledger.credit_grant import (
    ANYTHING,
    CreditGrant,
    CreditLot,
    CreditScope,
    DayCharge,
    GrantKind,
    Rollover,
)
from billing.ledger.credit_order import draw
from tests.credits.grants import START, pure_charge, pure_grant

amounts = st.integers(1, 10**15).map(lambda units: Decimal(units).scaleb(-12))
scopes = st.sampled_from(
    [
        ANYTHING,
        CreditScope(meters=frozenset({"tokens.output"})),
        CreditScope(models=frozenset({"tiny", "large"})),
        CreditScope(plans=frozenset({"other"})),
    ]
)


@st.composite
def lots_of(draw_one: st.DrawFn) -> list[CreditLot]:
    lots: list[CreditLot] = []
    for number in range(draw_one(st.integers(0, 6))):
        amount = draw_one(amounts)
        grant = pure_grant(
            number + 1,
            amount=amount,
            kind=draw_one(st.sampled_from(GrantKind)),
            priority=draw_one(st.integers(0, 2)),
            starts_at=START + timedelta(days=draw_one(st.integers(0, 3))),
            expires_at=draw_one(st.sampled_from([None, START + timedelta(days=5)])),
            scope=draw_one(scopes),
        )
        lots.append(CreditLot(grant=grant, remaining=min(amount, draw_one(amounts))))
    return lots


charges_of = st.lists(
    st.builds(
        pure_charge,
        st.integers(1, 9),
        amounts,
        line_key=st.sampled_from(["a", "b"]),
        meter=st.sampled_from([None, "tokens.input", "tokens.output"]),
    ),
    max_size=8,
    unique_by=lambda charge: (charge.day, charge.line_key),
)


@given(lots_of(), charges_of, st.randoms(use_true_random=False))
def test_C1_drawing_is_exact_and_does_not_depend_on_the_order_of_the_lists(
    lots: Sequence[CreditLot], charges: Sequence[DayCharge], chance: random.Random
) -> None:
    drawn = draw(lots, charges)
    paid = sum((each.amount for each in drawn.applications), Decimal(0))
    left = sum((amount for _, amount in drawn.uncovered), Decimal(0))
    assert paid + left == sum((charge.amount for charge in charges), Decimal(0))
    for lot in lots:
        used = [each for each in drawn.applications if each.grant == lot.grant]
        remaining = used[-1].remaining if used else lot.remaining
        assert remaining >= 0
        assert sum((each.amount for each in used), Decimal(0)) + remaining == lot.remaining
        assert all(each.amount > 0 and lot.grant.covers(each.charge) for each in used)
        # Nothing stays uncovered that this grant could still have paid.
        assert not (remaining and any(lot.grant.covers(charge) for charge, _ in drawn.uncovered))
    mixed_lots, mixed_charges = list(lots), list(charges)
    chance.shuffle(mixed_lots)
    chance.shuffle(mixed_charges)
    assert draw(mixed_lots, mixed_charges) == drawn


def test_inv16_priority_then_expiry_then_promotional_then_oldest() -> None:
    soon, later = START + timedelta(days=20), START + timedelta(days=25)
    in_turn: list[CreditGrant] = [
        pure_grant(9, priority=1),
        pure_grant(8, expires_at=soon, kind=GrantKind.PAID),
        pure_grant(7, expires_at=later),
        pure_grant(6, starts_at=START, kind=GrantKind.PROMOTIONAL),
        pure_grant(5, starts_at=START + timedelta(hours=1)),
        pure_grant(4, kind=GrantKind.PAID),
    ]
    lots = [CreditLot(grant=grant, remaining=Decimal(1)) for grant in reversed(in_turn)]
    drawn = draw(lots, [pure_charge(10, Decimal(6))])
    assert [each.grant for each in drawn.applications] == in_turn


def test_inv16_drawdown_follows_usage_time() -> None:
    expiring = CreditLot(
        grant=pure_grant(1, expires_at=START + timedelta(days=2)), remaining=Decimal(10)
    )
    late, early = pure_charge(3, Decimal(4)), pure_charge(2, Decimal(3))
    drawn = draw([expiring], [late, early])
    assert [(each.charge, each.amount) for each in drawn.applications] == [(early, Decimal(3))]
    assert drawn.uncovered == ((late, Decimal(4)),)


@given(amounts, st.lists(amounts, max_size=8))
def test_inv24_liability_released_step_by_step_adds_up_to_what_was_paid(
    amount: Decimal, steps: list[Decimal]
) -> None:
    cost = amount if amount < 1 else Decimal(1)
    grant = pure_grant(1, amount=amount, kind=GrantKind.PAID, cost_basis=cost)
    remaining, released = amount, Decimal(0)
    for step in [*steps, amount]:
        after = max(remaining - step, Decimal(0))
        released += grant.released(before=remaining, after=after)
        remaining = after
    assert released == cost


@given(amounts, st.decimals("0.01", "1", places=2), amounts)
def test_C1_rolled_and_broken_add_up(amount: Decimal, fraction: Decimal, most: Decimal) -> None:
    rule = Rollover(fraction=fraction, maximum=most)
    grant = pure_grant(1, amount=amount, expires_at=START + timedelta(days=1), rollover=rule)
    rest = lapse(CreditLot(grant=grant, remaining=amount))
    assert rest.rolled + rest.broken == amount
    assert 0 <= rest.rolled <= min(most, amount * fraction)


def test_T2_an_empty_scope_is_refused() -> None:
    with pytest.raises(InvalidInput) as refused:
        CreditScope(models=frozenset())
    assert refused.value.field == "scope.models"
