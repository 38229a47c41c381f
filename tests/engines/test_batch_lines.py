"""Lines of result files, in the shapes of the backends that run batches."""

from __future__ import annotations

import json
from typing import Any

import pytest

from billing.admission.route import Route
from billing.engines import batch_lines
from billing.engines.batch_input import BATCH_ROUTES
from billing.engines.batch_lines import (
    Answered,
    Failed,
    Unreadable,
    batch_route,
    read_batch,
    read_batch_line,
)
from billing.engines.batch_status import Outcome, read_batch_status
from billing.errors import UpstreamError
from billing.metering.token_class import TokenCounts
from billing.metering.unit_meter import UnitMeter
from tests.engines.golden import WHOLE, Vector
from tests.fake_engine.batch_shapes import answered_line, failed_line, unbegun_line

CHAT = Route.CHAT_COMPLETIONS
OPENAI = (
    b'{"id": "batch_req_67", "custom_id": "request-2", "response": {"status_code": 200, '
    b'"request_id": "req_123", "body": {"id": "chatcmpl-123", "object": "chat.completion", '
    b'"created": 1711652795, "model": "gpt-4o-mini-2024-07-18", "choices": [{"index": 0, '
    b'"message": {"role": "assistant", "content": "Hello."}, "logprobs": null, '
    b'"finish_reason": "stop"}], "usage": {"prompt_tokens": 22, "completion_tokens": 2, '
    b'"total_tokens": 24, "prompt_tokens_details": {"cached_tokens": 16}, '
    b'"completion_tokens_details": {"reasoning_tokens": 1}}, "system_fingerprint": "fp_1"}}, '
    b'"error": null}'
)
VLLM = (
    b'{"id":"vllm-383d1c59","custom_id":"request-1","response":{"status_code":200,"request_id":'
    b'"vllm-batch-8a2b","body":{"id":"chatcmpl-9","object":"chat.completion","created":1733000000,'
    b'"model":"meta-llama/Meta-Llama-3-8B-Instruct","choices":[],"usage":{"prompt_tokens":25,'
    b'"total_tokens":250,"completion_tokens":225,"prompt_tokens_details":null}}},"error":null}'
)
VLLM_EMBEDDING = (
    b'{"id":"vllm-1","custom_id":"e","response":{"status_code":200,"request_id":"r","body":{"id":'
    b'"embd-1","object":"list","created":1,"model":"e5","data":[{"index":0,"object":"embedding",'
    b'"embedding":[0.1]}],"usage":{"prompt_tokens":6,"total_tokens":6,"completion_tokens":0}}},'
    b'"error":null}'
)
RESPONSE = (
    b'{"id":"b","custom_id":"r","response":{"status_code":200,"body":{"id":"resp_1","object":'
    b'"response","model":"m","usage":{"input_tokens":9,"input_tokens_details":{"cached_tokens":4},'
    b'"output_tokens":3,"output_tokens_details":{"reasoning_tokens":2},"total_tokens":12}}},'
    b'"error":null}'
)


@pytest.mark.parametrize(
    ("line", "route", "custom_id", "model", "counts"),
    [
        (
            OPENAI, CHAT, "request-2", "gpt-4o-mini-2024-07-18",
            TokenCounts(input=6, cached_input=16, output=2, reasoning=1),
        ),
        (
            VLLM, CHAT, "request-1", "meta-llama/Meta-Llama-3-8B-Instruct",
            TokenCounts(input=25, output=225),
        ),
        (VLLM_EMBEDDING, Route.EMBEDDINGS, "e", "e5", TokenCounts(input=6)),
        (
            RESPONSE, Route.RESPONSES, "r", "m",
            TokenCounts(input=5, cached_input=4, output=3, reasoning=2),
        ),
    ],
    ids=["openai", "vllm", "vllm-embedding", "openai-response"],
)  # fmt: skip
def test_answers_cost_what_they_say(
    line: bytes, route: Route, custom_id: str, model: str, counts: TokenCounts
) -> None:
    read = read_batch_line(line, route=route)
    assert isinstance(read, Answered)
    assert (read.custom_id, read.model) == (custom_id, model)
    assert read.reading.counts == counts
    assert read.reading.exact
    assert not read.reading.anomalies


@pytest.mark.parametrize(
    "vector",
    [v for v in WHOLE if v.route in BATCH_ROUTES and v.wire.startswith(b"{")],
    ids=lambda vector: vector.name,
)
def test_a_line_costs_what_its_answer_costs_alone(vector: Vector) -> None:
    line = b'{"custom_id": "a", "response": {"status_code": 200, "body": %b}}' % vector.wire
    read = read_batch_line(line, route=vector.route)
    assert isinstance(read, Answered)
    assert read.reading.counts == TokenCounts(**vector.expected["counts"])
    assert read.reading.raw == vector.expected["raw"]
    assert read.reading.exact is vector.expected["exact"]


