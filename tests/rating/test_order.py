"""The order of steps: for each two that follow one another, a plan that would cost something else
the other way round."""

from __future__ import annotations

from decimal import Decimal

import pytest
import yaml

from billing.planfiles.plan_file import load_document
from billing.rating.pipeline import rate
from billing.rating.quantity import MeteredQuantity

UNITS = 'type: per_unit, meter: requests, price: "1"'
TENS = "type: graduated, meter: requests, tiers: [{up_to: 10, unit: 1}, {unit: 3}]"
TENTH = "coupons: [{key: tenth, description: A tenth, percent_off: '10'}]"
FIVE = "coupons: [{key: five, description: Five, amount_off: '5'}]"
ORDER = {
    # Two whole units less one; the allowance first would leave 1,100, which are two.
    "unit conversion, included usage": (
        f"{UNITS}, per: 1000, round_units: up, included: 500",
        "",
        1600,
        {"k": "1"},
    ),
    # Five units of the first tier; at their price ten units of the second would be free.
    "included usage, price": (f"{TENS}, included: 10", "", 15, {"k": "5"}),
    # A tenth off what the tiers come to, not off the quantity.
    "price, percentage discount": (f"{TENS}, discount_percent: 10", "", 15, {"k": "22.5"}),
    # 0.9045 rounded; the discount on 1.01 would come to 0.91.
    "percentage discount, rounding": (
        'type: per_unit, meter: requests, price: "1.005", discount_percent: 10',
        "",
        1,
        {"k": "0.90"},
    ),
    # 90 capped; the maximum first would leave 72.
    "percentage discount, maximum": (
        f"{UNITS}, discount_percent: 10, maximum: '80'",
        "",
        100,
        {"k": "90", "k:maximum": "-10"},
    ),
    # The bound is kept to the cent; the exact 9.99501 would miss 0.00499 of the minimum.
    "rounding, minimum": (
        'type: per_unit, meter: requests, price: "9.99501", minimum: "10"',
        "",
        1,
        {"k": "10.00"},
    ),
    # Beyond the maximum nothing was sold, so that the promise is not kept by it.
    "maximum, commitment": (
        f"{UNITS}, maximum: '100', commitment: {{amount: '150'}}",
        "",
        200,
        {"k": "200", "k:maximum": "-100", "k:true_up": "50"},
    ),
    # What the minimum added counts towards the promise.
    "minimum, commitment": (
        f"{UNITS}, minimum: '40', commitment: {{amount: '100'}}",
        "",
        10,
        {"k": "10", "k:minimum": "30", "k:true_up": "60"},
    ),
    # The promise is kept before anything is given away; a coupon first would be asked back by it.
    "commitment, coupons": (
        f"{UNITS}, commitment: {{amount: '100'}}",
        TENTH,
        60,
        {"k": "60", "k:true_up": "40", "tenth": "-10"},
    ),
    "commitment of the plan, coupons": (
        UNITS,
        f"commitments: [{{key: all, description: All of it, amount: '100'}}]\n{TENTH}",
        60,
        {"k": "60", "all": "40", "tenth": "-10"},
    ),
    # In the order of the file: a tenth of what five leave.
    "coupons as written": (
        UNITS,
        f"{FIVE[:-1]}, {TENTH.partition('[')[2]}",
        105,
        {"k": "105", "five": "-5", "tenth": "-10"},
    ),
}


@pytest.mark.parametrize("steps", ORDER)
def test_each_step_stands_before_the_next(steps: str) -> None:
    charge, together, quantity, expected = ORDER[steps]
    text = (
        f"slug: order\nname: Order\ncurrency: USD\n{together}\n"
        f"charges:\n  - {{key: k, description: K, {charge}}}\n"
    )
    # As stored: in a file, no part of a rounded unit may be included any more.
    plan = load_document(yaml.safe_load(text))
    used = MeteredQuantity(meter="requests", quantity=Decimal(quantity))
    lines = {line.key: line.amount.major() for line in rate(plan, [used]).lines}
    assert lines == {key: Decimal(amount) for key, amount in expected.items()}
