"""Every engine's answers, as they come over the wire, against what they cost.

A vector's file is named by engine, version and case. An answer names no service tier that is
billed where no `tier` is expected. `shown` is what a client gets; of a stream
that is cut, what it has got until then.
"""

from __future__ import annotations

import json
from collections import Counter

import pytest

from billing.engines.capabilities import ENGINES
from billing.engines.engine_request import upstream_body
from billing.engines.whole_answer import read_whole
from billing.metering.token_class import TokenCounts
from tests.engines.golden import FOLDER, STREAMS, VECTORS, WHOLE, Vector


def named(vector: Vector) -> str:
    return vector.name


@pytest.mark.parametrize("vector", STREAMS, ids=named)
def test_streams(vector):
    reading = vector.reading()
    shown = reading.feed(vector.wire)
    expected = vector.expected
    cut = expected["ending"] is None
    if not cut:
        shown += reading.finish() + reading.held()
    mark = reading.passed if cut else reading.mark
    assert mark.counts() == TokenCounts(**expected["counts"])
    assert reading.raw() == expected["raw"]
    assert reading.exact is expected["exact"]
    assert sorted(reading.anomalies) == expected["anomalies"]
    assert list(reading.object_ids) == expected["object_ids"]
    assert reading.tier == expected.get("tier", "")
    assert shown == vector.shown
    assert (reading.ending and reading.ending.name) == expected["ending"]


@pytest.mark.parametrize("vector", WHOLE, ids=named)
def test_whole_answers(vector):
    reading = read_whole(
        vector.wire,
        route=vector.route,
        engine=vector.engine,
        request=vector.request,
        prompt_floor=vector.prompt_floor,
    )
    expected = vector.expected
    assert reading.counts == TokenCounts(**expected["counts"])
    assert {meter.value: count for meter, count in reading.units.items()} == expected["units"]
    assert reading.raw == expected["raw"]
    assert reading.exact is expected["exact"]
    assert list(reading.anomalies) == expected["anomalies"]
    assert list(reading.object_ids) == expected["object_ids"]
    assert reading.tier == expected.get("tier", "")
    assert (vector.wire if reading.shown is None else reading.shown) == vector.shown


@pytest.mark.parametrize("vector", VECTORS, ids=named)
def test_its_request_is_one_that_the_engine_gets(vector):
    """Only a stream of chunks is asked for usage, and nothing else is added."""
    sent = json.loads(upstream_body(vector.request, vector.engine, upstream_model=None))
    sent.pop("stream_options", None)
    sent.pop("store", None)
    asked = json.loads((FOLDER / f"{vector.name}.json").read_text(encoding="utf-8"))["request"]
    asked.pop("stream_options", None)
    assert sent == asked


def test_no_engine_is_without_its_four_cases():
    found = Counter(
        (vector.engine.engine, case)
        for vector in VECTORS
        for case in ("whole", "asked", "not-asked", "cut")
        if vector.name.endswith(case)
    )
    for engine in ENGINES:
        cases = {"whole", "asked", "not-asked", "cut"}
        if engine == "anthropic":
            cases.discard("not-asked")  # its streams always say their usage
        assert not {case for case in cases if not found[engine, case]}, engine


def test_of_every_engine_it_is_known_whether_its_answers_tell_the_tier_that_served():
    named = {
        vector.engine.engine: vector.expected["tier"]
        for vector in VECTORS
        if vector.name.endswith("-tier-named") and b'"priority"' in vector.wire
    }
    assert {engine for engine, tier in named.items() if tier == "priority"} == {
        "generic",
        "openai",
        "anthropic",
    }
    assert named.keys() == ENGINES.keys()


def test_classes_are_disjoint_and_sum_to_the_engines_totals():
    """Of what is expected; that it is what is read, the tests above hold."""
    held = set[str]()
    for vector in VECTORS:
        counts, raw = vector.expected["counts"], vector.expected["raw"]
        total = raw.get("total_tokens")
        if total is None or not vector.expected["exact"]:
            continue
        assert sum(counts.values()) - counts.get("reasoning", 0) == total, vector.name
        held |= {name for name, count in counts.items() if count}
        held |= {path for path, count in raw.items() if count}
    assert held >= {"cached_input", "reasoning", "prompt_tokens_details.image_tokens"}
