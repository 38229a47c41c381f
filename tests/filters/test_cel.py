"""Filters in CEL: what they say about events, and what is refused before one is seen."""

from __future__ import annotations

from decimal import Decimal

import pytest

from billing.errors import InvalidInput
from billing.filters.cel import DEPTH_MAX, LENGTH_MAX, NODES_MAX, compile_filter

EVENT = {
    "region": "eu",
    "tokens": 900,
    "price": Decimal("0.10"),
    "cached": True,
    "tags": ["a", "b"],
    "run": {"id": "r-1"},
    "huge": 10**30,
    "nothing": None,
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('data.region == "eu"', True),
        ("data.region == 'us' || data.tokens >= 900", True),
        ("data.tokens > 900", False),
        ("!(data.cached) || type == 'other'", False),
        ("type == 'llm.request' && data.run.id.startsWith('r-')", True),
        ("data.region in ['eu', 'us']", True),
        ("'b' in data.tags", True),
        ("size(data.region) == 2", True),
        ("has(data.missing) && data.missing == 1", False),
        ('data.price == "0.1"', True),
        ("data.huge == '1000000000000000000000000000000'", True),
        ("data.nothing == null", True),
        ("data.tokens % 2 == 0 ? data.cached : false", True),
        ("data.tokens == 9223372036854775807", False),
    ],
)
def test_an_expression_says_what_it_reads(text: str, expected: bool) -> None:
    assert compile_filter(text).matches("llm.request", EVENT) is expected


@pytest.mark.parametrize(
    ("text", "about"),
    [
        ("data.size > 0.5", "line 1, column 13"),
        ("data.size >\n 1e3", "line 2, column 2"),
        ("1. == data.size", "binary float"),
        ("double(data.tokens) == double(1)", "line 1, column 1"),
        ("data.tags.all(t, t == 'a')", "line 1, column 11"),
        ("data.tags.exists(t, t == 'a')", "no such function"),
        ("data.tags.map(t, t)", "no such function"),
        ("data.region.matches('(a+)+$')", "no such function"),
        ("timestamp('2026-01-01T00:00:00Z') == data.at", "no such function"),
        ("{'a': 1} == data.run", "cannot be built"),
        ("b'eu' == data.region", "bytes"),
        ("data.tokens == 9223372036854775808", "64 bits"),
        ("data.tokens ==", "not a CEL expression"),
        ("", "empty"),
        ("(" * (DEPTH_MAX + 1) + "true" + ")" * (DEPTH_MAX + 1), "too deeply"),
        ("!" * 100 + "data.cached", "too deeply"),
        ("data" + ".a" * 100 + " == 1", "too deeply"),
        ("data.tokens == " + "1" * LENGTH_MAX, "too long"),
    ],
)
def test_an_expression_that_is_unbounded_or_inexact_is_refused(text: str, about: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        compile_filter(text)
    assert refused.value.field == "filter"
    assert about in str(refused.value)


def test_the_number_of_nodes_bounds_an_evaluation() -> None:
    listed = "data.tokens in [{}]"
    assert compile_filter(listed.format(",".join(["900"] * 200))).matches("t", EVENT)
    with pytest.raises(InvalidInput, match="too many operators"):
        compile_filter(listed.format(",".join(["9"] * (NODES_MAX + 1))))


@pytest.mark.parametrize(
    "text", ["data.missing == 1", "data.region > 3", "data.tokens / 0 == 1", "data.tags[9] == 'e'"]
)
def test_an_event_that_a_filter_cannot_judge_is_no_silent_mismatch(text: str) -> None:
    with pytest.raises(InvalidInput, match="cannot be evaluated") as refused:
        compile_filter(text).matches("t", EVENT)
    assert "eu" not in str(refused.value)


def test_an_expression_has_to_be_true_or_false() -> None:
    with pytest.raises(InvalidInput, match="neither true nor false"):
        compile_filter("data.tokens").matches("t", EVENT)


def test_the_same_text_is_compiled_once() -> None:
    assert compile_filter("data.tokens > 1") is compile_filter("data.tokens > 1")
