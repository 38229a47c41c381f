"""Probes, metrics, webhooks, and what happens when something of ours fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import httpx
import psycopg
import pytest
import sqlalchemy as sa
import stripe

from billing.settings import Settings
from billing.store.database import Database, Role, only
from billing.store.embedded.address import ServerAddress
from tests.api.control.conftest import WEBHOOK_SECRET, Clock, Plane, serving
from tests.standing_still import stopped_at

ROOT = Path(__file__).resolve().parents[3]
CANARY = "canaryq7zx"


def test_probes_answer_and_metrics_count_by_route(plane: Plane, tenant: httpx.Client):
    tenant.get("invoices/INV-9")
    tenant.get("no/such/route")
    with httpx.Client(base_url=plane.url) as client:
        assert client.get("/healthz").json() == {"status": "ok"}
        assert client.get("/readyz").raise_for_status().json() == {"status": "ok"}
        text = client.get("/metrics").raise_for_status().text
    labels = 'method="GET",route="/api/v1/invoices/{invoice}",status="404"'
    assert f"steelyard_api_requests_total{{{labels}}} 1.0" in text
    assert 'route="unmatched",status="404"' in text
    assert "acme" not in text


def test_answers_may_not_be_kept(tenant: httpx.Client):
    for answer in (tenant.get("me"), tenant.get("nothing"), tenant.get("me", headers={})):
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_not_ready_without_the_right_schema(
    plane: Plane, postgres: ServerAddress, database_name: str
):
    with psycopg.connect(postgres.owner_conninfo(database_name), autocommit=True) as owner:
        owner.execute("UPDATE alembic_version SET version_num = 'older'")
    with httpx.Client(base_url=plane.url) as client:
        assert client.get("/healthz").status_code == 200
        refused = client.get("/readyz")
    assert (refused.status_code, refused.json()["code"]) == (503, "configuration_error")


def test_a_server_that_stands_still_costs_a_request_its_limit_and_no_more(
    database: Database, settings: Settings, now: datetime
):
    url = database.engine.url.render_as_string(hide_password=False)
    hasty = Database(url, answer_ms=200)
    anybody = {"authorization": "Bearer nobody-knows-it"}
    with (
        serving(hasty, settings, Clock(now)) as address,
        httpx.Client(base_url=address, headers=anybody) as client,
        stopped_at(hasty.engine, 1) as stopped,
    ):
        refused = client.get("/api/v1/me")
        assert stopped
        other = client.get("/api/v1/me")
    hasty.close()
    assert (refused.status_code, refused.json()["code"]) == (503, "database_unavailable")
    assert refused.headers["retry-after"] == "1"
    assert other.status_code == 401


def test_without_a_database_nothing_is_ready_and_nothing_is_told(settings: Settings, now: datetime):
    gone = Database(f"postgresql+psycopg://u:{CANARY}@127.0.0.1:1/{CANARY}")
    with (
        serving(gone, settings, Clock(now)) as url,
        httpx.Client(base_url=url, timeout=30) as client,
    ):
        assert client.get("/healthz").status_code == 200
        for path in ("/readyz", "/api/v1/me"):
            away = client.get(path, headers={"authorization": f"Bearer {CANARY}"})
            assert (away.status_code, away.json()["code"]) == (503, "database_unavailable")
            assert away.headers["retry-after"] == "1"
            assert CANARY not in away.text
    gone.close()


def test_a_defect_of_ours_tells_nothing(
    plane: Plane,
    operator: httpx.Client,
    postgres: ServerAddress,
    database_name: str,
    capfd: pytest.CaptureFixture[str],
):
    with psycopg.connect(postgres.owner_conninfo(database_name), autocommit=True) as owner:
        owner.execute(
            "ALTER TABLE tenant ADD CONSTRAINT never CHECK (name NOT LIKE 'canary%') NOT VALID"
        )
    failed = operator.post("operator/tenants", json={"slug": CANARY, "name": CANARY})
    assert failed.status_code == 500
    assert failed.json() == {
        "type": "urn:steelyard:problem:internal_error",
        "title": "Internal Server Error",
        "status": 500,
        "code": "internal_error",
        "detail": None,
        "field": None,
        "remedy": None,
    }
    logged = capfd.readouterr()
    assert "IntegrityError" in logged.out + logged.err
    assert CANARY not in logged.out + logged.err


def event_body(event_id: str) -> str:
    return json.dumps(
        {
            "id": event_id,
            "object": "event",
            "type": "invoice.paid",
            "created": 1_794_744_000,
            "livemode": False,
            "api_version": stripe.api_version,
            "data": {"object": {"id": "in_1", "object": "invoice"}},
            "pending_webhooks": 0,
            "request": None,
        }
    )


def signature(plane: Plane, body: str, secret: str = WEBHOOK_SECRET) -> dict[str, str]:
    header = stripe.WebhookSignature.generate_signature_header(
        body, secret, timestamp=int(plane.clock.now.timestamp())
    )
    return {"stripe-signature": header, "content-type": "application/json"}


def stored_events(plane: Plane) -> int:
    with plane.world.database.transaction(Role.OPERATOR) as connection:
        return only(connection, "SELECT count(*) AS n FROM stripe_event").n


def test_a_signed_webhook_is_stored_once(plane: Plane):
    body = event_body("evt_1")
    with plane.client() as client:
        for stored in (True, False):
            answer = client.post("hooks/stripe", content=body, headers=signature(plane, body))
            assert answer.raise_for_status().json() == {"stored": stored}
    assert stored_events(plane) == 1


def test_a_webhook_that_stripe_did_not_sign_is_refused(plane: Plane):
    body = event_body("evt_1")
    with plane.client() as client:
        for headers in (
            {},
            {"stripe-signature": CANARY},
            signature(plane, body, "whsec_another"),
            signature(plane, body + " "),
        ):
            refused = client.post("hooks/stripe", content=body, headers=headers)
            assert (refused.status_code, refused.json()["code"]) == (400, "bad_signature")
            assert CANARY not in refused.text
        large = client.post("hooks/stripe", content=b" " * ((1 << 20) + 1))
        assert large.status_code == 413
    assert stored_events(plane) == 0


def test_webhooks_that_are_not_configured_do_not_exist(database: Database, now: datetime):
    with (
        serving(database, Settings(), Clock(now)) as url,
        httpx.Client(base_url=url) as client,
    ):
        refused = client.post("/api/v1/hooks/stripe", content=event_body("evt_1"))
    assert refused.status_code == 404


def test_the_process_says_when_it_listens_and_stops_when_told(
    postgres: ServerAddress, database_name: str, database: Database
):
    environment = {
        **os.environ,
        "STEELYARD_DATABASE_URL": postgres.app_url(database_name),
        "STEELYARD_API_PORT": "0",
    }
    with subprocess.Popen(
        [sys.executable, "-m", "api"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            said = json.loads(process.stdout.readline())
            assert (said["event"], said["host"]) == ("api listens", "127.0.0.1")
            with httpx.Client(base_url=f"http://127.0.0.1:{said['port']}", timeout=20) as client:
                assert client.get("/readyz").status_code == 200
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        finally:
            process.kill()
    with database.engine.connect() as connection:
        connections = connection.execute(
            sa.text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
        ).scalar_one()
    assert connections == 1
