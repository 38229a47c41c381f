"""Plan files: what is accepted, and how what is refused is named."""

from __future__ import annotations

import json
from decimal import Decimal

import jsonschema
import pytest
import yaml
from hypothesis import given

from billing.catalog.price_plan import Policies, ZeroUsageFirstFlat, prices_model
from billing.catalog.selector import Selector
from billing.catalog.tier import Tier
from billing.errors import InvalidPlan
from billing.metering.token_class import TokenClass
from billing.planfiles.plan_dump import digest, dump
from billing.planfiles.plan_file import EXAMPLES, load_document, plan_schema, read_plan
from tests.charges import declared, flat_fee, graduated, outcome_price, per_unit
from tests.strategies import PATIENT, plans

SCHEMA = jsonschema.Draft202012Validator(plan_schema())
"""Made once: to check a schema takes longer than to check a hundred plans by it."""

GOOD = """\
slug: plan
name: A plan
currency: USD
payment_terms_days: 7
policies:
  zero_usage_first_flat: charge
charges:
  - key: fee
    type: flat_fee
    description: Fee
    amount: "49.00"
  - key: requests
    type: per_unit
    description: Requests
    meter: requests
    models: [a, b]
    price: "0.000000000000000001"
    included: 100
  - key: volume
    type: graduated
    description: Output
    meter: tokens.output
    per: 1000000
    tiers:
      - up_to: 10000000
        unit: "0.40"
        flat: 1
      - unit: "0.30"
  - key: solved
    type: outcome
    description: Solved
    outcome: solved
    price: "0.99"
price_list:
  per: 1000
  models:
    org/model-8b:
      input: "0.10"
"""


def changed(old: str, new: str) -> str:
    assert GOOD.count(old) == 1, old
    return GOOD.replace(old, new)


def test_a_good_plan_becomes_these_values():
    plan = read_plan(GOOD)

    assert (plan.slug, plan.version, plan.currency.code, plan.payment_terms_days) == (
        "plan",
        None,
        "USD",
        7,
    )
    assert plan.policies == Policies(zero_usage_first_flat=ZeroUsageFirstFlat.CHARGE)
    assert plan.charges == (
        flat_fee(key="fee", description="Fee", amount=Decimal(49)),
        per_unit(
            key="requests",
            description="Requests",
            selector=Selector(meter="requests", models=frozenset({"a", "b"})),
            price=Decimal("1E-18"),
            included=Decimal(100),
        ),
        graduated(
            key="volume",
            description="Output",
            selector=Selector(meter="tokens.output"),
            per=10**6,
            tiers=(
                Tier(up_to=Decimal(10**7), unit=Decimal("0.4"), flat=Decimal(1)),
                Tier(up_to=None, unit=Decimal("0.3")),
            ),
        ),
        outcome_price(key="solved", description="Solved", outcome="solved", price=Decimal("0.99")),
        per_unit(
            key="tokens/org/model-8b/input",
            description="org/model-8b: input tokens",
            selector=Selector(meter="tokens.input", models=frozenset({"org/model-8b"})),
            price=Decimal("0.1"),
            per=1000,
        ),
    )


