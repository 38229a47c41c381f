"""Of several contracts the strictest decides how a tenant's requests are admitted."""

from __future__ import annotations

from decimal import Decimal
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.admission.amounts import PICO
from billing.admission.terms import HoldSize, OnClientLeft, OnLoss, Payment, Unpriced
from billing.catalog.admission_policy import AdmissionPolicy, strictest
from billing.errors import InvalidPlan
from tests.planfiles.test_policies import POLICIES

LENIENT = AdmissionPolicy(
    payment=Payment.POSTPAID,
    hold=HoldSize.LIKELY,
    on_database_loss=OnLoss.OPEN,
    max_exposure=Decimal(1_000),
    on_client_left=OnClientLeft.DRAIN,
    drain_ms=60_000,
    unpriced=Unpriced.FREE,
    shadow=True,
)
STRICT = AdmissionPolicy(
    payment=Payment.PREPAID,
    hold=HoldSize.WORST_CASE,
    on_database_loss=OnLoss.CLOSED,
    max_exposure=Decimal("0.5"),
    on_client_left=OnClientLeft.CLOSE,
    drain_ms=10,
    unpriced=Unpriced.REFUSE,
    shadow=False,
)


@pytest.mark.parametrize("several", [*permutations([LENIENT, STRICT]), (STRICT,)])
def test_the_strictest_counts_in_every_point(several):
    chosen = strictest(several)
    assert chosen.payment is Payment.PREPAID
    assert chosen.hold_size is HoldSize.WORST_CASE
    assert chosen.on_database_loss is OnLoss.CLOSED
    assert chosen.max_exposure == PICO // 2
    assert chosen.on_client_left is OnClientLeft.CLOSE
    assert chosen.drain_ms == 10
    assert chosen.unpriced is Unpriced.REFUSE
    assert chosen.shadow is False


def test_one_contract_alone_is_taken_at_its_word():
    chosen = strictest([LENIENT])
    assert (chosen.payment, chosen.hold_size) == (Payment.POSTPAID, HoldSize.LIKELY)
    assert (chosen.on_database_loss, chosen.max_exposure) == (OnLoss.OPEN, 1_000 * PICO)
    assert (chosen.unpriced, chosen.shadow) == (Unpriced.FREE, True)
    assert (chosen.on_client_left, chosen.drain_ms) == (OnClientLeft.DRAIN, 60_000)


@given(st.lists(POLICIES, min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_order_and_repetition_of_contracts_do_not_matter(policies, random):
    shuffled = random.sample(policies, len(policies))
    assert strictest([*shuffled, *policies]) == strictest(policies)


@pytest.mark.parametrize(
    ("payment", "loss"), [(Payment.PREPAID, OnLoss.CLOSED), (Payment.POSTPAID, OnLoss.OPEN)]
)
def test_prepaid_is_closed_without_the_database_unless_the_plan_says_so(payment, loss):
    assert strictest([AdmissionPolicy(payment=payment)]).on_database_loss is loss
    said = AdmissionPolicy(payment=payment, on_database_loss=OnLoss.OPEN)
    assert strictest([said]).on_database_loss is OnLoss.OPEN


def test_a_prepaid_contract_that_is_open_does_not_open_another():
    opened = AdmissionPolicy(payment=Payment.PREPAID, on_database_loss=OnLoss.OPEN)
    silent = AdmissionPolicy(payment=Payment.PREPAID)
    assert strictest([opened, silent]).on_database_loss is OnLoss.CLOSED


@pytest.mark.parametrize("exposure", [Decimal(-1), Decimal("NaN"), Decimal("1e13")])
def test_an_exposure_out_of_range_is_refused(exposure):
    with pytest.raises(InvalidPlan) as refused:
        AdmissionPolicy(max_exposure=exposure)
    assert refused.value.field == "max_exposure"
