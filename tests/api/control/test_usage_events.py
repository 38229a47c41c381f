"""Usage over HTTP: every form, a verdict for every event, corrections, the parking queue."""

from __future__ import annotations

import json
from decimal import Decimal

import httpx
import pytest

from api.usage_bodies import read_usage
from billing.metering.cloud_event import CloudEvent, read_cloud_event
from billing.metering.usage_event import UsageReport
from billing.operations.metering.define_meter import define_meter
from billing.store.catalog import insert_meter
from billing.store.database import Role
from tests.api.control.bad_requests import CANARY
from tests.api.control.conftest import Plane
from tests.api.control.test_operator_routes import EVENT, USAGE

CLOUD = {
    "specversion": "1.0",
    "id": "c-1",
    "source": "//gateway/eu",
    "type": "tokens.input",
    "subject": "acme",
    "time": "2026-11-15T11:59:59.5Z",
    "traceparent": "00-1",
    "data": {"quantity": 5, "model": "tiny", "untold": {"deep": [1.5]}},
}


def post(client: httpx.Client, body: object, media_type: str, path: str = "usage/events"):
    text = body if isinstance(body, str) else json.dumps(body)
    answer = client.post(path, content=text, headers={"content-type": media_type})
    return answer.raise_for_status().json()


def used(tenant: httpx.Client) -> dict[str, str]:
    slots = tenant.get("usage", params={"group": "none"}).raise_for_status().json()["slots"]
    return {slot["meter"]: slot["quantity"] for slot in slots}


def test_every_form_says_the_same(operator: httpx.Client, tenant: httpx.Client):
    plain = {**EVENT, "tenant": "acme", "quantity": "0.1"}
    bodies = {
        "application/json": [{**plain, "id": "1"}],
        "application/x-ndjson": json.dumps({**plain, "id": "2"}) + "\r\n\n",
        "application/jsonl; charset=utf-8": json.dumps({**plain, "id": "3"}),
        "application/cloudevents+json": CLOUD,
        "application/cloudevents-batch+json": [{**CLOUD, "id": "c-2"}],
    }
    for media_type, body in bodies.items():
        answer = post(operator, body, media_type)
        assert answer["counts"]["accepted"] == len(answer["verdicts"]) == 1, media_type
        assert post(operator, body, media_type)["counts"]["duplicate"] == 1, media_type
    assert used(tenant) == {"tokens.input": "10.3"}
    assert post(operator, [], "application/cloudevents-batch+json")["verdicts"] == []


@pytest.mark.parametrize(
    ("written", "quantity"),
    [
        ("0.115999999999999999", "0.115999999999999999"),
        ("17.96", "17.96"),
        ("0.01499", "0.01499"),
        ("1000000000000000000", "1000000000000000000"),
        ("1.5e3", "1500"),
        ("1E-18", "0.000000000000000001"),
    ],
)
def test_row_08_numbers_are_kept_digit_by_digit(written: str, quantity: str):
    plain = json.dumps([EVENT]).replace("1234567", written)
    cloud = json.dumps(CLOUD).replace('"quantity": 5', f'"quantity": {written}')
    for body, form in ((plain, "application/json"), (cloud, "application/cloudevents+json")):
        (event,) = read_usage(body.encode(), form)
        report = event.report
        if isinstance(report, CloudEvent):
            report = read_cloud_event(report)
        assert isinstance(report, UsageReport)
        assert report.quantity == Decimal(quantity)


def test_several_tenants_in_one_batch(plane: Plane, operator: httpx.Client, tenant: httpx.Client):
    batch = [
        {**EVENT, "tenant": slug, "quantity": number}
        for number, slug in enumerate(["acme", "bolt", "nobody", None, "acme"], start=1)
    ]
    answer = post(operator, batch, "application/json")
    verdicts = [verdict["verdict"] for verdict in answer["verdicts"]]
    assert verdicts == ["accepted", "accepted", "rejected", "rejected", "conflicting"]
    assert answer["counts"] == {
        "accepted": 2, "duplicate": 0, "conflicting": 1, "parked": 0, "rejected": 2,
    }  # fmt: skip
    assert used(tenant) == {"tokens.input": "1"}
    with plane.client("bolt") as bolt:
        assert used(bolt) == {"tokens.input": "2"}
    other = post(operator, [{**EVENT, "tenant": "bolt"}], "application/json", USAGE)
    assert other["verdicts"][0]["verdict"] == "rejected"


