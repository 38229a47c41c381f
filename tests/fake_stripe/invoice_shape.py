"""Fresh invoices and lines with every field that Stripe's description requires."""

from __future__ import annotations

from tests.fake_stripe.world import Object, Params, World, merge_metadata

DAY_S = 24 * 3600


def new_invoice(world: World, customer: Object, currency: str) -> Object:
    """An empty draft of the customer; the caller writes the request's parameters into it."""
    invoice_id, now = world.new_id("in"), world.clock.now()
    amounts = dict.fromkeys(
        (
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
        ),
        0,
    )
    absent = dict.fromkeys(
        (
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
    )
    lines: Object = {
        "object": "list",
        "data": [],
        "has_more": False,
        "url": f"/v1/invoices/{invoice_id}/lines",
    }
    return {
        "id": invoice_id,
        "object": "invoice",
        **amounts,
        **absent,
        "account_country": "US",
        "attempted": False,
        "auto_advance": False,
        "automatic_tax": {
            "enabled": False,
            "disabled_reason": None,
            "liability": None,
            "provider": None,
            "status": None,
        },
        "billing_reason": "manual",
        "collection_method": "charge_automatically",
        "created": now,
        "currency": currency,
        "customer": customer["id"],
        "customer_address": customer["address"],
        "customer_email": customer["email"],
        "customer_name": customer["name"],
        "customer_phone": customer["phone"],
        "customer_tax_exempt": customer["tax_exempt"],
        "customer_tax_ids": [],
        "default_tax_rates": [],
        "discounts": [],
        "issuer": {"type": "self"},
        "lines": lines,
        "livemode": False,
        "metadata": {},
        "payment_settings": {
            "default_mandate": None,
            "payment_method_options": None,
            "payment_method_types": None,
        },
        "period_end": now,
        "period_start": now,
        "starting_balance": customer["balance"],
        "status": "draft",
        "status_transitions": {
            "finalized_at": None,
            "marked_uncollectible_at": None,
            "paid_at": None,
            "voided_at": None,
        },
        "total_discount_amounts": [],
        "total_pretax_credit_amounts": [],
        "total_taxes": [],
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
