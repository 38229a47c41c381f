"""A tenant looks at its own account, and runs it."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import httpx

from billing.metering.event_id import uuid7
from billing.metering.usage_event import Cause, EventKind
from billing.operations.invoicing.issue_invoice import issue_invoice
from billing.store import catalog
from billing.store.database import Role, only
from billing.store.usage import append as usage_store
from billing.store.usage.append import EventRow
from billing.store.usage.steps import StepRow, insert_steps
from tests.api.control.conftest import Plane
from tests.world import MONTH_END


def insert_request(plane: Plane) -> UUID:
    """An event as the proxy's journal brings it, with the engine's own figures."""
    now = plane.world.now
    event_id = uuid7(int(now.timestamp()) * 1000, 77)
    with plane.world.database.transaction(Role.INGEST) as connection:
        models = catalog.ensure_models(connection, ["tiny"])
        meters = catalog.meters(connection)
        codes = ["tokens.input", "tokens.output"]
        with_shape = usage_store.ensure_usage_shape(
            connection, ["usage.completion_tokens", "usage.prompt_tokens"]
        )
        project = only(
            connection, "SELECT id FROM project WHERE tenant_id = :t", t=plane.acme.id
        ).id
        usage_store.append(
            connection,
            [
                EventRow(
                    id=event_id,
                    occurred_at=now,
                    tenant_id=plane.acme.id,
                    project_id=project,
                    key_id=plane.keys["tenant"].id,
                    model_id=models["tiny"],
                    backend_id=catalog.NONE,
                    price_version_id=catalog.NONE,
                    meter_set_id=usage_store.ensure_meter_set(
                        connection, [meters[code].id for code in codes]
                    ),
                    kind=int(EventKind.BILLED),
                    cause=int(Cause.CLIENT_LEFT),
                    estimated=True,
                    quantities=(12, 34),
                    raw_shape_id=with_shape,
                    raw_counts=(34, 12),
                    duration_us=1500,
                    run_id="run-1",
                )
            ],
        )
    step = StepRow(
        event_id=event_id,
        at=now,
        tenant_id=plane.acme.id,
        run_id="run-1",
        step_id="step-1",
        agent_id="",
    )
    with plane.world.database.transaction(Role.INGEST) as connection:
        insert_steps(connection, [step])
    return event_id


def test_account_shows_tenant_period_and_contracts(plane: Plane, tenant: httpx.Client):
    account = tenant.get("me").raise_for_status().json()
    assert account["tenant"] == "acme"
    assert account["period_start"] == "2026-11-01T00:00:00Z"
    assert account["period_end"] == "2026-12-01T00:00:00Z"
    assert [(c["plan"], c["version"], c["tenant"]) for c in account["contracts"]] == [
        ("standard", 1, "acme")
    ]


def test_usage_is_summed_exactly_and_as_text(plane: Plane, tenant: httpx.Client):
    plane.world.use(plane.acme, {"tokens.input": 10**15 + 1})
    plane.world.use(
        plane.acme, {"tokens.input": 2}, occurred_at=plane.world.now - timedelta(days=1)
    )
    plane.world.use(plane.bolt, {"tokens.input": 9})

    by_day = tenant.get("usage").raise_for_status().json()
    assert [(s["start"], s["quantity"], s["events"]) for s in by_day["slots"]] == [
        ("2026-11-14T00:00:00Z", "2", 1),
        ("2026-11-15T00:00:00Z", "1000000000000001", 1),
    ]
    in_all = tenant.get("usage", params={"group": "none"}).raise_for_status().json()
    assert [s["quantity"] for s in in_all["slots"]] == ["1000000000000003"]
    bounded = {"from": "2026-11-15T12:00:00Z", "to": "2026-11-15T12:15:00Z", "group": "bucket"}
    slots = tenant.get("usage", params=bounded).raise_for_status().json()["slots"]
    assert [(s["start"], s["quantity"]) for s in slots] == [
        ("2026-11-15T12:00:00Z", "1000000000000001")
    ]
    hours = tenant.get("usage", params={"group": "hour"}).raise_for_status().json()["slots"]
    assert [slot["start"] for slot in hours] == ["2026-11-14T12:00:00Z", "2026-11-15T12:00:00Z"]


def test_T2_usage_is_split_and_narrowed_and_an_empty_filter_is_no_usage(
    plane: Plane, tenant: httpx.Client
):
    insert_request(plane)
    plane.world.use(plane.acme, {"tokens.input": 5}, model="big")

    def quantities(**params: str | list[str]) -> list[tuple[str, str | None, str | None, str]]:
        answer = tenant.get("usage", params={"group": "none", **params}).raise_for_status()
        slots = answer.json()["slots"]
        assert {slot["level"] for slot in slots} <= {"rollup"}
        return [(s["meter"], s["model"], s["key"], s["quantity"]) for s in slots]

    assert quantities(by="") == [
        ("tokens.input", None, None, "17"),
        ("tokens.output", None, None, "34"),
    ]
    assert quantities(meter="tokens.input") == [
        ("tokens.input", "big", None, "5"),
        ("tokens.input", "tiny", None, "12"),
    ]
    assert quantities(model=["big", "none"], by="model,key") == [("tokens.input", "big", None, "5")]
    for name in ("meter", "model", "project", "key"):
        assert quantities(**{name: ""}) == []
        refused = tenant.get("usage", params={name: "a\0b"})
        assert (refused.status_code, refused.json()["field"]) == (400, name)
    for by, status in (("weather", 400), ("dimension:weather", 404), ("model\0", 400)):
        assert tenant.get("usage", params={"by": by}).status_code == status


def test_requests_show_exact_counts_and_the_engines_own_figures(plane: Plane, tenant: httpx.Client):
    event_id = insert_request(plane)
    expected = {
        "request_id": f"req_{event_id.hex}",
        "occurred_at": "2026-11-15T12:00:00Z",
        "model": "tiny",
        "kind": "billed",
        "cause": "client_left",
        "estimated": True,
        "quantities": {"tokens.input": "12", "tokens.output": "34"},
        "engine_figures": {"usage.completion_tokens": 34, "usage.prompt_tokens": 12},
        "duration_us": 1500,
        "run_id": "run-1",
        "step_id": "step-1",
        "agent_id": "",
        "corrections": [],
    }
    listed = tenant.get("usage/requests", params={"limit": 5}).raise_for_status().json()
    assert listed == [expected]
    shown = tenant.get(f"usage/requests/req_{event_id.hex}").raise_for_status().json()
    assert shown == expected


def test_invoices_show_lines_that_explain_themselves(plane: Plane, tenant: httpx.Client):
    plane.world.use(plane.acme, {"tokens.input": 1_234_567, "tokens.output": 1_500_001})
    period = plane.acme.billing_period(plane.world.now)
    with plane.world.database.transaction(Role.OPERATOR) as connection:
        issued = issue_invoice(connection, tenant=plane.acme, period=period, now=MONTH_END)

    (head,) = tenant.get("invoices").raise_for_status().json()
    assert (head["number"], head["state"], head["total"]) == ("INV-000001", "issued", "21.35")
    assert head["due_at"] == "2026-12-31T00:00:00Z"
    by_id = tenant.get(f"invoices/{issued.id}").raise_for_status().json()
    assert by_id == tenant.get("invoices/INV-000001").raise_for_status().json()
    assert [line["amount"] for line in by_id["lines"]] == ["20.00", "0.25", "1.10"]
    assert {key: by_id[key] for key in head} == head
    explained = by_id["lines"][2]["explanation"]
    assert explained
    assert all(step["text"] for step in explained)


def test_keys_are_issued_once_shown_once_and_revoked_at_once(plane: Plane, tenant: httpx.Client):
    order = {"role": "tenant", "name": "ci", "expires_at": "2027-01-01T00:00:00Z"}
    made = tenant.post("keys", json=order)
    assert made.status_code == 201
    new = made.json()
    listed = tenant.get("keys").raise_for_status()
    assert new["key"] not in listed.text
    row = next(key for key in listed.json() if key["id"] == new["id"])
    assert (row["public"], row["name"], row["tenant"]) == (new["public"], "ci", "acme")
    assert row["expires_at"] == "2027-01-01T00:00:00Z"
    assert {key["tenant"] for key in listed.json()} == {"acme"}

    bearer = {"authorization": f"Bearer {new['key']}"}
    assert tenant.get("me", headers=bearer).status_code == 200
    assert tenant.delete(f"keys/{new['id']}").status_code == 204
    refused = tenant.get("me", headers=bearer)
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"].startswith("Bearer")
    assert tenant.delete(f"keys/{new['id']}").status_code == 404


def test_a_key_that_expires_stops_working_at_that_instant(plane: Plane, tenant: httpx.Client):
    order = {"role": "tenant", "expires_at": "2026-11-15T12:00:01Z"}
    new = tenant.post("keys", json=order).raise_for_status().json()
    bearer = {"authorization": f"Bearer {new['key']}"}
    assert tenant.get("me", headers=bearer).status_code == 200
    plane.clock.now += timedelta(seconds=1)
    assert tenant.get("me", headers=bearer).status_code == 401


def test_an_outcome_is_reported_confirmed_and_billed_once(plane: Plane, tenant: httpx.Client):
    report = {
        "outcome": "ticket-resolved",
        "subject": "ticket-1",
        "occurred_at": "2026-11-15T13:00:00+02:00",
    }
    claim = tenant.post("outcomes", json=report).raise_for_status().json()
    assert (claim["state"], claim["request_id"]) == ("reported", None)
    again = tenant.post("outcomes", json=report).raise_for_status().json()
    assert again == claim  # O2
    path = f"outcomes/{claim['id']}/confirm"
    confirmed = tenant.post(path).raise_for_status().json()
    assert confirmed["state"] == "confirmed"
    assert tenant.post(path).raise_for_status().json() == confirmed
    assert tenant.get("outcomes").raise_for_status().json() == [confirmed]
    event = tenant.get(f"usage/requests/{confirmed['request_id']}").raise_for_status().json()
    assert event["quantities"] == {"outcome.ticket-resolved": "1"}
