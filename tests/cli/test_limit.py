"""`steelyard limit`: set, list, end."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

PLAN = """\
slug: standard
name: Standard
currency: USD
price_list:
  models:
    tiny: {input: "0.20", output: "0.80"}
"""


@pytest.fixture
def operator(steelyard, tmp_path):
    plan = tmp_path / "plan.yaml"
    plan.write_text(PLAN)
    for command in (
        ("entity", "create", "foundry", "--name", "F", "--country", "US", "--currency", "USD"),
        ("plan", "apply", str(plan)),
        ("tenant", "create", "acme", "--name", "Acme"),
        ("contract", "bind", "--tenant", "acme", "--plan", "standard@1", "--from", "2026-01-01"),
    ):
        done = steelyard(*command, "--json")
        assert done.status == 0, done.err
    return steelyard


def test_a_budget_is_set_listed_raised_and_ended(operator):
    assert "No limits yet" in operator("limit", "list", "acme").out
    budget = ("limit", "set", "acme", "monthly-budget", "--currency", "USD", "--per", "month")
    made = operator(*budget, "--amount", "500", "--json").document
    assert datetime.fromisoformat(made["resets_at"]) > datetime.now(UTC)
    assert made | {"resets_at": None} == {
        "name": "monthly-budget",
        "unit": "money",
        "window": "month",
        "currency": "USD",
        "capacity": "500",
        "hard": True,
        "shadow": False,
        "project": None,
        "key": None,
        "model": None,
        "used": "0",
        "leased": "0",
        "left": "500",
        "resets_at": None,
        "ended_at": None,
    }
    assert operator(*budget, "--amount", "500", "--json").document == made
    raised = operator(*budget, "--amount", "750.25", "--soft", "--json").document
    assert (raised["capacity"], raised["left"], raised["hard"]) == ("750.25", "750.25", False)
    assert operator("limit", "list", "acme", "--json").document == {"limits": [raised]}
    (shown,) = [
        row for row in operator("limit", "list", "acme").out.splitlines() if "monthly-budget" in row
    ]
    # As `limit set` shows them: twelve decimals of nothing tore the figures over two lines.
    assert [cell.strip() for cell in shown.split("│")[4:8]] == [
        raised["capacity"],
        "0",
        "0",
        raised["left"],
    ]

    ended = operator("limit", "end", "acme", "monthly-budget", "--json").document
    assert ended["ended_at"] is not None
    assert operator("limit", "end", "acme", "monthly-budget", "--json").document == ended
    assert operator("limit", "list", "acme", "--json").document == {"limits": []}


@pytest.mark.parametrize(
    ("options", "unit", "window"),
    [
        (("--tokens", "100000", "--per", "minute"), "tokens", "minute"),
        (("--requests", "60", "--per", "minute", "--shadow"), "requests", "minute"),
        (("--concurrent", "8"), "slots", "none"),
        (("--tokens", "5000000", "--per", "week", "--project", "default"), "tokens", "week"),
    ],
)
def test_every_unit_can_be_limited(operator, options, unit, window):
    made = operator("limit", "set", "acme", "one", *options, "--json").document
    assert (made["unit"], made["window"], made["currency"]) == (unit, window, None)
    assert made["capacity"] == options[1]
    assert made["shadow"] is ("--shadow" in options)


def test_a_limit_of_one_key_names_its_public_part(operator):
    public = operator("key", "create", "--tenant", "acme", "--json").document["public"]
    made = operator("limit", "set", "acme", "k", "--requests", "5", "--key", public, "--json")
    assert made.document["key"] == public
    assert public in operator("limit", "list", "acme").out


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ((), "capacity"),
        (("--tokens", "5", "--requests", "5"), "capacity"),
        (("--amount", "5"), "currency"),
        (("--tokens", "5", "--currency", "USD"), "currency"),
        (("--tokens", "1.5"), "capacity"),
        (("--tokens", "many"), "tokens"),
        (("--requests=-1",), "capacity"),
        (("--concurrent", "5", "--per", "day"), "window"),
        (("--requests", "5", "--project", "unknown"), "project"),
        (("--requests", "5", "--key", "unknown"), "key"),
    ],
)
def test_what_cannot_be_a_limit_is_refused_by_field_and_stores_nothing(operator, options, field):
    refused = operator("limit", "set", "acme", "one", *options, "--json")
    assert refused.status == 1
    assert refused.error["field"] == field
    assert operator("limit", "list", "acme", "--json").document == {"limits": []}


def test_the_credit_is_no_limit_to_set(operator):
    refused = operator(
        "limit", "set", "acme", "credit", "--amount", "5", "--currency", "USD", "--json"
    )
    assert refused.error["field"] == "name"
    assert operator("limit", "end", "acme", "unknown", "--json").error["code"] == "not_found"


def test_a_limit_keeps_what_it_counts(operator):
    operator("limit", "set", "acme", "one", "--requests", "5", "--per", "minute")
    refused = operator("limit", "set", "acme", "one", "--tokens", "5", "--per", "minute", "--json")
    assert refused.error["field"] == "name"
    (kept,) = operator("limit", "list", "acme", "--json").document["limits"]
    assert (kept["unit"], kept["capacity"]) == ("requests", "5")
