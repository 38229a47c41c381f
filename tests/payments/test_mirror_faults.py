"""I1 under failure: whatever Stripe does to us, one invoice of ours is one invoice there."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import stripe
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.errors import StripeUnavailable
from billing.payments import (
    MirrorCustomer,
    ThrottledHttpClient,
    TokenBucket,
    make_client,
    retrieve_invoice,
)
from tests.fake_stripe import FakeStripe, Fault, FaultKind
from tests.payments.builders import MirrorRow, make_invoice, mirror_until_idle

_serial = itertools.count(1)

STEPS = (
    "POST /v1/customers",
    "POST /v1/invoices",
    "POST /v1/invoices/{invoice}/add_lines",
    "POST /v1/invoices/{invoice}/finalize",
)
KINDS = tuple(kind for kind in FaultKind if kind is not FaultKind.SLOW)


@dataclass(frozen=True)
class Bench:
    fake: FakeStripe
    clients: dict[int, stripe.StripeClient]


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    """One stand-in for all examples; each example has a tenant of its own."""
    throttle = TokenBucket(per_second=100_000, burst=100_000)
    transport = ThrottledHttpClient(throttle=throttle, sleep_us=lambda _us: None)
    with FakeStripe() as fake:
        clients = {
            retries: make_client(
                fake.api_key, fake.url, http_client=transport, max_network_retries=retries
            )
            for retries in (0, 2)
        }
        yield Bench(fake=fake, clients=clients)
        transport.close()


def new_row(amounts: tuple[int, ...] = (1200, 345, -45)) -> MirrorRow:
    serial = next(_serial)
    return MirrorRow(
        customer=MirrorCustomer(tenant_id=f"tenant-{serial}", name="Acme"),
        invoice=make_invoice(f"inv-{serial}", amounts),
    )


def assert_mirrored_once(fake: FakeStripe, row: MirrorRow) -> None:
    invoice = row.invoice
    customers = [
        c for c in fake.customers() if c["metadata"]["tenant_id"] == row.customer.tenant_id
    ]
    assert len(customers) == 1
    twins = [i for i in fake.invoices() if i["metadata"]["invoice_id"] == invoice.id]
    assert len(twins) == 1
    (twin,) = twins
    assert twin["customer"] == customers[0]["id"]
    assert twin["status"] in {"open", "paid"}
    assert twin["total"] == invoice.total_minor
    lines = [(line["metadata"]["line_key"], line["amount"]) for line in twin["lines"]["data"]]
    assert lines == [(line.key, line.amount_minor) for line in invoice.lines]


@pytest.mark.parametrize("retries", [0, 2])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("kind", KINDS)
def test_I1_one_fault_at_any_step_leaves_one_equal_invoice(
    bench: Bench, kind: FaultKind, step: str, retries: int
) -> None:
    bench.fake.faults.clear()
    bench.fake.faults.add(Fault(kind=kind, operation=step))
    row = new_row()
    mirror_until_idle(bench.clients[retries], row)
    assert bench.fake.faults.pending == 0
    assert_mirrored_once(bench.fake, row)


@given(
    schedule=st.lists(st.sampled_from([None, *KINDS]), max_size=25),
    forgets=st.lists(st.booleans(), max_size=4),
    amounts=st.lists(st.integers(min_value=0, max_value=90_000), min_size=1, max_size=6),
    retries=st.sampled_from([0, 2]),
)
@settings(max_examples=60, deadline=None)
def test_I1_any_fault_schedule_ends_with_one_equal_invoice(
    bench: Bench,
    schedule: list[FaultKind | None],
    forgets: list[bool],
    amounts: list[int],
    retries: int,
) -> None:
    """Also when our process dies between Stripe's answer and our commit (`forgets`)."""
    bench.fake.faults.clear()
    bench.fake.faults.add(*(Fault(kind=kind) for kind in schedule))
    client = bench.clients[retries]
    row = new_row(tuple(amounts))
    for forgetful in forgets:
        if not row.done:
            row.try_once(client, forgets=forgetful)
    mirror_until_idle(client, row)
    bench.fake.faults.clear()
    assert_mirrored_once(bench.fake, row)


def test_I1_a_retry_after_keys_are_forgotten_finds_the_invoice(bench: Bench) -> None:
    bench.fake.faults.clear()
    bench.fake.faults.add(Fault(kind=FaultKind.DROP_AFTER, operation="POST /v1/invoices"))
    row, client = new_row(), bench.clients[0]
    assert row.try_once(client) is None
    bench.fake.clock.advance(25 * 3600)
    row.try_once(client)
    assert row.done
    assert row.attempt.epoch == 0
    assert_mirrored_once(bench.fake, row)


def test_I1_a_stored_500_costs_one_key_not_a_day(bench: Bench) -> None:
    bench.fake.faults.clear()
    step = "POST /v1/invoices/{invoice}/finalize"
    bench.fake.faults.add(Fault(kind=FaultKind.ERROR_STORED, operation=step))
    row, client = new_row(), bench.clients[2]
    assert row.try_once(client) is None
    assert row.attempt.epoch == 1
    row.try_once(client)
    assert row.done
    assert_mirrored_once(bench.fake, row)


def test_I1_an_answer_slower_than_our_patience_is_not_repeated(bench: Bench) -> None:
    """The first request still runs when we ask again: its key keeps the second one out."""
    fake = bench.fake
    fake.faults.clear()
    fake.faults.add(Fault(kind=FaultKind.SLOW, operation="POST /v1/invoices", delay_ms=1_500))
    throttle = TokenBucket(per_second=20, burst=1)
    transport = ThrottledHttpClient(throttle=throttle, read_timeout_ms=500)
    client = make_client(fake.api_key, fake.url, http_client=transport, max_network_retries=0)
    row = new_row()
    attempts = mirror_until_idle(client, row)
    transport.close()
    assert attempts > 1
    while not any(request.fault is FaultKind.SLOW for request in fake.requests):
        time.sleep(0.05)  # its effect may come after all of ours
    assert_mirrored_once(fake, row)


def test_our_own_error_names_no_body_of_stripe(bench: Bench) -> None:
    bench.fake.faults.clear()
    bench.fake.faults.add(Fault(kind=FaultKind.ERROR_BEFORE, times=3))
    client = bench.clients[2]
    with pytest.raises(StripeUnavailable) as caught:
        retrieve_invoice(client, "in_absent")
    assert "in_absent" not in str(caught.value)
    assert "500" in str(caught.value)
