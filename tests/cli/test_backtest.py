"""`steelyard backtest` at the terminal, for machines and as files."""

from __future__ import annotations

import csv
import io
import re

import pytest

from billing.cli.backtest import bar_of, read_months
from billing.errors import InvalidInput
from billing.store.database import Database
from tests.cli.conftest import Run
from tests.world import PLAN, make_world

NEW = PLAN.replace('"0.20"', '"0.40"').replace("name: Standard", "name: New & <better>")

CALLS = """
slug: calls
name: Calls
currency: USD
charges:
  - {type: per_unit, key: calls, description: Calls, meter: requests, price: "0.02"}
"""


@pytest.fixture
def plan(database: Database, now, tmp_path, monkeypatch) -> str:
    monkeypatch.setattr("billing.cli.backtest.clock", lambda: now)
    world = make_world(database, now)
    for slug, tokens in (("acme", 100_000_000), ("birch", 0)):
        tenant = world.tenant(slug)
        if tokens:
            world.use(tenant, {"tokens.input": tokens})
    path = tmp_path / "new.yaml"
    path.write_text(NEW)
    return str(path)


def test_it_says_who_pays_more_and_draws_it(plan: str, steelyard: Run, tmp_path) -> None:
    asked = ("backtest", "--plan", plan, "--period", "2026-10..2026-11")
    document = steelyard(*asked, "--json").document
    assert document["total"] == {
        "name": "total",
        "before": "60.00",
        "after": "80.00",
        "difference": "20.00",
        "percent": "33.3",
    }
    assert [(row["name"], row["difference"]) for row in document["tenants"]] == [
        ("acme", "20.00"),
        ("birch", "0.00"),
    ]
    assert {row["read_from"] for row in document["periods"]} == {"days"}
    shown = steelyard(*asked)
    assert "Read from days: 2 tenants." in shown.out
    assert re.search(r"the same +│ +1 │ █{20} ", shown.out)

    table = tmp_path / "report.csv"
    assert steelyard(*asked, "--out", str(table)).status == 0
    rows = list(csv.DictReader(io.StringIO(table.read_text())))
    assert [(row["tenant"], row["before"], row["after"]) for row in rows] == [
        ("acme", "40.00", "60.00"),
        ("birch", "20.00", "20.00"),
    ]
    page = tmp_path / "report.html"
    assert steelyard(*asked, "--out", str(page)).status == 0
    text = page.read_text()
    assert "New &amp; &lt;better&gt;" in text
    assert "<better>" not in text
    assert text.count("<svg") == text.count("</svg>") == 2
    assert re.findall(r'width="(\d+)" height="16" fill="#2f6fb0"', text)[0] == "380"
    assert "http" not in text


def test_a_plan_in_several_currencies_is_tried_in_the_one_that_is_asked_for(
    database: Database, now, tmp_path, monkeypatch, steelyard: Run
) -> None:
    monkeypatch.setattr("billing.cli.backtest.clock", lambda: now)
    world = make_world(database, now)
    world.plan(CALLS.replace("slug: calls", "slug: calls-eur").replace("USD", "EUR"))
    world.use(world.tenant("acme", plan="calls-eur"), {"requests": 100})
    path = tmp_path / "both.yaml"
    path.write_text(
        CALLS.replace("currency: USD", "currency: USD\ncurrencies: [EUR]").replace(
            '"0.02"', '{USD: "0.02", EUR: "0.03"}'
        )
    )
    asked = ("backtest", "--plan", str(path), "--period", "2026-11", "--json")

    euros = steelyard(*asked, "--currency", "EUR").document
    assert (euros["plan"], euros["currency"]) == ("calls-eur", "EUR")
    assert (euros["total"]["before"], euros["total"]["after"]) == ("2.00", "3.00")
    dollars = steelyard(*asked).document
    assert (dollars["currency"], dollars["periods"]) == ("USD", [])
    assert dollars["left_out"] == [{"tenant": "acme", "reason": "contracts in EUR"}]
    refused = steelyard(*asked, "--currency", "GBP")
    assert (refused.status, refused.error["field"]) == (1, "currency")
    assert refused.error["remedy"] == "use USD or EUR"


def test_what_cannot_be_read_or_written_is_refused(plan: str, steelyard: Run) -> None:
    asked = ("backtest", "--plan", plan, "--json")
    assert steelyard(*asked, "--period", "2026-11", "--out", "report.pdf").error["field"] == "out"
    assert steelyard(*asked, "--period", "november").error["field"] == "period"
    nobody = steelyard(*asked, "--period", "2026-11", "--tenant", "")
    assert (nobody.status, nobody.error["field"]) == (1, "tenant")


def test_months_are_both_ends_and_all_between() -> None:
    assert read_months("2026-11..2027-02") == [(2026, 11), (2026, 12), (2027, 1), (2027, 2)]
    assert read_months("2026-11") == [(2026, 11)]
    with pytest.raises(InvalidInput):
        read_months("2026-11..2026-10")


@pytest.mark.parametrize(("part", "length"), [(0, 0), (1, 1), (500, 20), (1000, 40)])
def test_what_is_not_nothing_is_seen(part: int, length: int) -> None:
    assert len(bar_of(part, 1000)) == length