HEAD_OF_MORE = "key: more, description: More"
REFUSED = {
    "float": (changed('amount: "49.00"', "amount: 49.00"), 11, "charges[0].amount"),
    "exponent": (changed('amount: "49.00"', 'amount: "4e1"'), 11, "charges[0].amount"),
    "thousands separator": (changed('"49.00"', '"1,049.00"'), 11, "charges[0].amount"),
    "negative price": (changed('"0.99"', '"-0.99"'), 33, "charges[3].price"),
    "truth value for a price": (changed('"0.99"', "true"), 33, "charges[3].price"),
    "19 decimals": (
        changed('"0.000000000000000001"', '"0.0000000000000000001"'),
        17,
        "charges[1].price",
    ),
    "missing currency": (changed("currency: USD\n", ""), 1, "currency"),
    "unknown currency": (changed("currency: USD", "currency: EUX"), 3, "currency"),
    "missing price": (changed('    price: "0.99"\n', ""), 29, "charges[3].price"),
    "unknown field": (changed("included: 100", "inclded: 100"), 18, "charges[1].inclded"),
    "unknown field at the top": (changed("slug: plan", "slug: plan\ncolour: red"), 2, "colour"),
    "unknown kind": (changed("type: flat_fee", "type: flat"), 9, "charges[0].type"),
    "missing kind": (changed("    type: flat_fee\n", ""), 8, "charges[0].type"),
    "unknown meter": (
        changed("meter: requests", "meter: tokens.reasoning"),
        15,
        "charges[1].meter",
    ),
    "malformed meter": (changed("meter: requests", "meter: Requests!"), 15, "charges[1].meter"),
    "overlapping tiers": (
        changed("      - unit: ", "      - {up_to: 5, unit: 1}\n      - unit: "),
        28,
        "charges[2].tiers[1].up_to",
    ),
    "bounded tiers": (
        changed('      - unit: "0.30"', '      - {up_to: 20000000, unit: "0.30"}'),
        28,
        "charges[2].tiers[1].up_to",
    ),
    "open tier in the middle": (
        changed("      - up_to: 10000000\n        unit", "      - unit"),
        25,
        "charges[2].tiers[0].up_to",
    ),
    "negative flat of a tier": (changed("flat: 1", "flat: -1"), 27, "charges[2].tiers[0].flat"),
    "no tiers": (
        GOOD[: GOOD.index("    tiers:")] + "    tiers: []\n",
        24,
        "charges[2].tiers",
    ),
    "duplicate charge key": (changed("key: solved", "key: fee"), 29, "charges[3].key"),
    "overlapping charges": (
        changed("models: [a, b]\n", "models: [a]\n").replace("tokens.output", "requests"),
        19,
        "charges[2]",
    ),
    "price list against a charge": (
        changed('      input: "0.10"', '      output: "0.10"'),
        38,
        "price_list.models.org/model-8b.output",
    ),
    "negative price in a list": (
        changed('      input: "0.10"', '      input: "-0.10"'),
        38,
        "price_list.models.org/model-8b.input",
    ),
    "unknown class in a list": (
        changed('      input: "0.10"', '      reasoning: "0.10"'),
        38,
        "price_list.models.org/model-8b.reasoning",
    ),
    "model without prices": (
        changed('      input: "0.10"', "      input:"),
        37,
        "price_list.models.org/model-8b",
    ),
    "malformed model": (
        changed("org/model-8b:", '"org model":'),
        37,
        "price_list.models.org model",
    ),
    "per that is no power of ten": (changed("per: 1000\n", "per: 60\n"), 35, "price_list.per"),
    "no charges": (
        "slug: a\nname: b\ncurrency: USD\ncharges: []\n",
        4,
        "charges",
    ),
    "charges left out": ("slug: a\nname: b\ncurrency: USD\n", 1, "charges"),
    "policy": (
        changed("zero_usage_first_flat: charge", "zero_usage_first_flat: perhaps"),
        6,
        "policies.zero_usage_first_flat",
    ),
    "number for a name": (changed("name: A plan", "name: 5"), 2, "name"),
    "text for a number": (
        changed("payment_terms_days: 7", 'payment_terms_days: "7"'),
        4,
        "payment_terms_days",
    ),
    "payment terms": (
        changed("payment_terms_days: 7", "payment_terms_days: 400"),
        4,
        "payment_terms_days",
    ),
    "slug": (changed("slug: plan", "slug: Plan"), 1, "slug"),
    "list for a mapping": ("- a\n", 1, None),
    "number for an outcome": (changed("outcome: solved", "outcome: 5"), 32, "charges[3].outcome"),
    "text for a charge": (changed("  - key: fee\n", "  - words\n  - key: fee\n"), 8, "charges[0]"),
    "empty list of models": (changed("models: [a, b]", "models: []"), 16, "charges[1].models"),
    "commitment of no charge": (
        changed(
            "price_list:", f"commitments: [{{{HEAD_OF_MORE}, amount: 9, charges: []}}]\nprice_list:"
        ),
        34,
        "commitments[0].charges",
    ),
    "commitment of a charge": (
        changed("included: 100", "commitment:\n      amount: 5\n      overage_factor: 0"),
        20,
        "charges[1].commitment.overage_factor",
    ),
    "most for a transaction": (
        changed(
            "    type: per_unit\n    description: Requests\n    meter: requests\n"
            '    models: [a, b]\n    price: "0.000000000000000001"\n    included: 100\n',
            "    type: percentage\n    description: Requests\n    meter: requests\n    percent: 1\n"
            "    maximum: 5\n    transaction_minimum: 2\n    transaction_maximum: 1\n",
        ),
        19,
        "charges[1].transaction_maximum",
    ),
    "no values of a dimension": (
        changed("included: 100", "where:\n      region: []"),
        19,
        "charges[1].where.region",
    ),
    "text for values of a dimension": (
        changed("included: 100", "where:\n      region: eu"),
        19,
        "charges[1].where.region",
    ),
    "text for the other values": (
        changed("included: 100", "where:\n      region:\n        others: eu"),
        20,
        "charges[1].where.region.others",
    ),
    "malformed dimension": (
        changed("included: 100", "where:\n      Region!: [eu]"),
        19,
        "charges[1].where.Region!",
    ),
    "rest of a whole week": (
        changed("charges:\n", "windows:\n  all: {}\n  none: {rest_of: all}\ncharges:\n"),
        9,
        "windows.none.rest_of",
    ),
    "coupon for no charge": (
        changed(
            "price_list:", f"coupons: [{{{HEAD_OF_MORE}, amount_off: 9, charges: []}}]\nprice_list:"
        ),
        34,
        "coupons[0].charges",
    ),
    "reserved key": (changed("key: fee", "key: residual"), 8, "charges[0].key"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_line_field_and_code(case):
    text, line, field = REFUSED[case]

    with pytest.raises(InvalidPlan) as refused:
        read_plan(text)

    assert (refused.value.line, refused.value.field) == (line, field)
    assert refused.value.code == "invalid_plan"
    assert refused.value.message


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_say_what_to_do(case):
    with pytest.raises(InvalidPlan) as refused:
        read_plan(REFUSED[case][0])

    assert refused.value.remedy


def test_P1_values_are_not_repeated_in_errors():
    secret = "sk-live-1234567890"
    for text in (
        changed('amount: "49.00"', f'amount: "{secret}"'),
        changed("type: flat_fee", f"type: {secret}"),
        changed("currency: USD", f"currency: {secret}"),
        changed("zero_usage_first_flat: charge", f"zero_usage_first_flat: {secret}"),
        changed("meter: requests", f"meter: {secret}"),
    ):
        with pytest.raises(InvalidPlan) as refused:
            read_plan(text)
        assert secret not in str(refused.value)


def test_declared_meters_extend_the_built_in_ones():
    text = changed("meter: requests", "meter: gpu.seconds")

    with pytest.raises(InvalidPlan):
        read_plan(text)
    selector = read_plan(text, meters=declared("gpu.seconds")).charges[1].selector
    assert selector is not None
    assert selector.meter == "gpu.seconds"


@pytest.mark.parametrize("name", ["inference-standard", "support-outcomes"])
def test_examples_are_valid_and_keep_the_schema(name):
    text = EXAMPLES.joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    plan = read_plan(text)

    assert plan.slug == name
    SCHEMA.validate(yaml.safe_load(text))


def test_the_inference_example_prices_every_class_of_its_models():
    plan = read_plan(EXAMPLES.joinpath("inference-standard.yaml").read_bytes())

    for model in ("sim-small", "sim-large", "sim-embed"):
        assert prices_model(plan, model) == set(TokenClass)
    assert prices_model(plan, "other") == frozenset()


@PATIENT
@given(plans())
def test_stored_documents_round_trip_exactly(plan):
    stored = json.loads(json.dumps(dump(plan)))
    SCHEMA.validate(stored)
    loaded = load_document(stored, version=4)

    assert load_document(stored) == plan
    assert loaded.version == 4
    assert digest(loaded) == digest(plan)


def test_the_digest_is_of_the_terms_not_of_their_spelling():
    assert digest(read_plan(GOOD)) == digest(read_plan(changed('"0.99"', '"0.990"')))
    assert digest(read_plan(GOOD)) != digest(read_plan(changed('"0.99"', '"0.98"')))


def test_a_stored_document_that_was_tampered_with_is_refused():
    stored = dump(read_plan(GOOD))
    stored["charges"][0]["amount"] = 49.5

    with pytest.raises(InvalidPlan) as refused:
        load_document(stored)

    assert (refused.value.line, refused.value.field) == (None, "charges[0].amount")
