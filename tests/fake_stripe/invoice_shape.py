"""Fresh invoices and lines with every field that Stripe's description requires."""

from __future__ import annotations

from tests.fake_stripe.world import Object, Params, World, merge_metadata

DAY_S = 24 * 3600


_ZERO_AT_FIRST = (
    "amount_due",
    "amount_overpaid",
    "amount_paid",
    "amount_paid_off_stripe",
    "amount_remaining",
    "amount_shipping",
    "attempt_count",
    "post_payment_credit_notes_amount",
    "pre_payment_credit_notes_amount",
    "subtotal",
    "subtotal_excluding_tax",
    "total",
    "total_excluding_tax",
)
_ABSENT_AT_FIRST = (
    "account_name",
    "account_tax_ids",
    "application",
    "automatically_finalizes_at",
    "custom_fields",
    "customer_shipping",
    "default_payment_method",
    "default_source",
    "description",
    "due_date",
    "effective_at",
    "ending_balance",
    "footer",
    "from_invoice",
    "hosted_invoice_url",
    "invoice_pdf",
    "last_finalization_error",
    "latest_revision",
    "next_payment_attempt",
    "number",
    "on_behalf_of",
    "parent",
    "receipt_number",
    "rendering",
    "shipping_cost",
    "shipping_details",
    "statement_descriptor",
    "test_clock",
    "webhooks_delivered_at",
)


def new_invoice(world: World, customer: Object, currency: str) -> Object:
    """An empty draft of the customer; the caller writes the request's parameters into it."""
    invoice_id, now = world.new_id("in"), world.clock.now()
    lines: Object = {
        "object": "list",
        "data": [],
        "has_more": False,
        "url": f"/v1/invoices/{invoice_id}/lines",
    }
    return {
        "id": invoice_id,
        "object": "invoice",
        **dict.fromkeys(_ZERO_AT_FIRST, 0),
        **dict.fromkeys(_ABSENT_AT_FIRST),
        **_settings(),
        **_billed_to(customer),
        "account_country": "US",
        "attempted": False,
        "auto_advance": False,
        "billing_reason": "manual",
        "collection_method": "charge_automatically",
        "created": now,
        "currency": currency,
        "default_tax_rates": [],
        "discounts": [],
        "lines": lines,
        "livemode": False,
        "metadata": {},
        "period_end": now,
        "period_start": now,
        "status": "draft",
        "total_discount_amounts": [],
        "total_pretax_credit_amounts": [],
        "total_taxes": [],
    }


def _settings() -> Object:
    """Members that are objects themselves; fresh ones, because invoices change them."""
    return {
        "automatic_tax": {
            "enabled": False,
            "disabled_reason": None,
            "liability": None,
            "provider": None,
            "status": None,
        },
        "issuer": {"type": "self"},
        "payment_settings": {
            "default_mandate": None,
            "payment_method_options": None,
            "payment_method_types": None,
        },
        "status_transitions": {
            "finalized_at": None,
            "marked_uncollectible_at": None,
            "paid_at": None,
            "voided_at": None,
        },
    }


def _billed_to(customer: Object) -> Object:
    """What an invoice copies from its customer when it is made."""
    return {
        "customer": customer["id"],
        "customer_address": customer["address"],
        "customer_email": customer["email"],
        "customer_name": customer["name"],
        "customer_phone": customer["phone"],
        "customer_tax_exempt": customer["tax_exempt"],
        "customer_tax_ids": [],
        "starting_balance": customer["balance"],
    }


def new_line(world: World, invoice: Object, given: Params) -> Object:
    """A line with a plain amount, in the invoice's currency."""
    now = world.clock.now()
    return {
        "id": world.new_id("il"),
        "object": "line_item",
        "amount": given["amount"],
        "currency": invoice["currency"],
        "description": given.get("description"),
        "discount_amounts": [],
        "discountable": given.get("discountable", given["amount"] >= 0),
        "discounts": [],
        "invoice": invoice["id"],
        "livemode": False,
        "metadata": merge_metadata({}, given.get("metadata")),
        "parent": {
            "type": "invoice_item_details",
            "invoice_item_details": {
                "invoice_item": world.new_id("ii"),
                "proration": False,
                "proration_details": None,
                "subscription": None,
            },
            "subscription_item_details": None,
        },
        "period": given.get("period", {"start": now, "end": now}),
        "pretax_credit_amounts": [],
        "pricing": None,
        "quantity": 1,
        "subtotal": given["amount"],
        "taxes": [],
    }
