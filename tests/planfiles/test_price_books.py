"""Plan files of several currencies: one plan in each."""

from __future__ import annotations

from decimal import Decimal

import jsonschema
import pytest
import yaml

from billing.catalog.price_plan import PricePlan
from billing.errors import InvalidPlan
from billing.planfiles.plan_dump import digest, dump
from billing.planfiles.plan_file import load_document, plan_schema, read_plan, read_price_books
from billing.rating.pipeline import rate
from billing.rating.quantity import MeteredQuantity

HEAD = "slug: plan\nname: A plan\ncurrency: USD\n"
BOOKS = """\
currencies: [EUR, JPY]
charges:
  - {type: flat_fee, key: fee, description: Fee, amount: {USD: "49.00", EUR: "45.00", JPY: 7000}}
  - {type: outcome, key: solved, description: Solved, outcome: solved, price: 2}
price_list:
  models:
    sim-small: {input: {USD: "0.10", EUR: "0.09", JPY: 15}}
"""


HEAD_OF_BOOKS = BOOKS[: BOOKS.index("price_list")]
MATRIX = """\
  - type: matrix
    key: tokens
    description: Tokens
    by: [model, class]
    prices:
      atlas: {input: {USD: 1, EUR: 1, JPY: 100, GBP: 1}}
"""


def read(text: str) -> PricePlan:
    return read_plan(HEAD + text)


def changed(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1, old
    return text.replace(old, new)


def total(plan: PricePlan, *used: MeteredQuantity) -> Decimal:
    return sum((line.exact for line in rate(plan, used).lines), Decimal(0))


def test_the_schema_knows_amounts_by_currency():
    jsonschema.validate(yaml.safe_load(HEAD + BOOKS), plan_schema())


def test_a_file_of_several_currencies_is_a_plan_in_each():
    plans, refusals = read_price_books(HEAD + BOOKS)

    assert refusals == ()
    assert [(plan.slug, plan.currency.code) for plan in plans] == [
        ("plan", "USD"),
        ("plan-eur", "EUR"),
        ("plan-jpy", "JPY"),
    ]
    assert [total(plan) for plan in plans] == [49, 45, 7000]
    assert read(BOOKS) == plans[0]
    assert len({digest(plan) for plan in plans}) == 3
    assert all(load_document(dump(plan)) == plan for plan in plans)


@pytest.mark.parametrize(
    ("text", "line", "field"),
    [
        (changed(BOOKS, ', EUR: "45.00"', ""), 6, "charges[0].amount"),
        (changed(BOOKS, "JPY: 15", "JPY: -15"), 10, "price_list.models.sim-small.input"),
        (changed(BOOKS, "[EUR, JPY]", "[EUR, EUX]"), 6, "charges[0].amount"),
        (changed(BOOKS, "[EUR, JPY]", "[EUR, JPY, USD]"), 4, "currencies[2]"),
        (
            changed(BOOKS, "currencies: [EUR, JPY]\n", "").replace("USD", "CHF"),
            5,
            "charges[0].amount",
        ),
        # A price that no plan has: somebody believes that it is sold in this currency.
        (changed(BOOKS, "currencies: [EUR, JPY]\n", ""), 5, "charges[0].amount"),
        (changed(BOOKS, "JPY: 15", "JPY: 15, GBP: 1"), 10, "price_list.models.sim-small.input"),
        (HEAD_OF_BOOKS + MATRIX, 13, "charges[2].prices.atlas.input"),
    ],
)
def test_a_price_that_one_currency_lacks_is_refused(text, line, field):
    with pytest.raises(InvalidPlan) as refused:
        read(text)
    assert (refused.value.line, refused.value.field) == (line, field)


def test_an_unknown_currency_is_refused_where_it_is_named():
    plain = (
        "currencies: [EUR, EUX]\n"
        "charges: [{type: outcome, key: s, description: S, outcome: s, price: 2}]\n"
    )
    with pytest.raises(InvalidPlan) as refused:
        read(plain)
    assert (refused.value.line, refused.value.field) == (4, "currencies[1]")
