"""Credit and the books over HTTP: granted once, read by its owner, closed for good."""

from __future__ import annotations

from decimal import Decimal

import httpx

from billing.operations.credits.apply_credits import apply_credits
from billing.operations.credits.top_ups import consider_top_up
from billing.operations.rating.accrue_usage import accrue_usage
from billing.store.database import Role
from tests.api.control.conftest import Plane
from tests.world import MONTH_END

GRANTS = "operator/tenants/acme/credit/grants"
GRANT = {
    "currency": "USD",
    "amount": "30.00",
    "kind": "paid",
    "taxed_at": "purchase",
    "paid_from": "bank",
    "cost_basis": "27.00",
    "counts_toward_commitment": True,
    "starts_at": "2026-11-01T00:00:00Z",
    "rollover": {"fraction": "0.5", "maximum": "10"},
    "expires_at": "2027-06-01T00:00:00+02:00",
    "source": "order 17",
    "idempotency_key": "order-17",
}
POLICY = {
    "currency": "USD",
    "threshold": "100",
    "amount": "50.00",
    "window_ms": 3_600_000,
    "count_max": 1,
    "amount_max": "50",
    "cool_down_ms": 0,
}


def grant(operator: httpx.Client, **changed: object) -> httpx.Response:
    return operator.post(GRANTS, json={**GRANT, **changed})


def spend(plane: Plane) -> None:
    plane.world.use(plane.acme, {"tokens.input": 5_000_000})
    period = plane.acme.billing_period(plane.world.now)
    with plane.world.database.transaction(Role.OPERATOR) as connection:
        accrue_usage(connection, tenant=plane.acme, period=period, now=plane.world.now)
        apply_credits(connection, tenant=plane.acme, period=period, now=plane.world.now)


def test_L3_a_grant_is_made_once_per_key(plane: Plane, operator: httpx.Client):
    first = grant(operator).raise_for_status().json()
    assert first["counts_toward_commitment"] is True
    assert first["expires_at"] == "2027-05-31T22:00:00Z"
    before = plane.row_counts()
    assert grant(operator).raise_for_status().json() == first
    other = grant(operator, amount="31.00")
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_conflict")
    assert plane.row_counts() == before


def test_C1_a_tenant_reads_its_credit_and_every_movement(
    plane: Plane, operator: httpx.Client, tenant: httpx.Client
):
    given = grant(operator).raise_for_status().json()
    spend(plane)
    shown = tenant.get("credit").raise_for_status().json()
    assert shown == operator.get("operator/tenants/acme/credit").raise_for_status().json()
    (balance,), (row,) = shown["balances"], shown["grants"]
    assert Decimal(balance["available"]) == Decimal(row["remaining"]) == 9
    assert sum(Decimal(row[part]) for part in ("used", "expired", "remaining")) == 30
    asked = {"currency": "USD"}
    statement = tenant.get("credit/statement", params=asked).raise_for_status().json()
    path = "operator/tenants/acme/credit/statement"
    assert operator.get(path, params=asked).raise_for_status().json() == statement
    moved = [Decimal(each["amount"]) for each in statement["movements"]]
    assert Decimal(statement["opening"]) + sum(moved) == Decimal(statement["closing"]) == 9
    assert {each["kind"] for each in statement["movements"]} == {"granted", "applied"}
    assert {each["grant"] for each in statement["movements"]} == {given["id"]}
    later = {**asked, "from": "2026-12-01T00:00:00Z", "to": "2027-01-01T00:00:00Z"}
    empty = tenant.get("credit/statement", params=later).raise_for_status().json()
    assert (empty["movements"], Decimal(empty["opening"])) == ([], 9)
    voided = operator.post(f"operator/credit/grants/{given['id']}/void").raise_for_status()
    assert Decimal(voided.json()["remaining"]) == 0
    again = operator.post(f"operator/credit/grants/{given['id']}/void")
    assert (again.status_code, again.json()["field"]) == (409, "grant")