REJECTED = [
    ({**EVENT, "quantity": True}, "quantity"),
    ({**EVENT, "quantity": -1}, "quantity"),
    ({**EVENT, "quantity": -0.5}, "quantity"),
    ({**EVENT, "quantity": "1e3"}, "quantity"),
    ({**EVENT, "quantity": "NaN"}, "quantity"),
    ({**EVENT, "quantity": "0." + "1" * 19}, "quantity"),
    ({**EVENT, "quantity": int("9" * 300)}, "quantity"),
    ({**EVENT, "quantity": 10**18 + 1}, "quantity"),
    ({**EVENT, "source": ""}, "source"),
    ({**EVENT, "source": "é" * 200}, "source"),
    ({**EVENT, "id": "x" * 257}, "id"),
    ({**EVENT, "model": "a\0b"}, "model"),
    ({**EVENT, "kind": CANARY}, "kind"),
    ({**EVENT, "occurred_at": "2026-11-15T11:00:00"}, "occurred_at"),
    ({**EVENT, "occurred_at": CANARY}, "occurred_at"),
    ({**EVENT, "occurred_at": "0001-01-01T00:00:00+14:00"}, "occurred_at"),
    ({**EVENT, "occurred_at": "2019-12-31T23:59:59Z"}, "occurred_at"),
    ({name: value for name, value in EVENT.items() if name != "meter"}, "meter"),
    ({**EVENT, CANARY: 1}, "unknown field"),
    ({**EVENT, "properties": {"prompt": CANARY}}, "unknown field"),
    ([CANARY], "expected `object`"),
    (None, "expected `object`"),
]


def test_a_malformed_event_is_rejected_alone(
    plane: Plane, operator: httpx.Client, capfd: pytest.CaptureFixture[str]
):
    batch = [{**EVENT, "id": "good"}, *(bad for bad, _ in REJECTED)]
    answer = post(operator, batch, "application/json", USAGE)
    good, *bad = answer["verdicts"]
    assert good["verdict"] == "accepted"
    for verdict, (_, said) in zip(bad, REJECTED, strict=True):
        assert (verdict["verdict"], verdict["event_id"]) == ("rejected", None)
        assert said in verdict["reason"]
        assert CANARY not in verdict["reason"]
    assert answer["counts"]["rejected"] == len(REJECTED)
    lines = "\n".join([json.dumps({**EVENT, "id": "two"}), "{", "\x00", "[" * 9000, "\udcff"])
    content = lines.encode(errors="surrogateescape")
    answer = operator.post(USAGE, content=content, headers={"content-type": "application/jsonl"})
    verdicts = [verdict["verdict"] for verdict in answer.raise_for_status().json()["verdicts"]]
    assert verdicts == ["accepted", *["rejected"] * 4]
    assert plane.row_counts()["usage_event"] == 2
    logged = capfd.readouterr()
    assert CANARY not in logged.out + logged.err


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"specversion": "0.3"}, "specversion"),
        ({"time": None}, "time"),
        ({"data": {}}, "data.quantity"),
        ({"data": {"quantity": None}}, "data.quantity"),
        ({"data": {"quantity": [1]}}, "data.quantity"),
        ({"data": {"quantity": "0.1e1"}}, "data.quantity"),
        ({"data": {"quantity": 1, "model": 5}}, "data.model"),
        ({"data": {"quantity": 1, "kind": "gift"}}, "data.kind"),
        ({"data": "text"}, "data"),
        ({"subject": 5}, "subject"),
    ],
)
def test_a_cloud_event_that_cannot_be_used(
    operator: httpx.Client, changed: dict[str, object], said: str
):
    answer = post(operator, [{**CLOUD, **changed}, CLOUD], "application/cloudevents-batch+json")
    bad, good = answer["verdicts"]
    assert (bad["verdict"], bad["id"]) == ("rejected", "c-1")
    assert said in bad["reason"]
    assert good["verdict"] == "accepted"


