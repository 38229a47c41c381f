"""Policies of a plan file: how requests are admitted."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.admission.route import ROUTES
from billing.admission.terms import HoldSize, OnClientLeft, OnLoss, Payment, Unpriced
from billing.catalog.admission_policy import AdmissionPolicy
from billing.catalog.price_plan import (
    AllowanceInVolume,
    CorrectionBy,
    Coverage,
    NegativeUsage,
    Policies,
    ProrationDays,
    ZeroUsageFirstFlat,
)
from billing.errors import InvalidPlan
from billing.planfiles.plan_document import PoliciesDocument
from billing.planfiles.plan_dump import digest, dump
from billing.planfiles.plan_file import EXAMPLES, load_document, read_plan

PLAN = """\
slug: plan
name: A plan
currency: USD
policies:
{policies}
price_list:
  models:
    org/model-8b:
      input: "0.10"
"""

# Of plans as they were stored before plans could say how requests are admitted.
STARTER = Path(__file__).with_name("starter_of_tokens.yaml")
STANDARD = EXAMPLES / "inference-standard.yaml"
OUTCOMES = EXAMPLES / "support-outcomes.yaml"
DIGESTS = {
    STARTER: "4889b9b58644001686473aae4f7d073d36b7f57a049c4f2213aaabd32c26a380",
    STANDARD: "98eba48787a34cc8a9750e5f98ad6809773a69f03d6f94b0eff828406e5aa93e",
    OUTCOMES: "6eed1ff4c9d26975cb941ddd02a6bc8be7b10ee777a7642df8e5f3be6ec8d464",
}

POLICIES = st.builds(
    AdmissionPolicy,
    payment=st.sampled_from(Payment),
    hold=st.sampled_from(HoldSize),
    on_database_loss=st.none() | st.sampled_from(OnLoss),
    max_exposure=st.decimals(min_value=0, max_value=10**12, places=12),
    on_client_left=st.sampled_from(OnClientLeft),
    drain_ms=st.integers(0, 3_600_000),
    unpriced=st.sampled_from(Unpriced),
    shadow=st.booleans(),
)


def plan_with(*lines: str) -> str:
    return PLAN.format(policies="\n".join(f"  {line}" for line in lines))


@pytest.mark.parametrize("path", DIGESTS, ids=lambda path: path.stem)
def test_defaults_do_not_change_a_stored_plans_digest(path):
    plan = read_plan(path.read_text())
    assert digest(plan) == DIGESTS[path]
    assert set(dump(plan)["policies"]) == {"zero_usage_first_flat"}


def test_a_default_that_is_written_down_is_the_same_plan():
    silent = read_plan(plan_with("zero_usage_first_flat: skip"))
    said = read_plan(
        plan_with(
            "payment: postpaid",
            "hold: worst_case",
            'max_exposure: "100.00"',
            "on_client_left: close",
            "drain_ms: 30000",
            "unpriced: refuse",
            "shadow: false",
        )
    )
    assert digest(said) == digest(silent)


@given(POLICIES)
def test_every_policy_round_trips(admission):
    plan = read_plan(plan_with("zero_usage_first_flat: skip"))
    changed = replace(plan, policies=Policies(admission=admission))
    stored = load_document(dump(changed))
    assert stored == changed
    assert digest(stored) == digest(changed)
    assert (digest(changed) == digest(plan)) is (admission == AdmissionPolicy())


@given(
    st.builds(
        Policies,
        zero_usage_first_flat=st.sampled_from(ZeroUsageFirstFlat),
        allowance_in_volume=st.sampled_from(AllowanceInVolume),
        negative_usage=st.sampled_from(NegativeUsage),
        proration_days=st.sampled_from(ProrationDays),
        correction=st.sampled_from(CorrectionBy),
        coverage=st.sampled_from(Coverage),
    )
)
def test_policies_of_amounts_round_trip(policies):
    plan = replace(read_plan(plan_with("zero_usage_first_flat: skip")), policies=policies)
    assert load_document(dump(plan)) == plan


RATING = {
    "zero_usage_first_flat",
    "allowance_in_volume",
    "negative_usage",
    "proration_days",
    "correction",
    "coverage",
}
"""Policies of amounts, which say nothing about prepayment."""


def test_the_prepaid_example_says_every_policy():
    text = (EXAMPLES / "prepaid.yaml").read_text()
    plan = read_plan(text)
    assert plan.policies.admission.payment is Payment.PREPAID
    assert plan.policies.admission.drain_ms == 10_000
    written = {line.split(":")[0].strip() for line in text.splitlines() if line.startswith("  ")}
    assert set(PoliciesDocument.model_fields) - RATING <= written


def test_the_starter_plan_has_a_price_for_every_route():
    """It is the one that a new user has: a route without a price would be refused."""
    plan = read_plan((EXAMPLES / "starter.yaml").read_text())
    priced = {each.selector.meter for each in plan.charges if each.selector is not None}
    units = {unit.value for spec in ROUTES for unit in spec.units}
    assert priced == units | {"tokens.input", "tokens.cached_input", "tokens.output"}


def test_every_policy_can_be_written():
    plan = read_plan(
        plan_with(
            "payment: prepaid",
            "hold: likely",
            "on_database_loss: open",
            'max_exposure: "2.50"',
            "on_client_left: drain",
            "drain_ms: 5000",
            "unpriced: free",
            "shadow: true",
        )
    )
    assert plan.policies.admission == AdmissionPolicy(
        payment=Payment.PREPAID,
        hold=HoldSize.LIKELY,
        on_database_loss=OnLoss.OPEN,
        max_exposure=Decimal("2.5"),
        on_client_left=OnClientLeft.DRAIN,
        drain_ms=5_000,
        unpriced=Unpriced.FREE,
        shadow=True,
    )


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ("payment: later", "policies.payment"),
        ("coverage: shared", "policies.coverage"),
        ("hold: none", "policies.hold"),
        ("on_database_loss: maybe", "policies.on_database_loss"),
        ('max_exposure: "-1"', "policies.max_exposure"),
        ('max_exposure: "0.0000000000001"', "policies.max_exposure"),
        ("max_exposure: 1.5", "policies.max_exposure"),
        ("drain_ms: -1", "policies.drain_ms"),
        ("drain_ms: 3600001", "policies.drain_ms"),
        ("unpriced: cheap", "policies.unpriced"),
        ("shadow: 1", "policies.shadow"),
        ("postpaid: true", "policies.postpaid"),
    ],
)
def test_refused_with_line_and_field(line, field):
    with pytest.raises(InvalidPlan) as refused:
        read_plan(plan_with(line))
    assert refused.value.field == field
    assert "line 5" in str(refused.value)
