"""The stand-in is strict: a parameter that Stripe would refuse is refused, at any depth."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import stripe

from tests.fake_stripe import FakeStripe, forms, spec

DESCRIPTION = Path(spec.__file__).parent / "spec" / "openapi.subset.json"


def problems(method: str, path: str, form: str) -> list[tuple[str, str]]:
    operation = spec.load().find(method, path)
    assert operation is not None
    _, found = spec.load().check_request(operation, forms.parse(form))
    return [(problem.param, problem.code) for problem in found]


def _objects(schema: Mapping[str, Any], path: str) -> Iterator[str]:
    """Form keys of every object in a request schema whose members are listed."""
    for branch in schema.get("anyOf", ()):
        yield from _objects(branch, path)
    if schema.get("type") == "array":
        yield from _objects(schema["items"], f"{path}[0]")
    if schema.get("type") == "object" and not isinstance(schema.get("additionalProperties"), dict):
        if path:
            yield path
        for name, child in schema.get("properties", {}).items():
            yield from _objects(child, f"{path}[{name}]" if path else name)


def test_every_nested_object_of_every_body_refuses_an_unknown_member() -> None:
    checked = 0
    for template, operations in json.loads(DESCRIPTION.read_text())["paths"].items():
        content = operations.get("post", {}).get("requestBody", {}).get("content", {})
        body = content.get("application/x-www-form-urlencoded")
        if body is None:
            continue
        assert ("nonsense", "parameter_unknown") in problems("POST", template, "nonsense=1")
        for path in _objects(body["schema"], ""):
            unknown = {
                param
                for param, code in problems("POST", template, f"{path}[nonsense]=1")
                if code == "parameter_unknown"
            }
            # A parent is blamed where the SDK has it no longer, or another variant lacks it.
            assert any(f"{path}[nonsense]".startswith(param) for param in unknown)
            checked += 1
    assert checked > 600


@pytest.mark.parametrize(
    ("path", "form", "expected"),
    [
        ("/v1/invoices/in_1/add_lines", "lines[0][amount]=5&lines[0][metadata][any]=1", []),
        (
            "/v1/invoices/in_1/add_lines",
            "lines[0][price_data][currency]=usd&lines[0][price_data][unit_amount_decimal]=1E-7",
            [("lines[0][price_data][unit_amount_decimal]", "parameter_invalid")],
        ),
        (
            "/v1/invoices/in_1/add_lines",
            "lines[0][period][start]=1",
            [("lines[0][period][end]", "parameter_missing")],
        ),
        (
            "/v1/invoices/in_1/add_lines",
            "lines[0][amount]=1.5",
            [("lines[0][amount]", "parameter_invalid_integer")],
        ),
        ("/v1/invoices", "auto_advance=yes", [("auto_advance", "parameter_invalid")]),
        ("/v1/invoices", "currency=USD", [("currency", "parameter_invalid")]),
        (
            "/v1/invoices",
            "custom_fields[0][name]=n&custom_fields[0][value]=" + "v" * 141,
            [("custom_fields[0][value]", "parameter_invalid_string")],
        ),
        ("/v1/invoices", "metadata=", []),
        # What the SDK's version has more, and what it has no longer.
        ("/v1/customers", "validate=true", []),
        ("/v1/customers", "tax_id_data[0][type]=is_kt&tax_id_data[0][value]=1", []),
        ("/v1/customers/cus_1", "default_card=card_1", [("default_card", "parameter_unknown")]),
    ],
)
def test_leaves_are_checked_as_stripe_types(
    path: str, form: str, expected: list[tuple[str, str]]
) -> None:
    assert problems("POST", path, form) == expected


def test_an_unknown_nested_parameter_is_refused_through_the_sdk(
    fake: FakeStripe, client: stripe.StripeClient
) -> None:
    customer = client.v1.customers.create({"name": "Acme"})
    draft = client.v1.invoices.create({"customer": customer.id})
    line: Any = {"amount": 5, "perod": {"start": 1, "end": 2}}
    with pytest.raises(stripe.InvalidRequestError) as caught:
        client.v1.invoices.add_lines(draft.id, {"lines": [line]})
    assert caught.value.param == "lines[0][perod]"
    assert caught.value.code == "parameter_unknown"
    assert fake.invoices()[0]["lines"]["data"] == []


@pytest.mark.parametrize("form", ["a[b=1", "a=1&a[b]=2", "a=1&a=2", "[a]=1"])
def test_a_form_that_contradicts_itself_is_refused(form: str) -> None:
    with pytest.raises(forms.MalformedForm):
        forms.parse(form)


def test_an_answer_with_a_missing_field_is_a_defect_of_the_fake(
    fake: FakeStripe, client: stripe.StripeClient
) -> None:
    client.v1.customers.create({"name": "Acme"})
    operation = spec.load().find("GET", "/v1/customers/cus_1")
    assert operation is not None
    customer = fake.customers()[0]
    spec.load().check_answer(operation, 200, customer)
    without_id = {name: value for name, value in customer.items() if name != "id"}
    for broken in (without_id, {**customer, "nmae": "Acme"}, {**customer, "created": "today"}):
        with pytest.raises(spec.SpecViolation):
            spec.load().check_answer(operation, 200, broken)


def test_leaving_the_fake_raises_when_it_answered_what_stripe_would_not() -> None:
    fake = FakeStripe()
    fake.start()
    operations = stripe.StripeClient("sk_test_x", base_addresses={"api": fake.url})
    customer = operations.v1.customers.create({"name": "Acme"})
    fake._world.customers[customer.id]["balance"] = "much"
    with pytest.raises(stripe.APIError):
        operations.v1.customers.retrieve(customer.id)
    with pytest.raises(spec.SpecViolation, match="balance"):
        fake.stop()


def test_a_parameter_that_the_fake_does_not_model_is_loud() -> None:
    fake = FakeStripe()
    fake.start()
    operations = stripe.StripeClient("sk_test_x", base_addresses={"api": fake.url})
    with pytest.raises(stripe.APIError):
        operations.v1.customers.create({"name": "Acme", "next_invoice_sequence": 7})
    with pytest.raises(spec.SpecViolation, match="next_invoice_sequence"):
        fake.stop()
