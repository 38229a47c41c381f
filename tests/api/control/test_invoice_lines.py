"""A tenant follows a line of its invoice down to single requests; nobody else's."""

from __future__ import annotations

from datetime import timedelta

import httpx

from billing.operations.invoicing.issue_invoice import issue_invoice
from billing.store.database import Role
from tests.api.control.conftest import Plane
from tests.world import MONTH_END


def issue(plane: Plane) -> str:
    with plane.world.database.transaction(Role.OPERATOR) as connection:
        issued = issue_invoice(
            connection,
            tenant=plane.acme,
            period=plane.acme.billing_period(plane.world.now),
            now=MONTH_END,
        )
    assert issued.number is not None
    return issued.number


def test_a_line_is_explained_down_to_its_requests(
    plane: Plane, tenant: httpx.Client, operator: httpx.Client
):
    plane.world.use(plane.acme, {"tokens.output": 600_000})
    plane.world.use(
        plane.acme, {"tokens.output": 900_000}, occurred_at=plane.world.now - timedelta(days=1)
    )
    number = issue(plane)
    for client, at in ((tenant, "invoices"), (operator, "operator/invoices")):
        lines = f"{at}/{number}/lines/2"
        told = client.get(f"{lines}/explanation").raise_for_status().json()
        # 1,000,000 at 0.80 and 500,000 at 0.60 per million.
        assert (told["line"]["amount"], told["line"]["exact"]) == ("1.10", "1.1000000")
        assert (told["plan"], told["billed_before"]) == ("standard@1", "0.00")
        assert [check["agrees"] for check in told["checks"]] == [True] * 3

        usage = client.get(f"{lines}/usage").raise_for_status().json()
        assert (usage["source"], usage["group"]) == ("rollup", "day")
        assert [(slot["start"], slot["quantity"]) for slot in usage["slots"]] == [
            ("2026-11-14T00:00:00Z", "900000"),
            ("2026-11-15T00:00:00Z", "600000"),
        ]

        first = client.get(f"{lines}/events", params={"limit": 1}).raise_for_status().json()
        rest = client.get(f"{lines}/events", params={"after": first["next"]})
        page = rest.raise_for_status().json()
        requests = [*first["requests"], *page["requests"]]
        assert [each["quantity"] for each in requests] == ["900000", "600000"]
        assert (page["quantity"], page["next"]) == ("1500000", None)
        assert all(check["agrees"] for check in page["checks"])

        day = {"from": "2026-11-15T00:00:00Z", "to": "2026-11-16T00:00:00Z"}
        part = client.get(f"{lines}/events", params=day).raise_for_status().json()
        assert (part["quantity"], len(part["requests"])) == ("600000", 1)
        assert [check["agrees"] for check in part["checks"]] == [True]
    request_id = page["requests"][0]["request_id"]
    assert tenant.get(f"usage/requests/{request_id}").raise_for_status().json()["quantities"] == {
        "tokens.output": "600000"
    }


def test_T1_a_line_of_another_tenant_is_not_found(plane: Plane, tenant: httpx.Client):
    plane.world.use(plane.acme, {"tokens.output": 900_000})
    number = issue(plane)
    event = tenant.get(f"invoices/{number}/lines/2/events").json()["requests"][0]["request_id"]
    with plane.client("bolt") as bolt:
        for what in ("explanation", "usage", "events"):
            refused = bolt.get(f"invoices/{number}/lines/2/{what}")
            assert (refused.status_code, refused.json()["code"]) == (404, "not_found")
            assert bolt.get(f"operator/invoices/{number}/lines/2/{what}").status_code == 403
    # A place of one's own list alone is a place to go on from.
    elsewhere = tenant.get(f"invoices/{number}/lines/2/events", params={"after": event})
    assert elsewhere.raise_for_status().json()["requests"] == []
    half = tenant.get(f"invoices/{number}/lines/2/events", params={"from": "2026-11-16T00:00:00Z"})
    assert (half.status_code, half.json()["field"]) == (400, "to")
    for line in ("9", "0", "x"):
        assert tenant.get(f"invoices/{number}/lines/{line}/usage").status_code in {400, 404}
    assert tenant.get(f"invoices/{number}/lines/1/usage").status_code == 409
