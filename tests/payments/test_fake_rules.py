"""The stand-in keeps the rules that Stripe's description does not state."""

from __future__ import annotations

import threading
from typing import Any

import httpx
import pytest
import stripe

from tests.fake_stripe import FakeStripe, Fault, FaultKind


def new_customer(client: stripe.StripeClient) -> str:
    return client.v1.customers.create({"name": "Acme"}).id


def new_draft(client: stripe.StripeClient, customer_id: str, *amounts: int) -> stripe.Invoice:
    draft = client.v1.invoices.create(
        {"customer": customer_id, "collection_method": "send_invoice", "days_until_due": 30}
    )
    if amounts:
        lines: Any = [{"amount": amount, "description": "x"} for amount in amounts]
        draft = client.v1.invoices.add_lines(draft.id, {"lines": lines})
    return draft


def refusal(call: Any, *arguments: Any) -> stripe.InvalidRequestError:
    with pytest.raises(stripe.InvalidRequestError) as caught:
        call(*arguments)
    return caught.value


def test_a_draft_sums_its_lines_and_has_no_number(client: stripe.StripeClient) -> None:
    draft = new_draft(client, new_customer(client), 700, -200)
    assert (draft.status, draft.total, draft.subtotal, draft.amount_due) == ("draft", 500, 500, 500)
    assert draft.number is None
    assert draft.hosted_invoice_url is None


def test_a_finalised_invoice_is_numbered_and_frozen(client: stripe.StripeClient) -> None:
    invoices = client.v1.invoices
    draft = new_draft(client, new_customer(client), 700)
    opened = invoices.finalize_invoice(draft.id)
    assert opened.status == "open"
    assert opened.number is not None
    assert opened.hosted_invoice_url is not None
    line: Any = {"lines": [{"amount": 1}]}
    assert refusal(invoices.add_lines, draft.id, line).code == "invoice_not_editable"
    assert refusal(invoices.update, draft.id, {"footer": "x"}).code == "invoice_not_editable"
    assert refusal(invoices.delete, draft.id).code == "invoice_not_editable"
    refusal(invoices.finalize_invoice, draft.id)
    marked = invoices.update(draft.id, {"metadata": {"seen": "yes"}}).metadata
    assert marked is not None
    assert marked["seen"] == "yes"


def test_paid_void_and_deleted_are_ends(fake: FakeStripe, client: stripe.StripeClient) -> None:
    invoices, customer = client.v1.invoices, new_customer(client)
    paid, voided, deleted, lost = (new_draft(client, customer, 700).id for _ in range(4))
    refusal(invoices.pay, paid, {"paid_out_of_band": True})
    refusal(invoices.void_invoice, paid)
    for stripe_id in (paid, voided, lost):
        invoices.finalize_invoice(stripe_id)
    refusal(invoices.pay, paid)
    settled = invoices.pay(paid, {"paid_out_of_band": True})
    assert (settled.status, settled.amount_paid, settled.amount_remaining) == ("paid", 700, 0)
    assert settled.amount_paid_off_stripe == 700
    refusal(invoices.pay, paid, {"paid_out_of_band": True})
    refusal(invoices.void_invoice, paid)
    assert invoices.void_invoice(voided).status == "void"
    refusal(invoices.void_invoice, voided)
    assert invoices.mark_uncollectible(lost).status == "uncollectible"
    assert fake.pay_invoice(lost)["status"] == "paid"
    assert invoices.delete(deleted).deleted is True
    assert refusal(invoices.retrieve, deleted).code == "resource_missing"


def test_a_customer_pays_the_hosted_invoice(fake: FakeStripe, client: stripe.StripeClient) -> None:
    draft = new_draft(client, new_customer(client), 700)
    client.v1.invoices.finalize_invoice(draft.id)
    fake.pay_invoice(draft.id)
    paid = client.v1.invoices.retrieve(draft.id)
    assert (paid.status, paid.amount_paid, paid.amount_paid_off_stripe) == ("paid", 700, 0)
    assert [event["type"] for event in fake.events()][-3:] == [
        "invoice.finalized",
        "invoice.paid",
        "invoice.payment_succeeded",
    ]


def test_the_251st_line_is_refused_and_nothing_of_its_request_stays(
    fake: FakeStripe, client: stripe.StripeClient
) -> None:
    draft = new_draft(client, new_customer(client), *([1] * 249))
    two: Any = {"lines": [{"amount": 1}, {"amount": 1}]}
    assert refusal(client.v1.invoices.add_lines, draft.id, two).param == "lines"
    assert len(fake.invoices()[0]["lines"]["data"]) == 249


