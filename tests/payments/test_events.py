"""Webhooks: believed when signed, and never for more than the object's id."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import stripe

from billing.errors import BadSignature, InvalidInput
from billing.payments import StripeEvent, list_events, read_event
from tests.fake_stripe import DeliveryPlan, FakeStripe
from tests.payments.builders import MirrorRow, make_invoice, mirror_until_idle
from tests.payments.test_mirror import ACME

SECRET = "whsec_one"
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def payload(**change: object) -> bytes:
    event: dict[str, object] = {
        "id": "evt_1",
        "object": "event",
        "type": "invoice.paid",
        "created": 1_795_262_400,
        "data": {"object": {"id": "in_1", "object": "invoice", "note": "grüße"}},
    }
    return json.dumps({**event, **change}, ensure_ascii=False).encode()


def signed(body: bytes, secret: str = SECRET, at: datetime = NOW) -> str:
    return stripe.WebhookSignature.generate_signature_header(
        body.decode(), secret, timestamp=int(at.timestamp())
    )


def test_a_signed_event_is_read() -> None:
    body = payload()
    event = read_event(body, signed(body), secrets=[SECRET], now=NOW)
    assert event == StripeEvent(
        id="evt_1",
        type="invoice.paid",
        object_id="in_1",
        created=datetime(2026, 11, 21, 12, tzinfo=UTC),
    )
    assert event.relevant


def test_both_secrets_are_good_while_one_replaces_the_other() -> None:
    body = payload(type="customer.updated")
    for secret in ("whsec_old", "whsec_new"):
        event = read_event(body, signed(body, secret), secrets=["whsec_old", "whsec_new"], now=NOW)
        assert not event.relevant


@pytest.mark.parametrize(
    ("body", "header"),
    [
        (payload(), None),
        (payload(), ""),
        (payload(), "t=1"),
        (payload(), "v1=abc"),
        (payload(), "t=x,v1=abc"),
        (payload(), "nonsense"),
        (payload(), signed(payload(), "whsec_other")),
        (payload(id="evt_2"), signed(payload())),
        (payload() + b" ", signed(payload())),
        (b"\xff\xfe", signed(payload())),
        (payload(), signed(payload()).replace("v1=", "v0=")),
        (payload(), signed(payload(), at=NOW - timedelta(minutes=6))),
        (payload(), signed(payload(), at=NOW + timedelta(minutes=6))),
        (payload(), "t=9,v1=0," + signed(payload())),
        (b"{" * (1 << 20) + b"}", "t=1,v1=1"),
    ],
)
def test_a_body_that_stripe_did_not_sign_now_is_refused(body: bytes, header: str | None) -> None:
    with pytest.raises(BadSignature) as caught:
        read_event(body, header, secrets=[SECRET], now=NOW)
    assert "grüße" not in str(caught.value)


def test_no_secret_means_no_trust() -> None:
    body = payload()
    for secrets in ([], [""]):
        with pytest.raises(BadSignature):
            read_event(body, signed(body, ""), secrets=secrets, now=NOW)


@pytest.mark.parametrize("minutes", [-4, 4])
def test_clocks_may_differ_by_minutes(minutes: int) -> None:
    body = payload()
    at = NOW + timedelta(minutes=minutes)
    assert read_event(body, signed(body, at=at), secrets=[SECRET], now=NOW).id == "evt_1"


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"not json",
        payload(object="v2.core.event"),
        payload(data={}),
        payload(data={"object": {}}),
        payload(id=7),
        payload(created="today"),
    ],
)
def test_a_signed_body_that_is_no_event_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidInput):
        read_event(body, signed(body), secrets=[SECRET], now=NOW)


@dataclass
class Inbox:
    """A small web server that believes what is signed."""

    url: str = ""
    refuse: int = 0
    seen: list[StripeEvent] = field(default_factory=list)


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    box = Inbox()

    class Endpoint(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            status = 200
            if box.refuse > 0:
                box.refuse -= 1
                status = 503
            else:
                header = self.headers["stripe-signature"]
                now = datetime.now(UTC)
                box.seen.append(read_event(body, header, secrets=[SECRET], now=now))
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    box.url = f"http://127.0.0.1:{server.server_port}/hooks/stripe"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield box
    server.shutdown()
    thread.join()
    server.server_close()


def mirrored_and_paid(fake: FakeStripe, client: stripe.StripeClient, invoices: int) -> list[str]:
    ids: list[str] = []
    for serial in range(invoices):
        row = MirrorRow(customer=ACME, invoice=make_invoice(f"inv-{serial}"))
        mirror_until_idle(client, row)
        assert row.stripe_id is not None
        fake.pay_invoice(row.stripe_id)
        ids.append(row.stripe_id)
    return ids


def test_deliveries_are_signed_and_only_of_the_wanted_types(
    fake: FakeStripe, client: stripe.StripeClient, inbox: Inbox
) -> None:
    fake.register_webhook(inbox.url, secret=SECRET, events=frozenset({"invoice.paid"}))
    ids = mirrored_and_paid(fake, client, 2)
    assert [delivery.status for delivery in fake.deliver_webhooks()] == [200, 200]
    assert [(event.type, event.object_id) for event in inbox.seen] == [
        ("invoice.paid", ids[0]),
        ("invoice.paid", ids[1]),
    ]
    assert fake.deliver_webhooks() == []


def test_what_is_not_taken_is_sent_again(
    fake: FakeStripe, client: stripe.StripeClient, inbox: Inbox
) -> None:
    fake.register_webhook(inbox.url, secret=SECRET, events=frozenset({"invoice.paid"}))
    mirrored_and_paid(fake, client, 1)
    inbox.refuse = 2
    statuses = [fake.deliver_webhooks()[0].status for _ in range(3)]
    assert statuses == [503, 503, 200]
    assert len(inbox.seen) == 1


def test_a_seed_decides_order_repeats_and_losses(
    fake: FakeStripe, client: stripe.StripeClient, inbox: Inbox
) -> None:
    fake.register_webhook(inbox.url, secret=SECRET)
    mirrored_and_paid(fake, client, 4)
    made = [event["id"] for event in fake.events()]
    plan = DeliveryPlan(seed=5, shuffle=True, duplicate_percent=40, drop_percent=30)
    fake.deliver_webhooks(plan)
    seen = [event.id for event in inbox.seen]
    counted = Counter(seen)
    assert seen != sorted(seen)
    assert max(counted.values()) > 1
    assert set(seen) < set(made)


def test_listing_finds_what_no_webhook_brought(
    fake: FakeStripe, client: stripe.StripeClient, inbox: Inbox
) -> None:
    fake.register_webhook(inbox.url, secret=SECRET)
    since = datetime.now(UTC) - timedelta(minutes=1)
    ids = mirrored_and_paid(fake, client, 60)
    fake.deliver_webhooks(DeliveryPlan(drop_percent=100))
    assert inbox.seen == []
    found = list_events(client, created_since=since)
    assert [event.object_id for event in found] == [i for i in ids for _ in range(2)]
    assert {event.type for event in found} == {"invoice.finalized", "invoice.paid"}
    assert list_events(client, created_since=since + timedelta(hours=1)) == []