def test_T1_T2_another_tenant_sees_nothing_of_it(plane: Plane, operator: httpx.Client):
    grant(operator).raise_for_status()
    spend(plane)
    with plane.client("bolt") as bolt:
        assert bolt.get("credit").raise_for_status().json() == {
            "balances": [],
            "grants": [],
            "holds": [],
        }
        statement = bolt.get("credit/statement", params={"currency": "USD"}).json()
        assert statement["movements"] == []
        assert {Decimal(statement[end]) for end in ("opening", "closing")} == {Decimal(0)}
        assert bolt.get("operator/tenants/acme/credit").status_code == 403


def test_L3_a_top_up_is_granted_once_its_money_came(plane: Plane, operator: httpx.Client):
    path = "operator/tenants/acme/top-ups"
    missing = operator.get(path, params={"currency": "USD"})
    assert (missing.status_code, missing.json()["field"]) == (404, "currency")
    set_now = operator.put(f"{path}/policy", json=POLICY).raise_for_status().json()
    assert set_now["policy"] == POLICY | {"amount": "50"}
    with plane.world.database.transaction(Role.OPERATOR) as connection:
        for _ in range(2):
            consider_top_up(connection, tenant=plane.acme, currency_code="USD", now=plane.world.now)
    (asked,) = operator.get(path, params={"currency": "USD"}).json()["top_ups"]
    assert (asked["state"], Decimal(asked["amount"])) == ("requested", 50)
    paid = {"taxed_at": "redemption", "paid_from": "stripe_clearing"}
    one = operator.post(f"operator/top-ups/{asked['id']}/paid", json=paid).raise_for_status()
    two = operator.post(f"operator/top-ups/{asked['id']}/paid", json=paid).raise_for_status()
    assert one.json() == two.json()
    assert operator.post(f"operator/top-ups/{asked['id']}/declined").status_code == 409
    (done,) = operator.get(path, params={"currency": "USD"}).json()["top_ups"]
    assert done["state"] == "paid"
    unknown = "00000000-0000-7000-8000-000000000000"
    assert operator.post(f"operator/top-ups/{unknown}/declined").status_code == 404


def test_the_books_are_read_closed_and_corrected(
    plane: Plane, operator: httpx.Client, finance: httpx.Client
):
    grant(operator).raise_for_status()
    spend(plane)
    held = {
        (row["account"], row["tenant"]): Decimal(row["balance"])
        for row in finance.get("books/balances").raise_for_status().json()
    }
    assert sum(held.values()) == 0
    assert held["bank", None] == 27
    assert held["revenue", "acme"] == -21
    owed = {"before": "2026-11-01T00:00:00Z"}
    assert finance.get("books/balances", params=owed).raise_for_status().json() == []
    trial = finance.get("books/trial-balance").raise_for_status().json()
    assert sum(Decimal(row["debit"]) - Decimal(row["credit"]) for row in trial) == 0
    asked = {"account": "bank", "period": "2026-11"}
    bank = finance.get("books/statement", params=asked).raise_for_status().json()
    assert (Decimal(bank["opening"]), Decimal(bank["closing"])) == (0, 27)
    (line,) = bank["lines"]
    bought = operator.post(f"operator/books/transactions/{line['transaction']}/reverse")
    assert bought.status_code == 409  # its grant would stay: it is voided instead
    asked = {"account": "revenue", "tenant": "acme", "period": "2026-11"}
    earned = finance.get("books/statement", params=asked).raise_for_status().json()["lines"]
    path = f"operator/books/transactions/{earned[0]['transaction']}/reverse"
    assert operator.post(path).raise_for_status().json()["reverses"] == earned[0]["transaction"]
    assert operator.post(path).status_code == 409

    close = {"period": "2026-11", "closed_by": "Ada"}
    early = operator.post("operator/books/periods/close", json=close)
    assert (early.status_code, early.json()["field"]) == (409, "period")
    plane.clock.now = MONTH_END
    closed = operator.post("operator/books/periods/close", json=close).raise_for_status().json()
    assert finance.get("books/periods").raise_for_status().json() == [closed]
    assert operator.post("operator/books/periods/close", json=close).status_code == 409
    unnamed = finance.get("books/statement", params={"account": "revenue"})
    assert (unnamed.status_code, unnamed.json()["field"]) == (400, "tenant")