def test_only_ten_lines_are_embedded_and_the_rest_is_paged(client: stripe.StripeClient) -> None:
    draft = new_draft(client, new_customer(client), *range(1, 26))
    embedded = client.v1.invoices.retrieve(draft.id).lines
    assert [line.amount for line in embedded.data] == list(range(1, 11))
    assert embedded.has_more is True
    listed = client.v1.invoices.line_items.list(draft.id, {"limit": 7})
    assert [line.amount for line in listed.auto_paging_iter()] == list(range(1, 26))


def test_lists_go_newest_first_and_page_both_ways(client: stripe.StripeClient) -> None:
    ids = [new_customer(client) for _ in range(7)][::-1]
    listed = client.v1.customers.list({"limit": 3})
    assert [c.id for c in listed.auto_paging_iter()] == ids
    back = client.v1.customers.list({"limit": 3, "ending_before": ids[5]})
    assert ([c.id for c in back.data], back.has_more) == (ids[2:5], True)
    assert refusal(client.v1.customers.list, {"starting_after": "cus_0"}).param == "starting_after"
    assert refusal(client.v1.customers.list, {"limit": 101}).param == "limit"


def test_invoices_are_listed_by_customer_status_and_age(
    fake: FakeStripe, client: stripe.StripeClient
) -> None:
    one, other = new_customer(client), new_customer(client)
    first = new_draft(client, one, 700)
    new_draft(client, other, 700)
    fake.clock.advance(100)
    second = new_draft(client, one, 700)
    client.v1.invoices.finalize_invoice(second.id)
    assert [i.id for i in client.v1.invoices.list({"customer": one})] == [second.id, first.id]
    drafts = client.v1.invoices.list({"customer": one, "status": "draft"})
    assert [i.id for i in drafts] == [first.id]
    recent = client.v1.invoices.list({"created": {"gt": first.created + 50}})
    assert [i.id for i in recent] == [second.id]


def test_a_total_below_the_minimum_is_owed_with_the_next_invoice(
    client: stripe.StripeClient,
) -> None:
    customer, invoices = new_customer(client), client.v1.invoices
    small = invoices.finalize_invoice(new_draft(client, customer, 49).id)
    assert (small.status, small.amount_due, small.amount_paid) == ("paid", 0, 0)
    assert (small.total, small.ending_balance) == (49, 49)
    assert client.v1.customers.retrieve(customer).balance == 49
    following = invoices.finalize_invoice(new_draft(client, customer, 100).id)
    assert (following.status, following.total, following.amount_due) == ("open", 100, 149)
    assert (following.starting_balance, following.ending_balance) == (49, 0)
    invoices.void_invoice(following.id)
    assert client.v1.customers.retrieve(customer).balance == 49


def test_a_negative_total_becomes_credit(client: stripe.StripeClient) -> None:
    customer, invoices = new_customer(client), client.v1.invoices
    credit = invoices.finalize_invoice(new_draft(client, customer, -300).id)
    assert (credit.status, credit.amount_due, credit.ending_balance) == ("paid", 0, -300)
    following = invoices.finalize_invoice(new_draft(client, customer, 1000).id)
    assert (following.amount_due, following.total) == (700, 1000)


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"currency": "btc"}, "currency"),
        ({"collection_method": "send_invoice"}, "days_until_due"),
        ({"days_until_due": 3}, None),
        ({"collection_method": "send_invoice", "due_date": 1_000_000_000}, "due_date"),
        ({"pending_invoice_items_behavior": "include"}, None),
        ({"metadata": {"k" * 41: "v"}}, "metadata"),
        ({"metadata": {"k": "v" * 501}}, "metadata[k]"),
        ({"custom_fields": [{"name": "n", "value": "v"}] * 5}, "custom_fields"),
    ],
)
def test_an_impossible_invoice_is_refused_whole(
    fake: FakeStripe, client: stripe.StripeClient, params: Any, param: str | None
) -> None:
    customer = new_customer(client)
    assert refusal(client.v1.invoices.create, {"customer": customer, **params}).param == param
    assert fake.invoices() == []


def test_an_invoice_without_lines_cannot_be_finalised(client: stripe.StripeClient) -> None:
    refusal(client.v1.invoices.finalize_invoice, new_draft(client, new_customer(client)).id)


def test_sending_a_draft_finalises_it(fake: FakeStripe, client: stripe.StripeClient) -> None:
    draft = new_draft(client, new_customer(client), 700)
    assert client.v1.invoices.send_invoice(draft.id).status == "open"
    assert fake.events()[-1]["type"] == "invoice.sent"


