"""`steelyard rate` and the plan commands that need no database."""

from __future__ import annotations

import json
import subprocess
import sys
from decimal import Decimal

import pytest

from billing.planfiles.plan_file import EXAMPLES, plan_schema
from billing.planfiles.rated_examples import LIBRARY, rate_example

METERS = str(EXAMPLES / "meters")
PLANS = [path for path in sorted(EXAMPLES.glob("*.yaml")) if "charges:" in path.read_text()]

USAGE = """\
{"model": "sim-small", "input": 1234567, "cached_input": 100, "output": 7}

{"tokens": "output", "model": "sim-large", "quantity": "12000000"}
"""


@pytest.fixture
def usage(tmp_path):
    path = tmp_path / "usage.jsonl"
    path.write_text(USAGE)
    return str(path)


def test_rates_the_example_plan_to_the_cent(run, usage):
    plan = str(EXAMPLES / "inference-standard.yaml")
    rated = run("rate", "--plan", plan, "--usage", usage, "--json")
    assert rated.status == 0
    document = rated.document
    amounts = {line["key"]: (line["exact"], line["amount"]) for line in document["lines"]}
    # 10,000,000 at 8 and 2,000,000 at 6.50 per million.
    assert amounts == {
        "platform": ("49", "49.00"),
        "tokens/sim-large/output": ("93", "93.00"),
        "tokens/sim-small/input": ("0.1234567", "0.12"),
        "tokens/sim-small/cached_input": ("0.0000025", "0.00"),
        "tokens/sim-small/output": ("0.0000028", "0.00"),
    }
    assert document["total"] == "142.12"
    assert document["unrated"] == []
    assert all(line["explanation"] for line in document["lines"])


def test_the_table_says_the_same(run, usage):
    plan = str(EXAMPLES / "inference-standard.yaml")
    shown = run("rate", "--plan", plan, "--usage", usage)
    assert shown.status == 0
    assert "12,000,000" in shown.out
    assert "tier 2, above 10: 2 x 6.5 = 13 USD" in shown.out
    assert "142.12" in shown.out


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_every_example_plan_is_valid_and_rates(run, path):
    checked = run("plan", "check", str(path), "--meters", METERS, "--json").document
    for plan in checked.get("plans", [checked]):
        assert plan["valid"] is True
    month = ["--meters", METERS, "--period", "2026-11", "--json"]
    empty = run("rate", "--plan", str(path), "--usage", "-", *month, stdin="")
    assert empty.status == 0
    lines = empty.document["lines"]
    assert Decimal(empty.document["total"]) == sum(Decimal(line["amount"]) for line in lines)


@pytest.mark.parametrize("example", LIBRARY, ids=lambda example: example.name)
def test_the_library_costs_what_its_page_says(run, example):
    plan = str(EXAMPLES / f"{example.name}.yaml")
    usage = str(EXAMPLES / "usage" / f"{example.name}.jsonl")
    month = ["--meters", METERS, "--period", "2026-11", "--zone", example.zone, "--json"]
    rated = run("rate", "--plan", plan, "--usage", usage, *month).document
    expected = {line.key: f"{line.amount.major():f}" for line in rate_example(example).lines}

    assert {line["key"]: line["amount"] for line in rated["lines"]} == expected
    assert (rated["unrated"], rated["outside_period"], rated["period"]) == ([], "0", "2026-11")


def test_usage_of_other_months_is_left_out_and_told(run):
    plan = str(EXAMPLES / "inference-standard.yaml")
    row = '{"model": "sim-small", "output": 1000000, "at": "2026-10-31T23:00:00Z"}'
    command = ["rate", "--plan", plan, "--usage", "-", "--period", "2026-11"]
    in_utc = run(*command, stdin=row)
    in_berlin = run(*command, "--zone", "Europe/Berlin", "--json", stdin=row)

    assert "1 lines of usage are outside the period" in in_utc.err
    assert in_berlin.document["outside_period"] == "0"
    assert len(in_berlin.document["lines"]) == 2


