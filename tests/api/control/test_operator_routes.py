"""The operator runs a deployment from first tenant to paid invoice."""

from __future__ import annotations

import csv
import io
import re
from datetime import UTC, datetime
from decimal import Decimal

import httpx
import pytest

from billing.operations.rating.accrue_usage import accrue_usage
from billing.planfiles.plan_file import EXAMPLES
from billing.store.database import Role, only
from tests.api.control.conftest import Plane
from tests.world import MONTH_END, PLAN

YAML = {"content-type": "application/yaml"}
COSTS = """
currency: USD
period: 2026-11
pools:
  - slug: small
    gpu: {hours: 720, rate: "2.00"}
    energy: {kwh: 100, pue: "1.2", tariff: "0.10"}
    overhead:
      - {name: staff, amount: "10.00"}
    models:
      tiny: {input: 1000, output: 100}
"""
EVENT = {
    "source": "batch",
    "id": "e-1",
    "meter": "tokens.input",
    "quantity": 1_234_567,
    "occurred_at": "2026-11-15T11:59:59.5+00:00",
    "model": "tiny",
}
USAGE = "operator/tenants/acme/usage/events"


def test_tenants_are_created_listed_and_shown(operator: httpx.Client):
    order = {"slug": "core", "name": "Core", "zone": "Asia/Kathmandu", "anchor_day": 31}
    made = operator.post("operator/tenants", json=order)
    assert made.status_code == 201
    expected = {**order, "legal_entity": "foundry"}
    assert made.json() == expected
    assert operator.get("operator/tenants/core").raise_for_status().json() == expected
    listed = operator.get("operator/tenants").raise_for_status().json()
    assert [tenant["slug"] for tenant in listed] == ["acme", "bolt", "core"]
    again = operator.post("operator/tenants", json=order)
    assert (again.status_code, again.json()["code"]) == (409, "conflict")


def test_keys_of_every_role_are_issued_and_revoked(plane: Plane, operator: httpx.Client):
    for role, tenant in (("finance", None), ("inference", "bolt"), ("operator", None)):
        order = {"role": role, "tenant": tenant, "name": f"new {role}"}
        new = operator.post("operator/keys", json=order).raise_for_status().json()
        assert new["key"].startswith(new["public"])
        assert operator.delete(f"operator/keys/{new['id']}").status_code == 204
    listed = operator.get("operator/keys").raise_for_status().json()
    assert len(listed) == len(plane.keys) + 3
    of_bolt = operator.get("operator/keys", params={"tenant": "bolt"}).raise_for_status().json()
    assert {key["tenant"] for key in of_bolt} == {"bolt"}


def test_plans_are_versions_of_yaml_files(operator: httpx.Client):
    same = operator.post("operator/plans", content=PLAN, headers=YAML).raise_for_status().json()
    assert (same["version"], same["created"]) == (1, False)
    dearer = PLAN.replace('"20.00"', '"25.00"')
    new = operator.post("operator/plans", content=dearer, headers=YAML).raise_for_status().json()
    assert (new["version"], new["created"]) == (2, True)
    newest = operator.get("operator/plans/standard").raise_for_status().json()
    assert newest["version"] == 2
    assert newest["charges"][0]["amount"] == "25"
    first = operator.get("operator/plans/standard/1").raise_for_status().json()
    assert first["charges"][0]["amount"] == "20"
    listed = operator.get("operator/plans").raise_for_status().json()
    assert [(plan["slug"], plan["version"]) for plan in listed] == [
        ("standard", 1),
        ("standard", 2),
    ]
    examples = {path.name: path for path in EXAMPLES.glob("*.yaml")}
    costs = examples.pop("costs.yaml").read_bytes()
    assert operator.post("operator/costs", content=costs, headers=YAML).status_code == 201
    for meter in EXAMPLES.glob("meters/*.yaml"):
        assert operator.post("operator/meters", content=meter.read_bytes(), headers=YAML).is_success
    for example in examples.values():
        answer = operator.post("operator/plans", content=example.read_bytes(), headers=YAML)
        assert answer.is_success, example
        currencies = {answer.json()["currency"], *(b["currency"] for b in answer.json()["books"])}
        assert (len(currencies) > 1) is ("\ncurrencies:" in example.read_text()), example


