"""Limits over HTTP: set by the operator, read by their tenant."""

from __future__ import annotations

import httpx
import pytest

from billing.operations.admission.take_snapshot import take_snapshot
from billing.store.database import Role
from tests.api.control.conftest import Plane

LIMITS = "operator/tenants/acme/limits"
BUDGET = {"unit": "money", "window": "month", "capacity": "500.00", "currency": "USD"}


def test_L3_a_limit_is_set_once_and_changed_in_place(plane: Plane, operator: httpx.Client):
    first = operator.put(f"{LIMITS}/monthly", json=BUDGET).raise_for_status().json()
    before = plane.row_counts()
    assert (first["capacity"], first["left"], first["used"]) == ("500", "500", "0")
    assert first["resets_at"] == "2026-12-01T00:00:00Z"
    assert operator.put(f"{LIMITS}/monthly", json=BUDGET).raise_for_status().json() == first
    raised = operator.put(f"{LIMITS}/monthly", json={**BUDGET, "capacity": "750"}).json()
    assert (raised["capacity"], raised["left"]) == ("750", "750")
    assert operator.get(f"{LIMITS}/monthly").raise_for_status().json() == raised
    assert operator.get(LIMITS).raise_for_status().json() == [raised]
    assert plane.row_counts() == before


def test_an_ended_limit_stays_readable_and_counts_no_more(plane: Plane, operator: httpx.Client):
    operator.put(f"{LIMITS}/monthly", json=BUDGET).raise_for_status()
    ended = operator.delete(f"{LIMITS}/monthly").raise_for_status().json()
    assert ended["ended_at"] is not None
    assert operator.delete(f"{LIMITS}/monthly").raise_for_status().json() == ended
    assert operator.get(LIMITS).raise_for_status().json() == []
    assert operator.get(f"{LIMITS}/monthly").raise_for_status().json() == ended
    with plane.world.database.transaction(Role.OPERATOR) as connection:
        taken = take_snapshot(connection, models=[], version=1, now=plane.world.now)
    assert taken.terms[plane.acme.id].limits == ()


def test_the_proxy_sees_limits_in_its_own_units(plane: Plane, operator: httpx.Client):
    operator.put(f"{LIMITS}/monthly", json=BUDGET).raise_for_status()
    tokens = {"unit": "tokens", "window": "minute", "capacity": "90000", "project": "default"}
    operator.put(f"{LIMITS}/tpm", json={**tokens, "hard": False}).raise_for_status()
    with plane.world.database.transaction(Role.OPERATOR) as connection:
        taken = take_snapshot(connection, models=[], version=1, now=plane.world.now)
    money, counted = taken.terms[plane.acme.id].limits
    assert (money.name, money.capacity, money.hard) == ("monthly", 500 * 10**12, True)
    assert (counted.name, counted.capacity, counted.hard) == ("tpm", 90_000, False)
    assert counted.project_id is not None
    assert taken.terms[plane.bolt.id].limits == ()


def test_T1_a_tenant_sees_its_own_limits_only(
    plane: Plane, operator: httpx.Client, tenant: httpx.Client
):
    shown = operator.put(f"{LIMITS}/monthly", json=BUDGET).raise_for_status().json()
    assert tenant.get("limits").raise_for_status().json() == [shown]
    with plane.client("bolt") as bolt:
        assert bolt.get("limits").raise_for_status().json() == []
        assert bolt.get(LIMITS).status_code == 403
    assert tenant.put("limits/monthly", json=BUDGET).status_code in (404, 405)
    for method in ("GET", "DELETE"):
        assert tenant.request(method, f"{LIMITS}/monthly").status_code == 403
    assert tenant.put(f"{LIMITS}/monthly", json={**BUDGET, "capacity": "9"}).status_code == 403
    with plane.client("inference") as inference:
        assert inference.get("limits").status_code == 403
    assert operator.get(LIMITS).json() == [shown]


def test_T1_a_limit_cannot_be_on_another_tenants_key_or_project(
    plane: Plane, operator: httpx.Client
):
    foreign = {**BUDGET, "key": plane.keys["bolt"].public}
    refused = operator.put(f"{LIMITS}/monthly", json=foreign)
    assert (refused.status_code, refused.json()["field"]) == (404, "key")
    assert operator.get(LIMITS).json() == []


@pytest.mark.parametrize(
    ("changed", "status", "field"),
    [
        ({"capacity": "-1"}, 400, "capacity"),
        ({"capacity": "lots"}, 400, "capacity"),
        ({"capacity": "0.0000000000001"}, 400, "capacity"),
        ({"capacity": "1" + "0" * 26}, 400, "capacity"),
        ({"currency": None}, 400, "currency"),
        ({"unit": "tokens"}, 400, "currency"),
        ({"unit": "slots", "currency": None}, 400, "window"),
        ({"project": "unknown"}, 404, "project"),
        ({"key": "unknown"}, 404, "key"),
        ({"unit": "euros"}, 400, "unit"),
        ({"window": "year"}, 400, "window"),
        ({"capacities": "1"}, 400, None),
    ],
)
def test_a_refused_limit_names_the_field_and_stores_nothing(
    plane: Plane, operator: httpx.Client, changed, status, field
):
    before = plane.row_counts()
    refused = operator.put(f"{LIMITS}/monthly", json={**BUDGET, **changed})
    assert refused.status_code == status, refused.text
    if field is not None:
        assert refused.json()["field"] == field
    assert plane.row_counts() == before


def test_unknown_tenants_and_limits_are_not_found(operator: httpx.Client):
    assert operator.get("operator/tenants/nobody/limits").status_code == 404
    assert operator.get(f"{LIMITS}/unknown").status_code == 404
    assert operator.delete(f"{LIMITS}/unknown").status_code == 404
    credit = operator.put(f"{LIMITS}/credit", json=BUDGET)
    assert (credit.status_code, credit.json()["field"]) == (400, "name")
