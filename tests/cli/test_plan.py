"""`steelyard plan` on files: everything that is wrong, what is missing, what changed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from billing.planfiles.meter_file import declared_by_code
from billing.planfiles.plan_file import EXAMPLES, read_plan
from billing.planfiles.rated_examples import example_meters
from tests.cli.conftest import Run

METERS = str(EXAMPLES / "meters")

PLAN = """\
slug: standard
name: Standard
currency: USD
windows:
  day: {from: "08:00", to: "20:15"}
charges:
  - {type: per_unit, key: in, description: In, meter: tokens.input, models: [m], price: "0.10"}
  - {type: per_unit, key: out, description: Out, meter: tokens.output, models: [m], price: "0.40"}
  - type: graduated
    key: requests
    description: Requests
    meter: requests
    during: day
    tiers: [{up_to: 100, unit: 2}, {unit: 1}]
    discount_percent: 10
  - {type: flat_fee, key: fee, description: Fee, amount: "49.00"}
"""
BROKEN = (
    PLAN.replace('"0.40"', '"-0.40"')
    .replace("{up_to: 100", "{up_to: 0")
    .replace('"49.00"', '"-49.00"')
)


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "plans" / "standard.yaml"
    path.parent.mkdir()
    path.write_text(PLAN)
    return path


def test_everything_that_is_wrong_in_a_folder_is_said(run: Run, plan: Path):
    broken = plan.with_name("broken.yaml")
    broken.write_text(BROKEN)

    said = run("plan", "check", str(plan.parent))
    assert said.status == 1
    assert [line.split(":")[1:5] for line in said.err.splitlines() if "broken" in line] == [
        [f" {broken}", " line 8", " charges[1].price", " a price is negative"],
        [f" {broken}", " line 14", " charges[2].tiers[0].up_to", " tiers overlap or do not rise"],
        [f" {broken}", " line 16", " charges[3].amount", " a price is negative"],
    ]

    refused = run("plan", "check", str(plan.parent), "--json")
    assert refused.status == 1
    assert refused.document["valid"] is False
    assert [each["slug"] for each in refused.document["plans"]] == ["standard"]
    assert [each["line"] for each in refused.document["refusals"]] == [8, 14, 16]
    assert all(each["remedy"] for each in refused.document["refusals"])
    assert (refused.error["line"], refused.error["file"]) == (8, str(broken))


def test_gaps_are_warned_of(run: Run, plan: Path):
    document = run("plan", "check", str(plan), "--json").document
    assert document["valid"] is True
    assert [(each["about"], each["message"]) for each in document["warnings"]] == [
        ("requests", "82 h 15 min of a week have no price"),
        ("m", "cached input has no price, and most engines cache prompts"),
    ]
    assert "warning: requests: 82 h 15 min" in run("plan", "check", str(plan)).err

    plan.write_text(PLAN.replace("windows:", "policies: {unpriced: free}\nwindows:"))
    assert run("plan", "check", str(plan), "--json").document["warnings"] == []


def test_what_a_plan_leaves_to_other_contracts_is_warned_of(run: Run):
    path = str(EXAMPLES / "batch-share.yaml")
    found = run("plan", "check", path, "--meters", METERS, "--json").document["warnings"]
    assert {each["about"] for each in found} == {
        "tokens.input",
        "tokens.cached_input",
        "tokens.output",
    }
    assert {each["message"].partition(" of ")[2] for each in found} == {
        "atlas-large has no price where service_tier is default"
    }


def test_meters_come_from_files(run: Run):
    path = str(EXAMPLES / "gpu-hours.yaml")
    assert run("plan", "check", path).status == 1
    assert run("plan", "check", path, "--meters", METERS, "--json").document["valid"] is True


def test_a_dimension_that_the_meter_file_lacks_is_refused(run: Run, tmp_path: Path):
    path = tmp_path / "plan.yaml"
    text = EXAMPLES.joinpath("gpu-hours.yaml").read_text(encoding="utf-8")
    path.write_text(text.replace("by: [gpu, slice]", "by: [gpu, region]"))
    refused = run("plan", "check", str(path), "--meters", METERS, "--json")
    assert (refused.status, refused.error["field"]) == (1, "charges[0].by")


def test_check_shows_what_a_charge_says(run: Run, plan: Path):
    shown = run("plan", "check", str(plan)).out
    for said in ("per unit", "graduated", "above 0 up to 100", "during", "discount percent"):
        assert said in shown, said


@pytest.mark.parametrize("name", sorted(path.stem for path in EXAMPLES.glob("usage/*.jsonl")))
def test_every_model_of_the_library_can_be_shown(run: Run, name: str):
    done = run("plan", "check", str(EXAMPLES / f"{name}.yaml"), "--meters", METERS)
    assert done.status == 0, done.err
    assert f"{name}.yaml is a valid plan." in done.out.replace("\n", "")


def test_a_diff_names_every_change_and_its_percentage(run: Run, plan: Path):
    after = plan.with_name("next.yaml")
    after.write_text(
        PLAN.replace('"0.40"', '"0.38"')
        .replace("unit: 1}", "unit: 1, flat: 5}")
        .replace("    discount_percent: 10\n", "")
        .replace("key: fee,", "key: platform,")
        .replace("windows:", "policies: {allowance_in_volume: billable_once_exceeded}\nwindows:")
    )

    found = run("plan", "diff", str(plan), str(after), "--json").document["differences"]
    assert [
        (each["change"], each["key"], each["field"], each["before"], each["after"], each["percent"])
        for each in found
    ] == [
        ("added", None, "policies.allowance_in_volume", None, "billable_once_exceeded", None),
        ("changed", "out", "price", "0.4", "0.38", "-5"),
        ("changed", "requests", "tiers[1].flat", "0", "5", None),
        ("removed", "requests", "discount_percent", "10", None, None),
        ("removed", "fee", None, "Fee", None, None),
        ("added", "platform", None, None, "Fee", None),
    ]
    assert "-5.00 %" in run("plan", "diff", str(plan), str(after)).out


def test_a_diff_of_equal_plans_is_empty(run: Run, plan: Path):
    again = plan.with_name("again.yaml")
    again.write_text(PLAN.replace('"0.40"', '"0.400"'))
    assert run("plan", "diff", str(plan), str(again), "--json").document["differences"] == []
    assert "say the same" in run("plan", "diff", str(plan), str(again)).out


def test_stored_versions_are_compared(steelyard: Run, plan: Path):
    steelyard("db", "migrate")
    assert steelyard("plan", "apply", str(plan)).status == 0
    plan.write_text(PLAN.replace('"49.00"', '"59.00"'))
    assert steelyard("plan", "apply", str(plan)).status == 0

    for sides in (("standard@1", "standard@2"), ("standard@1", str(plan))):
        found = steelyard("plan", "diff", *sides, "--json").document["differences"]
        assert [(each["key"], each["percent"]) for each in found] == [("fee", "20.41")]


EUROS = PLAN.replace("currency: USD\n", "currency: USD\ncurrencies: [EUR]\n").replace(
    '"49.00"', '{USD: "49.00", EUR: "45.00"}'
)


@pytest.fixture
def books(plan: Path) -> Path:
    """A file of the plan in two currencies, whose amounts are all in both."""
    both = EUROS.replace('price: "0.10"', 'price: {USD: "0.10", EUR: "0.09"}')
    both = both.replace('price: "0.40"', 'price: {USD: "0.40", EUR: "0.36"}')
    both = both.replace("unit: 2}", "unit: {USD: 2, EUR: 2}}")
    path = plan.with_name("books.yaml")
    path.write_text(both.replace("unit: 1}", "unit: {USD: 1, EUR: 1}}"))
    return path


def test_a_diff_compares_a_file_in_each_of_its_currencies(run: Run, books: Path):
    raised = books.with_name("raised.yaml")
    raised.write_text(books.read_text().replace('EUR: "45.00"', 'EUR: "54.00"'))

    dollars, euros = run("plan", "diff", str(books), str(raised), "--json").document["plans"]
    assert (dollars["before"]["slug"], dollars["differences"]) == ("standard", [])
    assert euros["before"]["slug"] == "standard-eur"
    assert [(each["key"], each["percent"]) for each in euros["differences"]] == [("fee", "20")]
    assert "+20.00 %" in run("plan", "diff", str(books), str(raised)).out


def test_a_diff_says_that_a_file_gained_or_lost_a_currency(run: Run, plan: Path, books: Path):
    for sides, expected in (
        ((plan, books), ("added", None, "EUR")),
        ((books, plan), ("removed", "EUR", None)),
    ):
        document = run("plan", "diff", *map(str, sides), "--json").document
        (told,) = document["differences"]
        assert (told["field"], (told["change"], told["before"], told["after"])) == (
            "currencies",
            expected,
        )


def test_a_stored_plan_is_compared_with_that_of_its_currency(steelyard: Run, books: Path):
    steelyard("db", "migrate")
    assert steelyard("plan", "apply", str(books)).status == 0
    for stored in ("standard", "standard-eur"):
        compared = steelyard("plan", "diff", stored, str(books), "--json").document
        assert (compared["after"]["slug"], compared["differences"]) == (stored, [])


def test_a_file_of_several_currencies_is_stored_as_a_plan_in_each(steelyard: Run):
    steelyard("db", "migrate")
    for path in sorted(EXAMPLES.glob("meters/tokens-*.yaml")):
        defined = steelyard("meter", "define", str(path))
        assert defined.status == 0, defined.err
    path = str(EXAMPLES / "public-tokens.yaml")

    applied = steelyard("plan", "apply", path, "--json").document["plans"]
    assert [(each["slug"], each["currency"], each["created"]) for each in applied] == [
        ("public-tokens", "USD", True),
        ("public-tokens-eur", "EUR", True),
    ]
    again = steelyard("plan", "apply", path, "--json").document["plans"]
    assert [each["created"] for each in again] == [False, False]
    stored = steelyard("plan", "show", "public-tokens-eur", "--json").document
    first = stored["charges"][0]
    assert (first["key"], first["price"]) == (
        "tokens/atlas-large/input/below-32000/others",
        "1.15",
    )


def test_the_example_that_is_printed_looks_for_its_schema_beside_it(run: Run):
    text = run("plan", "example", "gpu-hours").out
    assert text.startswith("# yaml-language-server: $schema=plan.schema.json\n")
    known = declared_by_code(example_meters())
    assert read_plan(text, meters=known).slug == "gpu-hours"
    assert json.loads(run("plan", "schema").out)["title"] == "PlanDocument"
