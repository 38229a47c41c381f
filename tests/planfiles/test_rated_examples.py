"""The library of example plans: valid, rated whole, and their page as the program writes it."""

from __future__ import annotations

from dataclasses import fields, replace

import jsonschema
import pytest
import yaml

from billing.catalog.price_plan import Policies, PricePlan
from billing.planfiles.credit_examples import section
from billing.planfiles.meter_file import declared_by_code
from billing.planfiles.plan_dump import dump
from billing.planfiles.plan_file import EXAMPLES, load_document, plan_schema, read_price_books
from billing.planfiles.policy_examples import DEFAULTS, PAGE, comes_to, examples, page
from billing.planfiles.rated_examples import (
    LIBRARY,
    README,
    example_meters,
    rate_example,
    readme,
)

SCHEMA_LINE = "# yaml-language-server: $schema=../../../openapi/plan.schema.json"
PLANS = sorted(path for path in EXAMPLES.glob("*.yaml") if path.stem != "costs")


def test_the_page_is_what_the_program_says():
    """`make examples` writes it."""
    assert README.read_text(encoding="utf-8") == readme()


def test_the_page_of_policies_is_what_the_program_says():
    """`make examples` writes it, with the defaults that a silent plan has."""
    assert PAGE.read_text(encoding="utf-8") == page()
    silent = [replace(each, policies="{}") for each in examples() if each.value in DEFAULTS]
    said = [each for each in examples() if each.value in DEFAULTS]
    assert [comes_to(each) for each in silent] == [comes_to(each) for each in said]
    assert {each.attribute for each in said} >= {
        field.name for field in fields(Policies) if field.name != "admission"
    }


def test_the_page_shows_both_sides_of_every_point_of_the_credit_order():
    rows = [
        row.split(" | ")
        for row in section().partition("A recurring")[0].splitlines()
        if row.endswith(" |")
    ]
    orders = {row[0].removeprefix("| "): row[3:] for row in rows if len(row) == 6}
    del orders["Point"]
    assert orders.pop("scope") == ["10", "0", "2 |"]
    assert orders.keys() == {"priority", "end", "kind", "age"}
    assert all(paid == ["10", "2", "0 |"] for paid in orders.values())


@pytest.mark.parametrize("example", LIBRARY, ids=lambda example: example.name)
def test_R5_every_row_of_an_examples_usage_has_a_price(example):
    rating = rate_example(example)
    assert rating.unrated == ()
    assert sum(line.amount.minor for line in rating.lines) > 0


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_every_example_is_valid_in_every_currency_and_for_editors(path):
    text = path.read_text(encoding="utf-8")
    plans, refusals = read_price_books(text, meters=declared_by_code(example_meters()))

    assert refusals == ()
    assert plans[0].slug == path.stem
    assert text.splitlines()[0] == SCHEMA_LINE
    jsonschema.validate(_as_editors_read(text), plan_schema())
    assert all(_stored_and_loaded(plan) == plan for plan in plans)


def test_every_example_of_a_month_has_a_plan_and_the_other_way_round():
    usage = {path.stem for path in EXAMPLES.joinpath("usage").glob("*.jsonl")}
    assert usage == {each.name for each in LIBRARY}


def _stored_and_loaded(plan: PricePlan) -> PricePlan:
    return load_document(dump(plan))


def _as_editors_read(text: str) -> object:
    """Plain values; dates are text in a plan file."""

    class Loader(yaml.SafeLoader):
        """YAML without timestamps."""

    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith("timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    return yaml.load(text, Loader=Loader)  # a safe loader, with fewer types
