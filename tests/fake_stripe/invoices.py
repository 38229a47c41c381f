"""Invoices: drafts, their lines, and the life after finalisation.

Decides the state rules that Stripe's description leaves out: what may change in which status, 250
lines, sums, the customer's balance and the smallest amount that is collected. Tax, discounts and
charges are not modelled.
"""

from __future__ import annotations

from typing import Any

from tests.fake_stripe import customers
from tests.fake_stripe.failures import Refusal, invalid, missing
from tests.fake_stripe.invoice_shape import DAY_S, new_invoice, new_line
from tests.fake_stripe.listing import created_within, page
from tests.fake_stripe.world import CURRENCIES, MINIMUM_CHARGE, Object, Params, World
from tests.fake_stripe.world import merge_metadata as merged

LINES_MAX = 250
LINES_EMBEDDED = 10
CUSTOM_FIELDS_MAX = 4

CREATABLE = frozenset(
    {
        "auto_advance",
        "collection_method",
        "currency",
        "custom_fields",
        "customer",
        "days_until_due",
        "description",
        "due_date",
        "footer",
        "metadata",
        "pending_invoice_items_behavior",
    }
)
UPDATABLE = CREATABLE - {"currency", "customer", "pending_invoice_items_behavior"}
UPDATABLE_LATER = frozenset({"auto_advance", "metadata"})
LISTABLE = frozenset(
    {
        "collection_method",
        "created",
        "customer",
        "ending_before",
        "limit",
        "starting_after",
        "status",
    }
)
ADDABLE = frozenset({"invoice_metadata", "lines"})
ADDABLE_LINE = frozenset({"amount", "description", "discountable", "metadata", "period"})
PAYABLE = frozenset({"paid_out_of_band"})
FINALIZABLE = frozenset({"auto_advance"})


def find(world: World, invoice_id: str) -> Object:
    if invoice_id not in world.invoices:
        raise missing("invoice", invoice_id, "invoice")
    return world.invoices[invoice_id]


def create(world: World, params: Params) -> Object:
    customer = customers.find(world, params.get("customer", ""))
    currency = params.get("currency") or customer["currency"] or "usd"
    if currency not in CURRENCIES:
        raise invalid(f"Invalid currency: {currency}.", param="currency")
    if params.get("pending_invoice_items_behavior", "exclude") != "exclude":
        raise invalid("This account has no pending invoice items.", code="invoice_no_items")
    invoice = new_invoice(world, customer, currency)
    _write(world, invoice, params)
    world.invoices[invoice["id"]] = invoice
    world.lines[invoice["id"]] = []
    world.emit("invoice.created", invoice)
    return invoice


def update(world: World, invoice_id: str, params: Params) -> Object:
    invoice = find(world, invoice_id)
    if invoice["status"] != "draft" and not set(params) <= UPDATABLE_LATER:
        raise _not_editable()
    _write(world, invoice, params)
    world.emit("invoice.updated", invoice)
    return invoice


def listed(world: World, params: Params) -> Object:
    fields = ("customer", "status", "collection_method")
    matching = [
        invoice
        for invoice in created_within(world.invoices.values(), params.get("created"))
        if all(params.get(name) in {None, invoice[name]} for name in fields)
    ]
    return page(matching[::-1], params, "/v1/invoices")


def listed_lines(world: World, invoice_id: str, params: Params) -> Object:
    url = f"/v1/invoices/{find(world, invoice_id)['id']}/lines"
    return page(world.lines[invoice_id], params, url)


def delete(world: World, invoice_id: str) -> Object:
    invoice = find(world, invoice_id)
    if invoice["status"] != "draft":
        raise invalid("You can only delete draft invoices.", code="invoice_not_editable")
    del world.invoices[invoice_id], world.lines[invoice_id]
    world.emit("invoice.deleted", invoice)
    return {"id": invoice_id, "object": "invoice", "deleted": True}


def add_lines(world: World, invoice_id: str, params: Params) -> Object:
    """All lines or none, as one request is one effect."""
    invoice = find(world, invoice_id)
    if invoice["status"] != "draft":
        raise _not_editable()
    held = world.lines[invoice_id]
    if len(held) + len(params["lines"]) > LINES_MAX:
        raise invalid(
            f"You can't add more than {LINES_MAX} items to an invoice.",
            code="invoice_too_many_items",
            param="lines",
        )
    for index, given in enumerate(params["lines"]):
        if "amount" not in given:
            raise invalid("Amount is required.", param=f"lines[{index}][amount]")
    added = [new_line(world, invoice, given) for given in params["lines"]]
    invoice["metadata"] = merged(invoice["metadata"], params.get("invoice_metadata"))
    held += added
    _sum(world, invoice)
    world.emit("invoice.updated", invoice)
    return invoice


def finalize(world: World, invoice_id: str, params: Params) -> Object:
    """Number the invoice and settle what the customer's balance or the minimum settles."""
    invoice = find(world, invoice_id)
    if invoice["status"] != "draft":
        raise invalid("This invoice is already finalized.", code="invoice_not_editable")
    if not world.lines[invoice_id]:
        raise invalid("You cannot finalize an invoice without items.", code="invoice_no_items")
    invoice["auto_advance"] = params.get("auto_advance", invoice["auto_advance"])
    now = world.clock.now()
    customer = customers.find(world, invoice["customer"])
    sequence = customer["next_invoice_sequence"]
    customer["next_invoice_sequence"] = sequence + 1
    customer["currency"] = customer["currency"] or invoice["currency"]
    due, ending = _settled(invoice, customer["balance"])
    invoice.update(
        status="open",
        number=f"{customer['invoice_prefix']}-{sequence:04d}",
        hosted_invoice_url=f"https://invoice.stripe.com/i/fake/{invoice_id}",
        invoice_pdf=f"https://pay.stripe.com/invoice/fake/{invoice_id}/pdf",
        starting_balance=customer["balance"],
        ending_balance=ending,
        amount_due=due,
        amount_remaining=due,
        effective_at=now,
    )
    invoice["status_transitions"]["finalized_at"] = now
    customer["balance"] = ending
    world.emit("invoice.finalized", invoice)
    if due == 0:
        _mark_paid(world, invoice, amount=0)
    return invoice