def test_a_plan_is_not_approved_by_the_key_that_applied_it(operator: httpx.Client):
    changed = PLAN.replace('"20.00"', '"21.00"')
    applied = operator.post("operator/plans", content=changed, headers=YAML).raise_for_status()
    version = applied.json()["version"]
    refused = operator.post(f"operator/plans/standard/{version}/approve")
    assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
    other = operator.post("operator/keys", json={"role": "operator", "name": "second"})
    second = {"Authorization": f"Bearer {other.raise_for_status().json()['key']}"}
    approved = operator.post(f"operator/plans/standard/{version}/approve", headers=second)
    assert approved.raise_for_status().json()["version"] == version


def test_contracts_are_ended_and_bound(operator: httpx.Client):
    (old,) = operator.get("operator/contracts", params={"tenant": "acme"}).json()
    overlapping = {"tenant": "acme", "plan": "standard", "valid_from": "2026-11-20T00:00:00Z"}
    refused = operator.post("operator/contracts", json=overlapping)
    assert (refused.status_code, refused.json()["code"]) == (409, "overlapping_charges")
    end = {"valid_until": "2026-11-20T05:30:00+05:30"}
    ended = operator.post(f"operator/contracts/{old['id']}/end", json=end).raise_for_status()
    assert ended.json()["valid_until"] == "2026-11-20T00:00:00Z"
    terms = {"overrides": [{"charge": "input", "price": "0.1"}]}
    bound = operator.post("operator/contracts", json={**overlapping, "version": 1, "terms": terms})
    assert bound.status_code == 201
    shown = operator.get(f"operator/contracts/{bound.json()['id']}").raise_for_status().json()
    assert shown == {**bound.json(), "terms": terms}
    assert operator.get("operator/contracts/99").status_code == 404
    listed = operator.get("operator/contracts").raise_for_status().json()
    assert {contract["tenant"] for contract in listed} == {"acme", "bolt"}
    assert bound.json() in listed


def test_a_contract_whose_rest_follows_says_so(operator: httpx.Client):
    plan = PLAN.partition("charges:")[0].replace("slug: standard", "slug: answers")
    plan += 'policies: {coverage: together}\nprice_list: {models: {shared: {output: "1"}}}\n'
    operator.post("operator/plans", content=plan, headers=YAML).raise_for_status()
    share = {"tenant": "bolt", "plan": "answers", "valid_from": "2026-12-01T00:00:00Z"}
    refused = operator.post("operator/contracts", json=share)
    assert (refused.status_code, refused.json()["code"]) == (400, "invalid_plan")
    assert refused.json()["field"] == "charges[0]"
    assert "tokens.input of shared has no price" in refused.text
    bound = operator.post("operator/contracts", json={**share, "others_follow": True})
    assert bound.status_code == 201


def test_L3_reported_usage_gets_a_verdict_per_event_and_counts_once(
    operator: httpx.Client, tenant: httpx.Client
):
    batch = [
        EVENT,
        {**EVENT, "id": "e-2", "quantity": "0.000000000000000001", "kind": "free"},
        {**EVENT, "id": "e-3", "meter": "gpu.hours"},
        {**EVENT, "id": "e-4", "project": "nowhere"},
    ]
    for body in (batch, {"events": batch}):
        answer = operator.post(USAGE, json=body).raise_for_status().json()["verdicts"]
        assert [verdict["id"] for verdict in answer] == ["e-1", "e-2", "e-3", "e-4"]
    assert [verdict["verdict"] for verdict in answer] == [
        "duplicate",
        "duplicate",
        "parked",
        "rejected",
    ]
    other = operator.post(USAGE, json=[{**EVENT, "quantity": 1}]).json()["verdicts"]
    assert other[0]["verdict"] == "conflicting"
    slots = tenant.get("usage", params={"group": "none"}).json()["slots"]
    assert [slot["quantity"] for slot in slots] == ["1234567.000000000000000001"]
    (parked,) = operator.get("operator/parked").raise_for_status().json()
    assert (parked["tenant"], parked["meter"], parked["id"]) == ("acme", "gpu.hours", "e-3")
    assert operator.get("operator/parked", params={"tenant": "bolt"}).json() == []


