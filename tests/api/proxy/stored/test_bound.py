"""What a request with stored objects can come to: more than its body shows (L6)."""

from __future__ import annotations

import json

import pytest

from api.proxy.holds import size_of
from billing.admission.amounts import Rates
from billing.admission.backend import Backend, ServedModel
from billing.admission.bound import STORED_TOKENS, bound_of
from billing.admission.route import Route
from billing.engines.read_request import read_request
from billing.metering.token_class import TokenClass

STORED = {
    "response": {"previous_response_id": "resp_1", "input": "hi"},
    "file": {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "file-1"}]}]},
}


@pytest.mark.parametrize("context", [None, 8_192])
@pytest.mark.parametrize("named", STORED)
def test_L6_a_stored_prompt_is_held_for_by_what_the_model_can_take(named, context):
    backend = Backend(name="a", base_url="http://x")
    model = ServedModel(
        id=1, name="tiny", backends=(backend,), classes=frozenset(TokenClass), context=context
    )
    body = json.dumps({"model": "tiny", **STORED[named]}).encode()
    size = size_of(read_request(body, Route.RESPONSES))
    rates = Rates(input=1, cached_input=1, output=1)
    assert bound_of(rates, model, size).prompt_tokens == (context or STORED_TOKENS)
    plain = json.dumps({"model": "tiny", "input": "hi"}).encode()
    alone = size_of(read_request(plain, Route.RESPONSES))
    assert bound_of(rates, model, alone).prompt_tokens < 1_000