def test_a_plan_of_several_currencies_is_rated_in_the_one_that_is_named(run):
    command = ["rate", "--plan", str(EXAMPLES / "public-tokens.yaml"), "--meters", METERS]
    command += ["--usage", str(EXAMPLES / "usage" / "public-tokens.jsonl"), "--json"]
    rated = [run(*command, *more).document for more in ((), ("--currency", "EUR"))]

    assert [each["currency"] for each in rated] == ["USD", "EUR"]
    assert Decimal(rated[0]["total"]) > Decimal(rated[1]["total"])
    assert run(*command, "--currency", "CHF").error["field"] == "currency"


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (["--period", "11-2026"], "period"),
        (["--period", "2026-11", "--zone", "Nowhere"], "zone"),
        (["--meters", "absent.yaml"], "meters"),
    ],
)
def test_bad_options_are_named(run, usage, arguments, field):
    plan = str(EXAMPLES / "inference-standard.yaml")
    refused = run("rate", "--plan", plan, "--usage", usage, *arguments, "--json")
    assert (refused.status, refused.error["field"]) == (1, field)
    assert refused.error["remedy"]


def test_R5_usage_without_a_price_is_printed_and_exits_with_1(run):
    plan = str(EXAMPLES / "support-outcomes.yaml")
    row = '{"meter": "tokens.input", "model": "other", "quantity": 5}'
    rated = run("rate", "--plan", plan, "--usage", "-", "--json", stdin=row)
    assert rated.status == 1
    expected = [{"meter": "tokens.input", "model": "other", "quantity": "5"}]
    assert rated.document["unrated"] == expected
    shown = run("rate", "--plan", plan, "--usage", "-", stdin=row)
    assert (shown.status, "no charge prices" in shown.out) == (1, True)


@pytest.mark.parametrize(
    ("row", "member"),
    [
        ('{"model": "sim-small", "input": 1.5}', "line 2"),
        ('{"model": "sim-small", "input": -1}', "line 2: tokens.input"),
        ("not json", "line 2"),
        ('{"model": "' + "x" * 200_000, "line 2"),
    ],
)
def test_a_bad_row_is_refused_with_its_line(run, row, member):
    plan = str(EXAMPLES / "inference-standard.yaml")
    text = '{"model": "sim-small", "input": 1}\n' + row
    refused = run("rate", "--plan", plan, "--usage", "-", "--json", stdin=text)
    assert (refused.status, refused.out) == (1, "")
    assert refused.error["field"] == member


def test_bytes_that_are_no_text_are_refused_with_their_line(run):
    plan = str(EXAMPLES / "inference-standard.yaml")
    refused = run("rate", "--plan", plan, "--usage", "-", "--json", stdin=b"\xef\xbb\xbf\n\xff\n")
    assert refused.error["field"] == "line 2"


def test_plan_and_usage_cannot_share_standard_input(run):
    assert run("rate", "--plan", "-", "--usage", "-", "--json").error["field"] == "usage"


def test_rating_loads_no_database_driver(usage):
    plan = str(EXAMPLES / "inference-standard.yaml")
    script = (
        "import sys; from billing.cli.app import app\n"
        f"app(['rate', '--plan', {plan!r}, '--usage', {usage!r}], standalone_mode=False)\n"
        "assert not {'sqlalchemy', 'psycopg', 'stripe'} & sys.modules.keys()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_schema_is_printed_for_editors(run):
    assert run("plan", "schema").document == plan_schema()


def test_examples_are_listed_and_printed_as_they_are(run):
    names = run("plan", "example", "--json").document["examples"]
    assert {"inference-standard", "support-outcomes", "costs"} <= set(names)
    for name in names:
        written = (EXAMPLES / f"{name}.yaml").read_text()
        # A copy has the schema beside it.
        expected = written.replace("$schema=../../../openapi/", "$schema=")
        assert run("plan", "example", name).out == expected
    assert run("plan", "example", "absent", "--json").error["code"] == "not_found"


def test_check_shows_every_tier(run):
    shown = run("plan", "check", str(EXAMPLES / "inference-standard.yaml")).out
    assert "above 0 up to 10,000,000" in shown
    assert "above 10,000,000" in shown


def test_json_numbers_carry_no_amount(run, usage):
    """Amounts and quantities are text: a reader's binary floats must not touch them."""
    plan = str(EXAMPLES / "inference-standard.yaml")
    text = run("rate", "--plan", plan, "--usage", usage, "--json").out

    def refuse(number: str) -> None:
        raise AssertionError(number)

    json.loads(text, parse_float=refuse, parse_int=refuse)