def test_R5_usage_without_a_price_is_shown_and_blocks(plane: Plane, operator: httpx.Client):
    operator.post(USAGE, json=[{**EVENT, "model": "unheard-of"}]).raise_for_status()
    expected = [
        {"tenant": "acme", "meter": "tokens.input", "model": "unheard-of", "quantity": "1234567"}
    ]
    assert operator.get("operator/unrated").raise_for_status().json() == expected
    at = {"at": "2026-10-15T00:00:00Z"}
    assert operator.get("operator/unrated", params=at).raise_for_status().json() == []
    plane.clock.now = MONTH_END
    before = plane.row_counts()
    refused = operator.post("operator/tenants/acme/invoices/issue", json={"period": "2026-11"})
    assert (refused.status_code, refused.json()["code"]) == (409, "unrated_usage")
    assert plane.row_counts() == before


def test_an_invoice_is_drafted_issued_once_and_paid(plane: Plane, operator: httpx.Client):
    operator.post(USAGE, json=[EVENT]).raise_for_status()
    order = {"period": "2026-11"}
    draft = operator.post("operator/tenants/acme/invoices/draft", json=order)
    assert (draft.json()["state"], draft.json()["number"]) == ("draft", None)
    early = operator.post("operator/tenants/acme/invoices/issue", json=order)
    assert (early.status_code, early.json()["field"]) == (409, "period")

    plane.clock.now = MONTH_END
    issued = operator.post("operator/tenants/acme/invoices/issue", json=order).json()
    assert (issued["number"], issued["total"]) == ("INV-000001", "20.25")
    again = operator.post("operator/tenants/acme/invoices/issue", json=order).json()
    assert again == issued  # I2
    with plane.world.database.transaction(Role.OPERATOR) as connection:
        jobs = only(connection, "SELECT count(*) AS n FROM procrastinate_jobs").n
    assert jobs == 1  # the Stripe mirror was asked for, in the same transaction and once

    payments = f"operator/invoices/{issued['id']}/payments"
    part = {"amount": "20.20", "idempotency_key": "wire-1"}
    for _ in range(2):  # L3
        paid = operator.post(payments, json=part).raise_for_status().json()
        assert paid["state"] == "issued"
    other_body = operator.post(payments, json={**part, "amount": "0.05"})
    assert (other_body.status_code, other_body.json()["code"]) == (409, "idempotency_conflict")
    too_much = operator.post(payments, json={"amount": "0.06", "idempotency_key": "wire-2"})
    assert (too_much.status_code, too_much.json()["field"]) == (409, "amount")
    rest = operator.post(payments, json={"amount": "0.05", "idempotency_key": "wire-3"})
    assert rest.json()["state"] == "paid"

    (listed,) = operator.get("operator/invoices").raise_for_status().json()
    assert listed == rest.json()
    shown = operator.get("operator/invoices/INV-000001").raise_for_status().json()
    assert (shown["state"], shown["lines"]) == ("paid", issued["lines"])
    assert operator.get("operator/invoices", params={"tenant": "bolt"}).json() == []


def test_a_billing_period_is_named_by_the_month_in_which_it_begins(
    plane: Plane, operator: httpx.Client
):
    order = {"slug": "late", "name": "Late", "zone": "America/New_York", "anchor_day": 31}
    operator.post("operator/tenants", json=order).raise_for_status()
    contract = {"tenant": "late", "plan": "standard", "valid_from": "2026-09-01T00:00:00Z"}
    operator.post("operator/contracts", json=contract).raise_for_status()
    drafted = operator.post("operator/tenants/late/invoices/draft", json={"period": "2026-09"})
    assert drafted.raise_for_status().json()["period_start"] == "2026-09-30T04:00:00Z"
    assert drafted.json()["period_end"] == "2026-10-31T04:00:00Z"


def test_outcomes_that_the_operator_reports_wait_for_the_tenant(
    operator: httpx.Client, tenant: httpx.Client
):
    report = {
        "outcome": "ticket-resolved",
        "subject": "ticket-9",
        "occurred_at": "2026-11-15T11:00:00Z",
    }
    path = "operator/tenants/acme/outcomes"
    claim = operator.post(path, json=report).raise_for_status().json()
    assert operator.get(path).json() == tenant.get("outcomes").json() == [claim]
    confirmed = tenant.post(f"outcomes/{claim['id']}/confirm").raise_for_status().json()
    assert operator.get(path).raise_for_status().json() == [confirmed]


