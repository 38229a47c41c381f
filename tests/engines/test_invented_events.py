"""Streams of Messages and Responses made up at random, against a plain account of their cost."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass

import pytest

from billing.admission.route import Route
from billing.engines.capabilities import engine_named
from billing.engines.mark import NOTHING, Ending, Mark
from billing.engines.read_request import read_request
from billing.engines.reading import StreamReading, stream_reading

ENGINES = {
    Route.MESSAGES: ("anthropic", "vllm", "sglang", "dynamo", "llama_cpp"),
    Route.RESPONSES: ("openai", "vllm", "sglang", "tensorrt_llm", "transformers", "dynamo"),
}
TEXTS = ('"a"', r'"\ud83d"', '"ü"', '"NaN"')  # one is half a pair of UTF-16
ODD = ("", ',"logprobs":[NaN,-Infinity]', r',"obfuscation":"\udc00"')
PIECES = (("text_delta", "text"), ("thinking_delta", "thinking"), ("input_json", "partial_json"))
KINDS = ("output_text", "reasoning_text", "function_call_arguments", "refusal")
STREAMS = 250


@dataclass(frozen=True, slots=True)
class Told:
    """An event, what the stream costs with it, and how it ends it, if it does."""

    text: str
    cost: Mark
    ending: Ending | None = None


def message(rng: random.Random, floor: int) -> list[Told]:
    fresh, read, new = rng.randint(1, 300), rng.randint(0, 200), rng.randint(0, 200)
    usage = {"input_tokens": fresh, "cache_read_input_tokens": read}
    usage["cache_creation_input_tokens"] = new
    whole = Mark(prompt=fresh + read + new, cached=read, cache_write=new)
    at_start = rng.random() < 0.7
    said = usage | {"output_tokens": 3} if at_start else {}
    cost, pieces = whole if at_start else NOTHING, 0
    start = json.dumps({"type": "message_start", "message": {"usage": said}})
    told = [Told(start, cost)]
    for _ in range(rng.randint(0, 8)):
        if rng.random() < 0.3:
            told.append(Told('{"type":"ping"}', cost))
            continue
        pieces += 1
        cost = (cost if at_start else Mark(prompt=floor))._replace(completion=pieces)
        kind, member = rng.choice(PIECES)
        delta = f'{{"type":"{kind}","{member}":{rng.choice(TEXTS)}}}'
        odd = rng.choice(ODD)
        told.append(Told(f'{{"type":"content_block_delta","delta":{delta}{odd}}}', cost))
    if rng.random() < 0.3:
        error = '{"error":{"message":"x"},"type":"error"}'
        return [*told, Told(error, cost, Ending.ERROR)]
    output = rng.randint(1, 12)
    last = {"type": "message_delta", "usage": {"output_tokens": output}}
    if not at_start or rng.random() < 0.5:
        last["usage"] = usage | {"output_tokens": output}
    cost = whole._replace(completion=output)
    told.append(Told(json.dumps(last), cost))
    return [*told, Told('{"type":"message_stop"}', cost, Ending.DONE)]


def response(rng: random.Random, floor: int) -> list[Told]:
    cost, pieces = NOTHING, 0
    told = [Told('{"type":"response.created","response":{"id":"r","usage":null}}', cost)]
    for _ in range(rng.randint(0, 8)):
        if rng.random() < 0.3:
            told.append(Told('{"type":"response.output_text.delta","delta":""}', cost))
            continue
        pieces += 1
        cost = Mark(prompt=floor, completion=pieces)
        kind, text, odd = rng.choice(KINDS), rng.choice(TEXTS), rng.choice(ODD)
        told.append(Told(f'{{"type":"response.{kind}.delta","delta":{text}{odd}}}', cost))
    if rng.random() < 0.3:
        failed = '{"type":"response.failed","response":{"id":"r","usage":null}}'
        return [*told, Told(failed, cost, Ending.ERROR)]
    prompt, output = rng.randint(1, 300), rng.randint(1, 12)
    cached = rng.randint(0, prompt)
    counts = {"input_tokens": prompt, "output_tokens": output, "total_tokens": prompt + output}
    usage = {**counts, "input_tokens_details": {"cached_tokens": cached}}
    outcome = rng.choice(["completed", "incomplete", "failed", "cancelled"])
    name, odd = rng.choice(['"r"', "null"]), rng.choice(ODD)
    body = f'{{"id":{name},"usage":{json.dumps(usage)}{odd}}}'
    cost = Mark(prompt=prompt, cached=cached, completion=output)
    last = f'{{"type":"response.{outcome}","response":{body}}}'
    return [*told, Told(last, cost, Ending.DONE)]


def on_the_wire(rng: random.Random, told: Told) -> bytes:
    end = rng.choice(["\n", "\r\n"])
    lines = told.text.replace(',"', ',\n"').split("\n") if rng.random() < 0.3 else [told.text]
    name = rng.choice(["", f"event: x{end}", f": a comment{end}"])
    return (name + "".join(f"data: {line}{end}" for line in lines) + end).encode()


def reading_for(route: Route, engine: str, floor: int) -> StreamReading:
    body = {"model": "m", "stream": True, "max_tokens": 9, "messages": []}
    if route is Route.RESPONSES:
        body = {"model": "m", "stream": True, "input": "x"}
    request = read_request(json.dumps(body).encode(), route)
    return stream_reading(route, engine_named(engine), request, prompt_floor=floor)


@pytest.mark.parametrize("route", ENGINES)
def test_every_boundary_costs_what_has_left(route):
    for seed in range(STREAMS):
        rng = random.Random(f"{route.value} {seed}")
        engine, floor = rng.choice(ENGINES[route]), rng.randint(0, 9)
        told = (message if route is Route.MESSAGES else response)(rng, floor)
        wire = [on_the_wire(rng, each) for each in told]
        reading, before = reading_for(route, engine, floor), NOTHING
        for each, text in zip(told, wire, strict=True):
            shown = reading.feed(text)
            assert reading.ending is each.ending, seed
            assert shown == (b"" if each.ending else text), seed
            assert reading.passed == (before if each.ending else each.cost), seed
            assert reading.mark == each.cost, seed
            before = each.cost
        assert reading.held() == wire[-1]
        assert reading.exact is (told[-1].ending is Ending.DONE), seed
        size, torn, whole = rng.randint(1, 60), reading_for(route, engine, floor), b"".join(wire)
        got = b"".join(torn.feed(whole[at : at + size]) for at in range(0, len(whole), size))
        assert got + torn.finish() + torn.held() == whole
        assert (torn.mark, torn.exact, torn.raw()) == (reading.mark, reading.exact, reading.raw())
