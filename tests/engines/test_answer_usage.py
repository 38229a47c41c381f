"""Cached tokens that llama.cpp says beside the usage object."""

from __future__ import annotations

import msgspec
import pytest

from billing.engines.answer_usage import with_timings
from billing.engines.usage import read_figures


@pytest.mark.parametrize(
    ("usage", "timings", "cached", "anomalies"),
    [
        ('{"prompt_tokens":11,"completion_tokens":3}', '{"cache_n":4,"prompt_n":7}', 4, ()),
        ('{"prompt_tokens":11,"completion_tokens":3}', '{"cache_n":0}', 0, ()),
        ('{"prompt_tokens":11,"completion_tokens":3}', '{"cache_n":null}', 0, ()),
        ('{"prompt_tokens":11,"completion_tokens":3}', '{"cache_n":"4"}', 0, ()),
        ('{"prompt_tokens":11,"completion_tokens":3}', "[4]", 0, ()),
        (
            '{"prompt_tokens":11,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":2}}',
            '{"cache_n":4}',
            2,
            (),
        ),
        (
            '{"prompt_tokens":11,"completion_tokens":3}',
            '{"cache_n":40}',
            11,
            ("cached_exceeds_prompt",),
        ),
    ],
)
def test_cached_tokens_that_are_said_beside_the_usage_count(usage, timings, cached, anomalies):
    text = with_timings(msgspec.Raw(usage.encode()), msgspec.Raw(timings.encode()))
    figures = read_figures(text, generates=True)
    assert figures is not None
    assert (figures.prompt, figures.cached, figures.completion) == (11, cached, 3)
    assert figures.anomalies == anomalies


@pytest.mark.parametrize("usage", ["{}", "[1]", "7", '"x"'])
def test_what_is_no_usage_object_stays_as_it_is(usage):
    raw = msgspec.Raw(usage.encode())
    assert with_timings(raw, msgspec.Raw(b'{"cache_n":4}')) == raw