def test_customers_are_updated_and_metadata_is_merged(client: stripe.StripeClient) -> None:
    created = client.v1.customers.create({"name": "Acme", "metadata": {"a": "1", "b": "2"}})
    updated = client.v1.customers.update(
        created.id, {"name": "Bolt", "metadata": {"a": "", "c": "3"}}
    )
    assert updated.name == "Bolt"
    assert updated.metadata is not None
    assert updated.metadata.to_dict() == {"b": "2", "c": "3"}


def test_events_are_listed_by_type_for_thirty_days(
    fake: FakeStripe, client: stripe.StripeClient
) -> None:
    draft = new_draft(client, new_customer(client), 700)
    client.v1.invoices.finalize_invoice(draft.id)
    listed = client.v1.events.list({"types": ["invoice.finalized", "invoice.paid"]})
    assert [event.type for event in listed.data] == ["invoice.finalized"]
    event = client.v1.events.retrieve(listed.data[0].id)
    assert event.data.object["id"] == draft.id
    fake.clock.advance(31 * 24 * 3600)
    assert client.v1.events.list({"types": ["invoice.finalized"]}).data == []


def test_L3_same_key_and_body_is_one_effect_and_one_answer(
    fake: FakeStripe, client: stripe.StripeClient
) -> None:
    options: Any = {"idempotency_key": "k"}
    first = client.v1.customers.create({"name": "Acme"}, options)
    again = client.v1.customers.create({"name": "Acme"}, options)
    assert first.id == again.id
    assert again.last_response is not None
    assert again.last_response.headers["idempotent-replayed"] == "true"
    assert len(fake.customers()) == 1
    assert [request.replayed for request in fake.requests] == [False, True]


def test_L3_same_key_and_another_body_is_refused(
    fake: FakeStripe, client: stripe.StripeClient
) -> None:
    options: Any = {"idempotency_key": "k"}
    client.v1.customers.create({"name": "Acme"}, options)
    with pytest.raises(stripe.IdempotencyError):
        client.v1.customers.create({"name": "Bolt"}, options)
    assert len(fake.customers()) == 1


def test_a_key_is_forgotten_after_a_day(fake: FakeStripe, client: stripe.StripeClient) -> None:
    options: Any = {"idempotency_key": "k"}
    client.v1.customers.create({"name": "Acme"}, options)
    fake.clock.advance(24 * 3600)
    client.v1.customers.create({"name": "Acme"}, options)
    assert len(fake.customers()) == 2


def test_a_refusal_of_the_state_is_kept_under_its_key_and_a_malformed_one_is_not(
    client: stripe.StripeClient,
) -> None:
    draft = new_draft(client, new_customer(client))
    options: Any = {"idempotency_key": "finalize"}
    with pytest.raises(stripe.InvalidRequestError):
        client.v1.invoices.finalize_invoice(draft.id, {}, options)
    line: Any = {"lines": [{"amount": 700}]}
    client.v1.invoices.add_lines(draft.id, line)
    with pytest.raises(stripe.InvalidRequestError):
        client.v1.invoices.finalize_invoice(draft.id, {}, options)
    misspelt: Any = {"nmae": "Acme"}
    with pytest.raises(stripe.InvalidRequestError):
        client.v1.customers.create(misspelt, {"idempotency_key": "create"})
    client.v1.customers.create({"name": "Acme"}, {"idempotency_key": "create"})


def test_a_key_in_use_is_a_conflict(fake: FakeStripe) -> None:
    fake.faults.add(Fault(kind=FaultKind.SLOW, operation="POST /v1/customers", delay_ms=1_000))
    headers = {
        "authorization": "Bearer sk_test_x",
        "stripe-version": "2026-10-28.endive",
        "idempotency-key": "k",
    }
    statuses: list[int] = []

    def create() -> None:
        answer = httpx.post(f"{fake.url}/v1/customers", data={"name": "Acme"}, headers=headers)
        statuses.append(answer.status_code)

    threads = [threading.Thread(target=create) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200, 409]
    assert len(fake.customers()) == 1


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"stripe-version": "2026-10-28.endive"}, 401),
        ({"stripe-version": "2026-10-28.endive", "authorization": "Bearer sk_live_x"}, 401),
        ({"authorization": "Bearer sk_test_x"}, 400),
    ],
)
def test_key_and_version_are_demanded(
    fake: FakeStripe, headers: dict[str, str], status: int
) -> None:
    answer = httpx.get(f"{fake.url}/v1/customers", headers=headers)
    assert answer.status_code == status
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_an_unknown_url_is_404(client: stripe.StripeClient) -> None:
    assert refusal(client.v1.subscriptions.list).http_status == 404
    assert refusal(client.v1.products.list).http_status == 404
