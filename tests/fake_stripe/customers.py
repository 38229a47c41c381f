"""Customers: create, retrieve, update, list, and the balance that small invoices leave behind."""

from __future__ import annotations

from typing import Any

from tests.fake_stripe.failures import missing
from tests.fake_stripe.listing import created_within, page
from tests.fake_stripe.world import Object, Params, World, merge_metadata

#: Parameters that this fake gives a meaning to; others are refused, not ignored.
WRITABLE = frozenset({"address", "description", "email", "metadata", "name", "phone", "tax_exempt"})
LISTABLE = frozenset({"created", "email", "ending_before", "limit", "starting_after"})


def find(world: World, customer_id: str) -> Object:
    if customer_id not in world.customers:
        raise missing("customer", customer_id, "customer")
    return world.customers[customer_id]


def create(world: World, params: Params) -> Object:
    customer: Object = {
        "id": world.new_id("cus"),
        "object": "customer",
        "address": None,
        "balance": 0,
        "created": world.clock.now(),
        "currency": None,
        "default_source": None,
        "delinquent": False,
        "description": None,
        "discount": None,
        "email": None,
        "invoice_prefix": f"FAKE{len(world.customers) + 1:04d}",
        "invoice_settings": {
            "custom_fields": None,
            "default_payment_method": None,
            "footer": None,
            "rendering_options": None,
        },
        "livemode": False,
        "metadata": {},
        "name": None,
        "next_invoice_sequence": 1,
        "phone": None,
        "preferred_locales": [],
        "shipping": None,
        "tax_exempt": "none",
        "test_clock": None,
    }
    _write(customer, params)
    world.customers[customer["id"]] = customer
    world.emit("customer.created", customer)
    return customer


def update(world: World, customer_id: str, params: Params) -> Object:
    customer = find(world, customer_id)
    _write(customer, params)
    world.emit("customer.updated", customer)
    return customer


def listed(world: World, params: Params) -> Object:
    matching = [
        customer
        for customer in created_within(world.customers.values(), params.get("created"))
        if params.get("email") in {None, customer["email"]}
    ]
    return page(matching[::-1], params, "/v1/customers")


def _write(customer: Object, params: Params) -> None:
    metadata = merge_metadata(customer["metadata"], params.get("metadata"))
    plain: dict[str, Any] = {name: text or None for name, text in params.items()}
    customer.update(plain)
    customer["metadata"] = metadata
