"""What cannot be used is refused with code, field and remedy, repeats nothing, writes nothing."""

from __future__ import annotations

import json

import httpx
import pytest

from api.errors import STATUS
from billing.errors import SteelyardError
from tests.api.control.bad_requests import CANARY, CASES, ISSUE, YAML, Case
from tests.api.control.conftest import Plane
from tests.world import MONTH_END, PLAN

MEMBERS = {"type", "title", "status", "code", "detail", "field", "remedy"}


def send(plane: Plane, case: Case) -> httpx.Response:
    content = case.text if case.text is not None else None
    if case.body is not None:
        content = json.dumps(case.body)
    with plane.client(case.key) as client:
        return client.request(
            case.method,
            case.path,
            params=httpx.QueryParams(case.query) if case.query else None,
            content=content,
            headers={"content-type": case.media_type},
        )


def test_bad_input_is_refused_and_writes_nothing(plane: Plane, capfd: pytest.CaptureFixture[str]):
    before = plane.row_counts()
    for case in CASES:
        refused = send(plane, case)
        problem = refused.json()
        assert refused.status_code == case.status, (str(case), problem)
        assert refused.headers["content-type"] == "application/problem+json", str(case)
        assert (problem["code"], problem["field"]) == (case.code, case.field), str(case)
        assert MEMBERS <= problem.keys() <= MEMBERS | {"line"}
        assert problem["type"] == f"urn:steelyard:problem:{case.code}"
        assert problem["status"] == case.status
        assert problem["remedy"], str(case)
        assert CANARY not in refused.text, str(case)
        assert CANARY not in str(refused.headers), str(case)
    assert plane.row_counts() == before
    logged = capfd.readouterr()
    assert CANARY not in logged.out + logged.err


def test_a_parameter_that_nobody_sent_is_named(plane: Plane):
    with plane.client("tenant") as client:
        refused = client.get("credit/statement", params={"from": CANARY})
    assert (refused.status_code, refused.json()["field"]) == (400, "currency")
    assert CANARY not in refused.text


def test_a_refused_plan_names_its_line(operator: httpx.Client):
    refused = operator.post(
        "operator/plans",
        content=PLAN.replace('"0.20"', "0.20"),
        headers={"content-type": YAML},
    ).json()
    assert PLAN.splitlines()[refused["line"] - 1].strip() == 'price: "0.20"'


PAYMENTS = [
    ({"amount": "0", "idempotency_key": "k"}, "amount"),
    ({"amount": "-1", "idempotency_key": "k"}, "amount"),
    ({"amount": "1.001", "idempotency_key": "k"}, "amount"),
    ({"amount": 1.5, "idempotency_key": "k"}, "amount"),
    ({"amount": 1, "idempotency_key": "k"}, "amount"),
    ({"amount": "1"}, "idempotency_key"),
    ({"amount": "1", "idempotency_key": "stripe/in_1/100"}, "idempotency_key"),
    ({"amount": "1", "idempotency_key": "k", "into": "stripe_clearing"}, "into"),
]


def test_bad_payments_post_nothing(plane: Plane, operator: httpx.Client):
    plane.clock.now = MONTH_END
    invoice = operator.post(ISSUE, json={"period": "2026-11"}).raise_for_status().json()
    before = plane.row_counts()
    for body, field in PAYMENTS:
        refused = operator.post(f"operator/invoices/{invoice['id']}/payments", json=body)
        assert (refused.status_code, refused.json()["field"]) == (400, field), body
    assert plane.row_counts() == before


def test_a_body_over_the_limit_is_refused_before_it_is_read(plane: Plane, operator: httpx.Client):
    before = plane.row_counts()
    large = operator.post(
        "operator/tenants", content=b" " * (9 << 20), headers={"content-type": "application/json"}
    )
    assert (large.status_code, large.json()["code"]) == (413, "body_too_large")

    def endless():
        for _ in range(9):
            yield b" " * (1 << 20)

    chunked = operator.post("operator/tenants", content=endless())
    assert (chunked.status_code, chunked.json()["code"]) == (413, "body_too_large")
    assert plane.row_counts() == before


def test_every_code_of_ours_has_a_status():
    def codes(error: type[SteelyardError]) -> set[str]:
        ours = [c for c in error.__subclasses__() if c.__module__ == SteelyardError.__module__]
        return {error.code}.union(*(codes(child) for child in ours))

    assert codes(SteelyardError) == set(STATUS)


def test_405_names_the_methods_that_exist(tenant: httpx.Client):
    refused = tenant.put("keys")
    assert refused.status_code == 405
    assert {"GET", "POST"} <= set(refused.headers["allow"].split(", "))