@pytest.mark.parametrize(
    "line", [failed_line("a"), failed_line("a", status=500), unbegun_line("a")]
)
def test_failed_lines_cost_nothing(line: dict[str, Any]) -> None:
    assert read_batch_line(json.dumps(line).encode(), route=CHAT) == Failed()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"what?", "not_json"),
        (b"[]", "not_json"),
        (b'{"custom_id": "\xff"}', "not_json"),
        (b"[" * 100_000, "not_json"),
        (b"{}", "no_response"),
        (b'{"custom_id": "a", "response": null, "error": null}', "no_response"),
        (b'{"custom_id": "a", "response": {"body": {}}}', "no_status"),
        (b'{"custom_id": "a", "response": {"status_code": 200, "body": 1}}', "no_response"),
        (b'{"response": {"status_code": 200, "body": {}}}', "no_custom_id"),
        (b'{"custom_id": 7, "response": {"status_code": 200, "body": {}}}', "no_custom_id"),
    ],
)
def test_what_cannot_be_read_is_said_to_be_unreadable(line: bytes, reason: str) -> None:
    assert read_batch_line(line, route=CHAT) == Unreadable(reason)


def test_an_answer_without_usage_is_a_flagged_lower_bound() -> None:
    line = answered_line("a")
    del line["response"]["body"]["usage"]
    read = read_batch_line(json.dumps(line).encode(), route=CHAT)
    assert isinstance(read, Answered)
    assert not read.reading.exact
    assert read.reading.counts.is_zero
    assert read.reading.anomalies == ("usage_missing",)


def test_a_search_is_counted_beside_its_tokens() -> None:
    body = {"model": "r", "results": [], "usage": {"total_tokens": 7}}
    line = {"custom_id": "a", "response": {"status_code": 200, "body": body}, "error": None}
    read = read_batch_line(json.dumps(line).encode(), route=Route.RERANK)
    assert isinstance(read, Answered)
    assert read.reading.counts == TokenCounts(input=7)
    assert read.reading.units == {UnitMeter.SEARCHES: 1}


@pytest.mark.parametrize("size", [1, 2, 7, 64, 1 << 20])
def test_files_are_the_same_however_they_are_cut(size: int) -> None:
    file = b"\r\n".join([OPENAI, b"", VLLM, b"no", b"  ", json.dumps(unbegun_line("x")).encode()])
    pieces = [file[start : start + size] for start in range(0, len(file), size)]
    kinds = [type(line) for line in read_batch(pieces, route=CHAT)]
    assert kinds == [Answered, Answered, Unreadable, Failed]
    assert len(list(read_batch(pieces, route=CHAT, passed=3))) == 1
    assert list(read_batch(pieces, route=CHAT, passed=4)) == []


def test_a_line_without_end_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_lines, "LINE_BYTES_MAX", len(OPENAI))
    pieces = [b"x" * 100] * 20 + [b"\n", OPENAI, b"\n", OPENAI + b" \n"]
    read = list(read_batch(pieces, route=CHAT))
    assert [type(line) for line in read] == [Unreadable, Answered, Unreadable]
    assert read[0] == read[2] == Unreadable("too_long")


def test_a_model_that_no_ledger_keeps_is_unnamed() -> None:
    for model in ("", "m" * 257, "a\0b", 7, None):
        line = answered_line("a")
        line["response"]["body"]["model"] = model
        read = read_batch_line(json.dumps(line).encode(), route=CHAT)
        assert isinstance(read, Answered)
        assert read.model is None


def test_only_routes_whose_answers_say_their_cost_can_be_batched() -> None:
    assert batch_route("/v1/chat/completions") is CHAT
    for endpoint in ("/v1/audio/speech", "/v1/messages/count_tokens", "/v1/nothing", ""):
        assert batch_route(endpoint) is None


@pytest.mark.parametrize("outcome", list(Outcome))
def test_a_batch_is_over_in_four_ways(outcome: Outcome) -> None:
    body = {
        "status": outcome.value,
        f"{outcome.value}_at": 1_794_700_000,
        "output_file_id": "file-1",
        "request_counts": {"total": 3, "completed": 2, "failed": 1},
    }
    status = read_batch_status(json.dumps(body).encode())
    assert status.outcome is outcome
    assert status.ended_at is not None
    assert status.ended_at.timestamp() == 1_794_700_000
    assert (status.output_file_id, status.error_file_id) == ("file-1", None)
    assert (status.requests, status.answered) == (3, 2)


@pytest.mark.parametrize(
    "state", ["validating", "in_progress", "finalizing", "cancelling", "something"]
)
def test_until_then_it_goes_on(state: str) -> None:
    assert read_batch_status(json.dumps({"status": state}).encode()).outcome is None


def test_what_a_backend_does_not_say_is_not_known() -> None:
    body = b'{"status": "completed", "completed_at": -5, "request_counts": {"total": "many"}}'
    status = read_batch_status(body)
    assert (status.ended_at, status.requests, status.answered) == (None, None, None)
    for other in (b"", b"[]", b'{"status": 1}', b'{"error": {"message": "no"}}'):
        with pytest.raises(UpstreamError):
            read_batch_status(other)
