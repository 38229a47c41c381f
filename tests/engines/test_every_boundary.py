"""Streams of every engine, cut after every byte: what may have left, and what it costs."""

from __future__ import annotations

import json

import pytest

from billing.engines.mark import NOTHING
from tests.engines.golden import STREAMS, Vector


def named(vector: Vector) -> str:
    return vector.name


def content_events(shown: bytes) -> int:
    """Whole events with generated text, reasoning or arguments: at least so many tokens."""
    found = 0
    for event in shown.decode("utf-8", "replace").split("\n\n")[:-1]:
        data = "".join(line[6:] for line in event.split("\n") if line.startswith("data: "))
        try:
            payload = json.loads(data)
        except ValueError:
            continue
        delta = payload.get("delta")
        if str(payload.get("type", "")).startswith("response.") and isinstance(delta, str):
            found += bool(delta)
        elif payload.get("type") == "content_block_delta":
            found += any(delta.get(name) for name in ("text", "thinking", "partial_json"))
        for choice in payload.get("choices") or ():
            found += bool(choice["delta"].get("content"))
    return found


@pytest.mark.parametrize("vector", STREAMS, ids=named)
def test_bill_follows_what_left_at_every_byte(vector):
    reading = vector.reading()
    shown, before = b"", NOTHING
    for at in range(len(vector.wire)):
        shown += reading.feed(vector.wire[at : at + 1])
        passed = reading.passed
        assert vector.shown.startswith(shown)
        if b'"type":"message_delta"' in shown:
            assert passed.completion == vector.expected["counts"]["output"]
        else:
            assert passed.completion == content_events(shown)
        assert all(new >= old for new, old in zip(passed, before, strict=True) if old)
        if not shown:
            assert passed == NOTHING
        before = passed
        if reading.ending is not None:
            assert reading.holding
    assert before.prompt <= reading.mark.prompt
    assert before.completion <= reading.mark.completion


@pytest.mark.parametrize("vector", STREAMS, ids=named)
def test_tearing_changes_neither_bytes_nor_counts(vector):
    whole = vector.reading()
    expected = whole.feed(vector.wire) + whole.finish() + whole.held()
    for size in (1, 2, 3, 5, 64, 1_000):
        torn = vector.reading()
        pieces = [vector.wire[at : at + size] for at in range(0, len(vector.wire), size)]
        got = b"".join(torn.feed(piece) for piece in pieces) + torn.finish() + torn.held()
        assert got == expected
        assert (torn.mark, torn.passed, torn.exact) == (whole.mark, whole.passed, whole.exact)
        assert (torn.raw(), torn.ending) == (whole.raw(), whole.ending)
        assert torn.anomalies == whole.anomalies


@pytest.mark.parametrize("vector", [each for each in STREAMS if each.expected["ending"]], ids=named)
def test_the_end_never_leaves_by_itself(vector):
    """Whatever the tearing, the event that ends a stream waits for its record."""
    reading = vector.reading()
    let_out = b"".join(reading.feed(vector.wire[at : at + 1]) for at in range(len(vector.wire)))
    let_out += reading.finish()
    end = reading.held()
    assert end
    assert let_out + end == vector.shown
    assert b"[DONE]" not in let_out
    for last in (b'"message_stop"', b'"response.completed"', b'"error":', b'"type":"error"'):
        assert last not in let_out
