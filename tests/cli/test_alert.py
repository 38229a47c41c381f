"""`steelyard alert` and the live figures of `steelyard usage`."""

from __future__ import annotations

from tests.cli.test_limit import operator  # noqa: F401  # a fixture


def test_a_threshold_is_set_listed_and_ended(operator):  # noqa: F811  # the fixture
    assert "No thresholds yet" in operator("alert", "list", "acme").out
    made = operator("alert", "set", "acme", "ten", "--amount", "10.50", "--json").document
    assert (made["amount"], made["made_by"]) == ("10.5", "operator")
    of = ("--percent", "80", "--commitment", "spend")
    operator("alert", "set", "acme", "eighty", *of)
    assert "80 %" in operator("alert", "list", "acme").out
    both = operator("alert", "set", "acme", "x", *of, "--limit", "budget")
    assert (both.status, "base" in both.err) == (1, True)
    assert "No threshold was reached" in operator("alert", "fired", "acme").out
    operator("alert", "end", "acme", "ten")
    left = operator("alert", "list", "acme", "--json").document["thresholds"]
    assert [each["name"] for each in left] == ["eighty"]


def test_balance_and_forecast_of_a_running_period(operator):  # noqa: F811  # the fixture
    shown = operator("usage", "balance", "--tenant", "acme", "--json").document
    assert (shown["rated"], shown["currency"], shown["thresholds"]) == ("0.00", "USD", [])
    forecast = operator("usage", "forecast", "--tenant", "acme", "--json").document
    assert (forecast["likely"], forecast["method"]) == ("0.00", "elapsed")
    assert "epoch" in operator("usage", "balance", "--tenant", "acme").out
    assert "as it began" in operator("usage", "forecast", "--tenant", "acme").out