def pay(world: World, invoice_id: str, params: Params) -> Object:
    """Only payments made elsewhere: the account has no payment method to charge."""
    invoice = _open(world, invoice_id)
    if not params.get("paid_out_of_band"):
        raise invalid("This customer has no attached payment source or default payment method.")
    invoice["amount_paid_off_stripe"] = invoice["amount_due"]
    _mark_paid(world, invoice, amount=invoice["amount_due"])
    return invoice


def pay_as_customer(world: World, invoice_id: str) -> Object:
    """The customer pays the hosted invoice in full."""
    invoice = _open(world, invoice_id)
    invoice.update(attempted=True, attempt_count=invoice["attempt_count"] + 1)
    _mark_paid(world, invoice, amount=invoice["amount_due"])
    return invoice


def void(world: World, invoice_id: str) -> Object:
    invoice = find(world, invoice_id)
    if invoice["status"] not in {"open", "uncollectible"}:
        raise invalid("You can only void open or uncollectible invoices.")
    invoice["status"] = "void"
    invoice["status_transitions"]["voided_at"] = world.clock.now()
    customer = customers.find(world, invoice["customer"])
    customer["balance"] += invoice["starting_balance"] - invoice["ending_balance"]
    world.emit("invoice.voided", invoice)
    return invoice


def mark_uncollectible(world: World, invoice_id: str) -> Object:
    invoice = _open(world, invoice_id)
    invoice["status"] = "uncollectible"
    invoice["status_transitions"]["marked_uncollectible_at"] = world.clock.now()
    world.emit("invoice.marked_uncollectible", invoice)
    return invoice


def send(world: World, invoice_id: str) -> Object:
    """Finalises a draft first, as Stripe does; no e-mail leaves in test mode, the event does."""
    invoice = find(world, invoice_id)
    if invoice["collection_method"] != "send_invoice":
        raise invalid("You can only send invoices with collection_method=send_invoice.")
    if invoice["status"] == "draft":
        invoice = finalize(world, invoice_id, {})
    if invoice["status"] not in {"open", "paid"}:
        raise invalid("This invoice cannot be sent in its current status.")
    world.emit("invoice.sent", invoice)
    return invoice


def _settled(invoice: Object, balance: int) -> tuple[int, int]:
    """(amount due, customer balance afterwards); a positive balance is owed by the customer."""
    owed: int = invoice["total"] + balance
    if owed < MINIMUM_CHARGE.get(invoice["currency"], 1):
        return 0, owed
    return owed, 0


def _sum(world: World, invoice: Object) -> None:
    held = world.lines[invoice["id"]]
    total = sum(line["amount"] for line in held)
    balance = customers.find(world, invoice["customer"])["balance"]
    due = _settled({**invoice, "total": total}, balance)[0]
    invoice.update(
        subtotal=total,
        subtotal_excluding_tax=total,
        total=total,
        total_excluding_tax=total,
        amount_due=due,
        amount_remaining=due,
    )
    invoice["lines"]["data"] = held[:LINES_EMBEDDED]
    invoice["lines"]["has_more"] = len(held) > LINES_EMBEDDED


def _mark_paid(world: World, invoice: Object, *, amount: int) -> None:
    invoice.update(status="paid", amount_paid=amount, amount_remaining=0)
    invoice["status_transitions"]["paid_at"] = world.clock.now()
    world.emit("invoice.paid", invoice)
    world.emit("invoice.payment_succeeded", invoice)


def _open(world: World, invoice_id: str) -> Object:
    invoice = find(world, invoice_id)
    if invoice["status"] == "paid":
        raise invalid("Invoice is already paid")
    if invoice["status"] not in {"open", "uncollectible"}:
        raise invalid("This invoice is not open.")
    return invoice


def _write(world: World, invoice: Object, params: Params) -> None:
    change: dict[str, Any] = {
        name: params[name]
        for name in ("auto_advance", "collection_method", "description", "footer", "due_date")
        if name in params
    }
    method = change.get("collection_method", invoice["collection_method"])
    if method != "send_invoice" and {"days_until_due", "due_date"} & set(params):
        raise invalid("due_date and days_until_due need collection_method=send_invoice.")
    if {"days_until_due", "due_date"} <= set(params):
        raise invalid("Give days_until_due or due_date, not both.", param="due_date")
    if "days_until_due" in params:
        change["due_date"] = world.clock.now() + params["days_until_due"] * DAY_S
    if change.get("due_date", world.clock.now()) < world.clock.now():
        raise invalid("due_date must be in the future.", param="due_date")
    if method == "send_invoice" and change.get("due_date", invoice["due_date"]) is None:
        raise invalid("send_invoice needs days_until_due or due_date.", param="days_until_due")
    if len(params.get("custom_fields", ())) > CUSTOM_FIELDS_MAX:
        raise invalid("At most four custom fields.", param="custom_fields")
    if "custom_fields" in params:
        change["custom_fields"] = params["custom_fields"] or None
    invoice.update(change, metadata=merged(invoice["metadata"], params.get("metadata")))


def _not_editable() -> Refusal:
    return invalid("Finalized invoices can't be edited.", code="invoice_not_editable")
