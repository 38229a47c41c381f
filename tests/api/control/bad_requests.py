"""Requests that must be refused, by what is wrong with them."""

from __future__ import annotations

from dataclasses import dataclass

from tests.api.control.test_operator_routes import COSTS, EVENT, USAGE
from tests.world import PLAN

CANARY = "canaryq7zx"
ISSUE = "operator/tenants/acme/invoices/issue"
OUTCOME = {"outcome": "ticket-resolved", "subject": "s", "occurred_at": "2026-11-15T11:00:00Z"}
CONTRACT = {"tenant": "acme", "plan": "standard", "valid_from": "2027-01-01T00:00:00Z"}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A request that must be refused. `field` None: no field is at fault."""

    method: str = "POST"
    path: str
    body: object = None
    text: str | None = None
    query: str = ""
    media_type: str = "application/json"
    key: str = "operator"
    status: int = 400
    code: str = "invalid_input"
    field: str | None

    def __str__(self) -> str:
        return f"{self.method} {self.path} {self.field}"


def event(**changed: object) -> list[object]:
    return [EVENT, {**EVENT, "id": "e-2", **changed}]


def without(body: dict[str, object], name: str) -> dict[str, object]:
    return {key: value for key, value in body.items() if key != name}


YAML = "application/yaml"
UNKNOWN_CLAIM = "outcomes/00000000-0000-7000-8000-000000000000/confirm"
CASES = [
    # usage events
    Case(path=USAGE, body={"events": [EVENT] * 10_001}, field="events"),
    Case(path=USAGE, body=CANARY, field=None),
    Case(path=USAGE, text="{" * 100_000, field=None),
    Case(path="usage/events", body={"specversion": "1.0"}, field=None),
    Case(
        path="usage/events",
        text=f"[{{}}, {CANARY}]",
        media_type="application/cloudevents-batch+json",
        field=None,
    ),
    Case(
        path="usage/events/req_00000000000070008000000000000000/void",
        body={"source": "s", "id": "i", "reason": "r"},
        status=404,
        code="not_found",
        field="event_id",
    ),
    Case(
        path=f"usage/events/{CANARY}/amend",
        body={"source": "s", "id": "i", "reason": "r", "quantities": {"requests": 1}},
        status=404,
        code="not_found",
        field="event_id",
    ),
    Case(
        path="operator/parked/00000000-0000-7000-8000-000000000000/reject",
        body={"reason": "r"},
        status=404,
        code="not_found",
        field="parked_id",
    ),
    Case(path=USAGE, text=f'[{{"source": "{CANARY}', field=None),
    Case(path=USAGE, text="", field=None),
    Case(
        path="operator/tenants/nobody/usage/events",
        body=[EVENT],
        status=404,
        code="not_found",
        field="tenant",
    ),
    Case(
        path=USAGE,
        body=[EVENT],
        media_type="text/csv",
        status=415,
        code="unsupported_media_type",
        field=None,
    ),
    # tenants, keys, contracts
    Case(path="operator/tenants", body={"name": "No slug"}, field="slug"),
    Case(path="operator/tenants", body={"slug": "Not A Slug", "name": "x"}, field="slug"),
    Case(path="operator/tenants", body={"slug": "x", "name": " "}, field="name"),
    Case(path="operator/tenants", body={"slug": "x", "name": "a\nb"}, field="name"),
    Case(path="operator/tenants", body={"slug": "x", "name": "x", "zone": "Mars"}, field="zone"),
    Case(path="operator/tenants", body={"slug": "x", "name": "x", "zone": "a\0b"}, field="zone"),
    Case(
        path="operator/tenants",
        body={"slug": "x", "name": "x", "anchor_day": 0},
        field="anchor_day",
    ),
    Case(
        path="operator/tenants",
        body={"slug": "x", "name": "x", "anchor_day": "1"},
        field="anchor_day",
    ),
    Case(
        path="operator/tenants",
        body={"slug": "x", "name": "x", "legal_entity": "nobody"},
        status=404,
        code="not_found",
        field="legal_entity",
    ),
    Case(path="operator/keys", body={"role": "tenant"}, field="role"),
    Case(path="operator/keys", body={"role": "operator", "tenant": "acme"}, field="role"),
    Case(path="operator/keys", body={"role": CANARY}, field="role"),
    Case(path="keys", key="tenant", body={"role": "operator"}, field="role"),
    Case(path="keys", key="tenant", body={"name": "x" * 101}, field="name"),
    Case(
        path="keys", key="tenant", body={"expires_at": "2026-11-15T12:00:00Z"}, field="expires_at"
    ),
    Case(
        path="keys",
        key="tenant",
        body={"project": "nowhere"},
        status=404,
        code="not_found",
        field="project",
    ),
    Case(
        path="operator/contracts",
        body={**CONTRACT, "valid_from": "2027-01-01T00:01:00Z"},
        field="valid_from",
    ),
    Case(
        path="operator/contracts",
        body={**CONTRACT, "valid_until": "2026-12-01T00:00:00Z"},
        field="valid_until",
    ),
    Case(
        path="operator/contracts",
        body={**CONTRACT, "plan": "nothing"},
        status=404,
        code="not_found",
        field="plan",
    ),
    Case(path="operator/contracts", body={**CONTRACT, "version": 2**31}, field="version"),
    Case(
        path="operator/contracts",
        body={**CONTRACT, "terms": {"overrides": [{"charge": "nothing", "price": "1"}]}},
        code="invalid_plan",
        field="overrides[0].charge",
    ),
    Case(
        path="operator/contracts/1/end",
        body={"valid_until": "2026-10-01T00:00:00Z"},
        field="valid_until",
    ),
    Case(
        path="operator/contracts/99/end",
        body={"valid_until": "2027-10-01T00:00:00Z"},
        status=404,
        code="not_found",
        field="contract",
    ),
    Case(
        path="operator/contracts/99/migrate",
        body={"plan": "standard", "version": 1, "at": "now"},
        status=404,
        code="not_found",
        field="contract",
    ),
    # plans and costs
    Case(
        path="operator/plans",
        text=PLAN.replace('"0.20"', "0.20"),
        media_type=YAML,
        code="invalid_plan",
        field="charges[1].price",
    ),
    Case(
        path="operator/plans",
        text=PLAN.replace("currency: USD\n", ""),
        media_type=YAML,
        code="invalid_plan",
        field="currency",
    ),
    Case(
        path="operator/plans",
        text=PLAN.replace("tokens.input", "tokens.imaginary"),
        media_type=YAML,
        code="invalid_plan",
        field="charges[1].meter",
    ),
    Case(path="operator/plans", text="\0", media_type=YAML, code="invalid_plan", field=None),
    Case(
        path="operator/plans",
        text=PLAN,
        media_type="application/json",
        status=415,
        code="unsupported_media_type",
        field=None,
    ),
    Case(
        path="operator/costs",
        text=COSTS.replace('"2.00"', "2.00"),
        media_type=YAML,
        code="invalid_plan",
        field="pools[0].gpu.rate",
    ),
    # invoices
    Case(path=ISSUE, body={"period": "2026-13"}, field="period"),
    Case(path=ISSUE, body={"period": "November"}, field="period"),
    Case(path=ISSUE, body={"period": "2025-01"}, status=404, code="not_found", field="period"),
    Case(path=ISSUE, body={"period": "2026-12"}, status=409, code="conflict", field="period"),
    Case(
        path="operator/invoices/INV-7/payments",
        body={"amount": "1.00", "idempotency_key": "k"},
        status=404,
        code="not_found",
        field="invoice",
    ),
    # outcomes
    Case(path="outcomes", key="tenant", body={**OUTCOME, "subject": ""}, field="subject"),
    Case(
        path="outcomes",
        key="tenant",
        body={**OUTCOME, "occurred_at": "2027-01-01T00:00:00Z"},
        field="occurred_at",
    ),
    Case(
        path="outcomes",
        key="tenant",
        body={**OUTCOME, "outcome": "nothing"},
        status=404,
        code="not_found",
        field="outcome",
    ),
    Case(path=UNKNOWN_CLAIM, key="tenant", status=404, code="not_found", field="claim"),
    # queries and paths
    Case(method="GET", path="usage", query="group=minute", key="tenant", field="group"),
    Case(method="GET", path="usage", query=f"from={CANARY}", key="tenant", field="from"),
    Case(method="GET", path="usage", query="from=2026-11-01T00:07:00Z", key="tenant", field="from"),
    Case(method="GET", path="usage", query="to=2026-10-01T00:00:00Z", key="tenant", field="to"),
    Case(
        method="GET",
        path="usage/requests",
        query="from=0001-01-01T00:00:00%2B14:00",
        key="tenant",
        field="from",
    ),
    Case(method="GET", path="usage/requests", query="limit=0", key="tenant", field="limit"),
    Case(method="GET", path="usage/requests", query="limit=1001", key="tenant", field="limit"),
    Case(method="GET", path="usage/requests", query=f"limit={CANARY}", key="tenant", field="limit"),
    Case(method="GET", path="operator/parked", query="tenant=%00", field="tenant"),
    Case(method="GET", path="margin", query="period=9999-12", field="period"),
    Case(method="GET", path="margin", query=f"by={CANARY}", field="by"),
    Case(
        method="GET",
        path="exports/journal.csv",
        query="period=2026-11&from=2026-11-01T00:00:00Z",
        field="period",
    ),
    Case(
        method="GET",
        path="usage/requests/%00",
        key="tenant",
        status=404,
        code="not_found",
        field=None,
    ),
    Case(
        method="GET",
        path=f"invoices/{CANARY}%00",
        key="tenant",
        status=404,
        code="not_found",
        field=None,
    ),
    Case(
        method="GET",
        path=f"usage/requests/{CANARY}",
        key="tenant",
        status=404,
        code="not_found",
        field="request_id",
    ),
    Case(
        method="DELETE",
        path=f"keys/{2**31}",
        key="tenant",
        status=404,
        code="not_found",
        field=None,
    ),
    Case(
        method="DELETE",
        path=f"keys/{CANARY}",
        key="tenant",
        status=404,
        code="not_found",
        field=None,
    ),
    Case(
        method="GET",
        path="operator/plans/standard/99",
        status=404,
        code="not_found",
        field="plan",
    ),
    Case(method="GET", path=f"{CANARY}/x", status=404, code="not_found", field=None),
    Case(method="PUT", path="me", key="tenant", status=405, code="method_not_allowed", field=None),
]