def test_M2_margin_reports_what_the_ledger_posted(
    plane: Plane, operator: httpx.Client, finance: httpx.Client
):
    costs = operator.post("operator/costs", content=COSTS, headers=YAML)
    assert costs.status_code == 201
    # 720 x 2.00 + 100 x 1.2 x 0.10 + 10
    assert Decimal(costs.json()["booked"]) == Decimal(1462)
    assert costs.json()["pools"] == ["small"]
    plane.world.use(plane.acme, {"tokens.input": 3_600_000, "tokens.output": 360_000})
    with plane.world.database.transaction(Role.OPERATOR) as connection:
        period = plane.acme.billing_period(plane.world.now)
        accrue_usage(connection, tenant=plane.acme, period=period, now=plane.world.now)

    by_tenant = finance.get("margin", params={"period": "2026-11"}).raise_for_status().json()
    assert [row["key"] for row in by_tenant["rows"]] == ["acme"]
    # 20 + 3.6 x 0.20 + 0.36 x 0.80
    assert Decimal(by_tenant["revenue"]) == Decimal("21.008")
    assert by_tenant["rows"][0]["revenue"] == by_tenant["revenue"]
    assert by_tenant["rows"][0]["tokens"] == "3960000"
    assert Decimal(by_tenant["booked_cost"]) == sum(
        Decimal(by_tenant[part]) for part in ("direct_cost", "idle", "scrap", "overhead")
    )
    by_model = finance.get("margin", params={"by": "model"}).raise_for_status().json()
    assert [row["label"] for row in by_model["rows"]] == ["tiny", "unattributed"]
    assert sum(Decimal(row["revenue"]) for row in by_model["rows"]) == Decimal("21.008")
    assert by_model["pools"][0]["models"] == ["tiny"]
    missing = finance.get("margin", params={"period": "2026-10"})
    assert (missing.status_code, missing.json()["field"]) == (404, "period")


@pytest.fixture
def closed_month(plane: Plane, operator: httpx.Client) -> Plane:
    operator.post(USAGE, json=[EVENT]).raise_for_status()
    plane.clock.now = MONTH_END
    order = {"period": "2026-11"}
    operator.post("operator/tenants/acme/invoices/issue", json=order).raise_for_status()
    return plane


def test_exports_are_files_that_add_up(closed_month: Plane, finance: httpx.Client):
    period = {"period": "2026-11"}
    invoices = finance.get("exports/invoices.csv", params=period).raise_for_status()
    assert invoices.headers["content-type"] == "text/csv; charset=utf-8"
    assert "invoices.csv" in invoices.headers["content-disposition"]
    rows = list(csv.DictReader(io.StringIO(invoices.text)))
    assert {row["invoice_number"] for row in rows} == {"INV-000001"}

    bounds = {"from": "2026-11-01T00:00:00Z", "to": "2027-01-01T00:00:00Z"}
    journal = finance.get("exports/journal.csv", params=bounds).raise_for_status()
    postings = list(csv.DictReader(io.StringIO(journal.text)))
    sides = [sum(Decimal(row[side] or 0) for row in postings) for side in ("debit", "credit")]
    assert sides[0] == sides[1] > 0
    text = finance.get("exports/journal.hledger", params=bounds).raise_for_status()
    assert re.search(r"20\.25", text.text)
    assert finance.get("exports/journal.csv", params={"period": "2026-01"}).text.count("\n") == 1


def test_without_a_period_exports_cover_the_current_month(
    closed_month: Plane, finance: httpx.Client
):
    closed_month.clock.now = datetime(2026, 12, 31, 23, 59, tzinfo=UTC)
    assert "INV-000001" in finance.get("exports/journal.csv").raise_for_status().text
    closed_month.clock.now = datetime(2027, 1, 1, tzinfo=UTC)
    assert "INV-000001" not in finance.get("exports/journal.csv").raise_for_status().text
