"""Who may do what: read off the routes themselves, so that a new route cannot be forgotten."""

from __future__ import annotations

import re
from collections.abc import Iterator

import httpx
import pytest
from litestar import Litestar
from litestar.handlers import HTTPRouteHandler
from litestar.routes import HTTPRoute

from api.app import create_app
from api.auth import Allowed
from api.deployment import utc_now
from billing.settings import Settings
from billing.store.database import Database
from billing.tenancy.api_key import Role
from tests.api.control.conftest import Plane

PUBLIC = {
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
    ("GET", "/api/v1/openapi.json"),
    ("POST", "/api/v1/hooks/stripe"),
}
OPERATORS = {Role.OPERATOR}
READERS = {Role.OPERATOR, Role.FINANCE}
BOOKS = ("/api/v1/margin", "/api/v1/exports", "/api/v1/books")
FILLED = {
    "tenant": "acme",
    "invoice": "INV-9",
    "line": "1",
    "key_id": "999",
    "claim_id": "00000000-0000-7000-8000-000000000000",
    "request_id": "req_1",
    "parked_id": "00000000-0000-7000-8000-000000000000",
    "grant": "00000000-0000-7000-8000-000000000000",
    "top_up": "00000000-0000-7000-8000-000000000000",
    "transaction_id": "00000000-0000-7000-8000-000000000000",
    "plan": "standard",
    "meter": "tokens.input",
    "name": "monthly",
    "version": "9",
    "contract": "1",
}


def handlers(app: Litestar) -> Iterator[tuple[str, str, HTTPRouteHandler]]:
    for route in app.routes:
        assert isinstance(route, HTTPRoute)
        for handler in route.route_handlers:
            for method in handler.http_methods - {"OPTIONS"}:
                yield method, route.path_format, handler


def roles_of(handler: HTTPRouteHandler) -> frozenset[Role] | None:
    guards = [guard for layer in handler.ownership_layers for guard in layer.guards or ()]
    if not guards:
        return None
    (allowed,) = guards
    assert isinstance(allowed, Allowed)
    return allowed.roles


@pytest.fixture(scope="module")
def app() -> Litestar:
    nowhere = Database("postgresql+psycopg://nowhere.invalid/none")
    return create_app(nowhere, Settings(), utc_now)


def test_every_route_has_exactly_one_guard_or_is_public_on_purpose(app: Litestar):
    open_routes = {
        (method, path) for method, path, handler in handlers(app) if roles_of(handler) is None
    }
    assert open_routes == PUBLIC


def test_roles_are_those_of_the_side_that_a_route_is_on(app: Litestar):
    found = {
        (method, path): roles
        for method, path, handler in handlers(app)
        if (roles := roles_of(handler)) is not None
    }
    assert len(found) > 30
    for (method, path), roles in found.items():
        reads_an_invoice = path.startswith("/api/v1/operator/invoices") and method == "GET"
        if reads_an_invoice or path.startswith(BOOKS):
            assert roles == READERS, path
        elif path in {"/api/v1/seal/keys", "/api/v1/seal/signed-head"}:
            assert roles == {Role.TENANT} | READERS, path
        elif path.startswith(("/api/v1/operator/", "/api/v1/usage/events")):
            assert roles == OPERATORS, path
        else:
            assert roles == {Role.TENANT}, path


def test_a_route_lets_its_roles_in_and_nobody_else(plane: Plane, app: Litestar):
    """Every route with every key, an invalid key, and none; refusals change nothing."""
    guarded = [
        (method, re.sub(r"{(\w+)}", lambda match: FILLED[match[1]], path), roles)
        for method, path, handler in handlers(app)
        if (roles := roles_of(handler)) is not None
    ]
    before = plane.row_counts()
    with httpx.Client(base_url=plane.url, timeout=20) as client:
        for method, path, roles in guarded:
            for role in Role:
                bearer = {"authorization": f"Bearer {plane.keys[role.value].text}"}
                # A body that nothing accepts, so that those who are let in change nothing either.
                answer = client.request(method, path, headers=bearer, content=b"{")
                if role in roles:
                    assert answer.status_code not in {401, 403}, (method, path, role)
                else:
                    assert answer.status_code == 403, (method, path, role)
                    assert answer.json()["code"] == "forbidden"
            for wrong in ({}, {"authorization": f"Bearer sk-sy-{'0' * 12}-{'0' * 38}"}):
                refused = client.request(method, path, headers=wrong, content=b"{")
                assert refused.status_code == 401, (method, path)
                assert refused.headers["www-authenticate"] == 'Bearer realm="steelyard"'
    assert plane.row_counts() == before


def test_a_malformed_header_is_no_key(plane: Plane):
    with plane.client() as client:
        for header in (b"", b"Bearer", b"Basic a2V5", b"sk-sy-x", b"Bearer \xe9", b"Bearer a b"):
            refused = client.get("me", headers={b"authorization": header})
            assert (refused.status_code, refused.json()["code"]) == (401, "invalid_api_key")


def test_T1_anothers_rows_look_absent_and_stay_untouched(plane: Plane, operator: httpx.Client):
    report = {
        "outcome": "ticket-resolved",
        "subject": "t-1",
        "occurred_at": "2026-11-15T11:00:00Z",
    }
    with plane.client("tenant") as acme:
        key = acme.post("keys", json={"name": "acme's"}).raise_for_status().json()
        claim = acme.post("outcomes", json=report).raise_for_status().json()
    plane.world.use(plane.acme, {"tokens.input": 5})
    order = {"period": "2026-11"}
    invoice = operator.post("operator/tenants/acme/invoices/draft", json=order).json()
    with plane.client("tenant") as acme:
        (event,) = acme.get("usage/requests").raise_for_status().json()
        own = [f"invoices/{invoice['id']}", f"usage/requests/{event['request_id']}"]
        assert all(acme.get(path).status_code == 200 for path in own)

    before = plane.row_counts()
    with plane.client("bolt") as bolt:
        asked = [bolt.get(path) for path in own]
        asked.append(bolt.delete(f"keys/{key['id']}"))
        asked.append(bolt.post(f"outcomes/{claim['id']}/confirm"))
        unknown = [
            bolt.get("invoices/00000000-0000-7000-8000-000000000000"),
            bolt.get("usage/requests/req_00000000000070008000000000000000"),
            bolt.delete("keys/2000000000"),
            bolt.post("outcomes/00000000-0000-7000-8000-000000000000/confirm"),
        ]
        assert [answer.status_code for answer in asked] == [404] * 4
        assert [answer.json() for answer in asked] == [answer.json() for answer in unknown]
        for path in ("invoices", "outcomes", "usage/requests"):
            assert bolt.get(path).raise_for_status().json() == []
        assert bolt.get("usage").raise_for_status().json()["slots"] == []
        assert {row["tenant"] for row in bolt.get("keys").json()} == {"bolt"}
    assert plane.row_counts() == before
    with plane.client("tenant") as acme:
        assert acme.get("outcomes").json() == [claim]
        assert (
            next(k for k in acme.get("keys").json() if k["id"] == key["id"])["revoked_at"] is None
        )
