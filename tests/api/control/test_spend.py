"""Spend over HTTP: one balance for tenant and operator, thresholds each end by who made them."""

from __future__ import annotations

from decimal import Decimal

import httpx
import pytest

from tests.api.control.conftest import Plane
from workers.rating import accrue_changes

OPERATOR = "operator/tenants/acme/spend"


def test_tenant_and_operator_read_one_balance(
    plane: Plane, tenant: httpx.Client, operator: httpx.Client
):
    plane.world.use(plane.acme, {"tokens.input": 1_000_000})
    shown = tenant.get("spend/balance").raise_for_status().json()
    assert operator.get(f"{OPERATOR}/balance").raise_for_status().json() == shown
    assert (shown["rated"], shown["invoiced"], shown["currency"]) == ("20.20", "0.00", "USD")
    assert Decimal(shown["rated_exact"]) == Decimal(shown["unbilled"]) == Decimal("20.2")
    assert shown["age_ms"] == 0
    forecast = tenant.get("spend/forecast").raise_for_status().json()
    assert forecast == shown["forecast"]
    assert Decimal(forecast["low"]) <= Decimal(forecast["likely"]) <= Decimal(forecast["high"])


def test_a_threshold_is_set_told_and_ended(
    plane: Plane, tenant: httpx.Client, operator: httpx.Client
):
    ten = {"amount": "10"}
    made = tenant.put("spend/thresholds/ten", json=ten).raise_for_status().json()
    assert tenant.put("spend/thresholds/ten", json=ten).json() == made  # L3
    operator.put(f"{OPERATOR}/thresholds/far", json={"amount": "1000.5"}).raise_for_status()
    assert made["made_by"] == "tenant"
    accrue_changes(plane.world.database, now=plane.world.now)
    (told,) = tenant.get("spend/alerts").raise_for_status().json()
    assert (told["threshold"], Decimal(told["spent"])) == ("ten", 20)
    assert operator.get(f"{OPERATOR}/alerts").raise_for_status().json() == [told]
    states = tenant.get("spend/balance").raise_for_status().json()["thresholds"]
    assert [(each["name"], each["fired_at"] is None) for each in states] == [
        ("far", True),
        ("ten", False),
    ]
    refused = tenant.delete("spend/thresholds/far")
    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    assert tenant.delete("spend/thresholds/ten").raise_for_status().json() == made
    assert tenant.delete("spend/thresholds/ten").status_code == 404
    operator.delete(f"{OPERATOR}/thresholds/far").raise_for_status()
    assert operator.get(f"{OPERATOR}/thresholds").json() == []
    assert tenant.get("spend/alerts").raise_for_status().json() == [told]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "amount"),
        ({"amount": "1", "percent": "1", "base": "limit", "base_name": "x"}, "amount"),
        ({"percent": "80"}, "base"),
        ({"percent": "80", "base": "limit"}, "base_name"),
        ({"amount": "-1"}, "amount"),
        ({"amount": "1e3"}, "amount"),
    ],
)
def test_a_threshold_that_cannot_be_names_its_field(
    tenant: httpx.Client, body: dict[str, str], field: str
):
    refused = tenant.put("spend/thresholds/bad", json=body)
    assert (refused.status_code, refused.json()["field"]) == (400, field)
    assert tenant.get("spend/thresholds").json() == []