def test_a_cloud_event_is_counted_by_the_meters_that_read_its_type(
    plane: Plane, operator: httpx.Client, tenant: httpx.Client
):
    with plane.world.database.transaction(Role.OPERATOR) as connection:
        define_meter(
            connection,
            "code: pages.printed\nunit: pages\nevent_type: print.done\naggregation: sum\n"
            "value: data.pages\nfilter: data.colour\n"
            'effective_from: "2026-10-01T00:00:00Z"\n',
            now=plane.world.now,
        )
    events = [
        {**CLOUD, "id": str(n), "type": "print.done", "data": {"pages": 7.5, "colour": colour}}
        for n, colour in enumerate((True, False))
    ]
    events.append({**CLOUD, "id": "x", "type": "scan.done", "data": {"pages": 1}})
    answer = post(operator, events, "application/cloudevents-batch+json")
    kinds = [verdict["verdict"] for verdict in answer["verdicts"]]
    assert kinds == ["accepted", "rejected", "parked"]
    assert "pages.printed asks for data.colour" in answer["verdicts"][1]["reason"]
    assert used(tenant) == {"pages.printed": "7.5"}


def test_parked_events_are_released_or_rejected(
    plane: Plane, operator: httpx.Client, tenant: httpx.Client
):
    assert operator.get("operator/parked").raise_for_status().json() == []
    batch = [{**EVENT, "id": str(n), "meter": "pages", "quantity": n} for n in (1, 2)]
    assert post(operator, batch, "application/json", USAGE)["counts"]["parked"] == 2
    first, second = operator.get("operator/parked").raise_for_status().json()
    release = f"operator/parked/{first['parked_id']}/release"
    assert operator.post(release).raise_for_status().json()["verdict"] == "parked"
    with plane.world.database.transaction(Role.OPERATOR) as connection:
        insert_meter(
            connection, code="pages", unit="pages", informational=True,
            now=plane.world.now.replace(day=1),
        )  # fmt: skip
    assert operator.post(release).raise_for_status().json()["verdict"] == "accepted"
    reject = f"operator/parked/{second['parked_id']}/reject"
    assert operator.post(reject, json={"reason": "a typo"}).status_code == 204
    for path in (release, reject):
        assert operator.post(path, json={"reason": "again"}).status_code == 409
    assert operator.get("operator/parked").raise_for_status().json() == []
    assert used(tenant) == {"pages": first["quantity"]}


def test_events_are_voided_and_amended_once(operator: httpx.Client, tenant: httpx.Client):
    batch = [{**EVENT, "id": str(n), "quantity": 10 * n} for n in (1, 2)]
    sent = post(operator, batch, "application/json", USAGE)["verdicts"]
    void, amend = (
        f"usage/events/{verdict['event_id']}/{order}"
        for verdict, order in zip(sent, ("void", "amend"), strict=True)
    )
    order = {"source": "desk", "id": "v-1", "reason": "sent by a test rig"}
    done = operator.post(void, json=order).raise_for_status().json()
    assert (done["kind"], done["repeated"], done["replaced_by"]) == ("void", False, None)
    again = operator.post(void, json=order).raise_for_status().json()
    assert again == {**done, "repeated": True}
    assert operator.post(void, json={**order, "id": "v-2"}).json()["code"] == "conflict"
    new = {**order, "id": "a-1", "quantities": {"tokens.input": "7.5"}}
    clash = operator.post(amend, json={**new, "id": "v-1"})
    assert (clash.status_code, clash.json()["code"]) == (409, "idempotency_conflict")
    wrong = operator.post(amend, json={**new, "quantities": {"requests": 1}})
    assert (wrong.status_code, wrong.json()["field"]) == (400, "quantities.requests")
    negative = operator.post(amend, json={**new, "quantities": {"tokens.input": -1}})
    assert (negative.status_code, negative.json()["field"]) == (400, "quantities.tokens.input")
    amended = operator.post(amend, json=new).raise_for_status().json()
    assert used(tenant) == {"tokens.input": "7.5"}
    seen = tenant.get(f"usage/requests/{amended['corrects']}").raise_for_status().json()
    assert [c["replaced_by"] for c in seen["corrections"]] == [amended["replaced_by"]]
    taken = operator.post(f"usage/events/{amended['taken_back_by']}/void",
                          json={**order, "id": "v-3"})  # fmt: skip
    assert taken.status_code == 409
