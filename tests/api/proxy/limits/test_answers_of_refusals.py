"""What the clients of every route read of a limit, before an answer and in the middle of one."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

import openai
import pytest

from api.proxy.limit_errors import HoldsUnavailable, LimitReached, credit_limit
from api.proxy.stream_errors import error_event
from billing.admission.amounts import PICO
from billing.admission.limit import Limit, Unit, Window
from billing.admission.route import Dialect, ErrorShape, Route
from billing.admission.terms import AdmissionPolicy, HoldSize
from tests.api.proxy.conftest import KEY, until
from tests.api.proxy.endpoints.asks import ASKS, CHAT_STREAM, Ask, body, chunk, counted
from tests.api.proxy.limits.conftest import LimitedYards, limit_of
from tests.fake_engine.shapes import Behaviour

LIKELY = AdmissionPolicy(hold_size=HoldSize.LIKELY)
BY_NAME = pytest.mark.parametrize("ask", ASKS, ids=lambda ask: ask.name)
RATE = ("requests", "rate_limit_error"), "rate_limit_exceeded"
QUOTA = ("insufficient_quota", "billing_error"), "insufficient_quota"
LIMITS = (
    (limit_of(10**15, Unit.REQUESTS, Window.MINUTE), 429, *RATE),
    (limit_of(10**15, Unit.REQUESTS, Window.DAY), 429, *RATE),
    (limit_of(10**21, Unit.MONEY, Window.MONTH), 402, *QUOTA),
)
RESETS_US = 1_800_000_000_000_000


@BY_NAME
async def test_429_and_402_in_the_words_of_every_route(limited_desk, ask: Ask) -> None:
    for limit, status, kinds, code in LIMITS:
        if limit.unit is Unit.MONEY and ask.route is Route.COUNT_TOKENS:
            continue  # it costs nothing
        desk = await limited_desk(limit)
        (lease,) = desk.holds.book.leases.values()
        lease.drawn = lease.granted
        answer = await desk.ask(ask)
        assert answer.status_code == status, answer.text
        assert desk.engine.seen == []
        error = answer.json()["error"]
        if ask.route.spec.errors is ErrorShape.ANTHROPIC:
            assert answer.json()["type"] == "error"
            assert answer.json()["request_id"] == answer.headers["x-steelyard-request-id"]
            assert set(error) == {"type", "message", "limit"}
            assert error["type"] == kinds[1]
        else:
            assert set(error) == {"message", "type", "param", "code", "limit"}
            assert (error["type"], error["code"]) == (kinds[0], code)
        assert error["limit"]["name"] == "budget"
        assert error["limit"]["unit"] == limit.unit.value
        assert error["limit"]["window"] == limit.window.value
        assert error["limit"]["used"] in {str(10**15), "1000000000.00"}
        assert error["limit"]["limit"] == error["limit"]["used"]
        assert error["limit"]["resets_at"].endswith("Z")
        assert int(answer.headers["retry-after"]) >= 1
        minute = limit.window is Window.MINUTE
        assert ("x-ratelimit-limit-requests" in answer.headers) == minute
        if minute:
            assert answer.headers["x-ratelimit-remaining-requests"] == "0"
            assert answer.headers["x-ratelimit-reset-requests"].endswith("s")
        told = anthropic_headers(answer)
        if minute and ask.route.spec.errors is ErrorShape.ANTHROPIC:
            assert told == {
                "requests-limit": str(10**15),
                "requests-remaining": "0",
                "requests-reset": error["limit"]["resets_at"],
            }
        else:
            assert told == {}


@pytest.mark.parametrize(
    ("limit", "helps"),
    [
        (limit_of(1, Unit.TOKENS, Window.DAY), "Retry after it resets, or ask the operator"),
        (limit_of(1, Unit.TOKENS), "It does not reset: ask the operator"),
        (limit_of(1, Unit.SLOTS), "Retry when a running request has ended"),
        (credit_limit(1, "USD"), "Add credit."),
    ],
)
def test_only_what_begins_again_is_said_to_reset(limit: Limit, helps: str) -> None:
    resets_us = None if limit.window is Window.NONE else RESETS_US
    reached = LimitReached(limit, used=1, capacity=1, resets_us=resets_us, now_us=RESETS_US - 1)
    assert reached.remedy is not None
    assert reached.remedy.startswith(helps)


async def test_what_can_never_fit_is_told_so_and_not_to_wait(limited_desk) -> None:
    ask = next(ask for ask in ASKS if ask.route is Route.CHAT_COMPLETIONS)
    desk = await limited_desk(limit_of(1000, Unit.TOKENS, Window.MINUTE))
    answer = await desk.ask(ask, body(ask.route, messages=[], max_tokens=10**30))
    assert answer.status_code == 429
    assert "more than the whole limit `budget`" in answer.json()["error"]["message"]
    assert "max_tokens" in answer.json()["error"]["message"]
    assert answer.json()["error"]["limit"]["limit"] == "1000"
    assert "retry-after" not in answer.headers
    assert desk.engine.seen == []


@pytest.mark.parametrize("unit", [Unit.REQUESTS, Unit.TOKENS, Unit.MONEY])
async def test_what_is_not_allowed_at_all_is_not_told_to_wait(limited_desk, unit: Unit) -> None:
    """Its window ends and nothing is there again: a client that waited would do so for ever."""
    ask = next(ask for ask in ASKS if ask.route is Route.CHAT_COMPLETIONS)
    desk = await limited_desk(limit_of(0, unit, Window.MINUTE))
    answer = await desk.ask(ask)
    assert answer.status_code == (402 if unit is Unit.MONEY else 429)
    assert "retry-after" not in answer.headers
    message = answer.json()["error"]["message"]
    assert message == (
        "The limit `budget` is reached. Nothing is allowed by it: ask the operator to raise it."
    )


async def test_a_backends_own_limits_do_not_stand_beside_ours(limited_desk) -> None:
    ask = next(ask for ask in ASKS if ask.route is Route.CHAT_COMPLETIONS)
    theirs = (
        ("X-RateLimit-Remaining-Requests", "3"),
        ("anthropic-ratelimit-tokens-limit", "3"),
        ("anthropic-ratelimit-unified-5h-status", "allowed"),
        ("RateLimit", '"theirs";r=3'),
        ("x-other", "ratelimit: 3"),
    )
    script = replace(ask.script, headers=theirs)
    desk = await limited_desk(limit_of(5, Unit.REQUESTS, Window.MINUTE))
    told = (await desk.ask(replace(ask, script=script))).headers
    assert told.get_list("x-ratelimit-remaining-requests") == ["4"]
    assert told.get_list("ratelimit") == ['"budget";r=4;t=' + told["ratelimit"].rpartition("=")[2]]
    assert "anthropic-ratelimit-tokens-limit" not in told
    assert "anthropic-ratelimit-unified-5h-status" not in told
    assert told["x-other"] == "ratelimit: 3"
    desk = await limited_desk(limit_of(5))
    told = (await desk.ask(replace(ask, script=script))).headers
    assert told["x-ratelimit-remaining-requests"] == "3"


def anthropic_headers(answer) -> dict[str, str]:
    prefix = "anthropic-ratelimit-"
    return {
        name.removeprefix(prefix): value
        for name, value in answer.headers.items()
        if name.startswith(prefix)
    }


@BY_NAME
async def test_every_answer_tells_how_the_limits_per_minute_stand(limited_desk, ask: Ask) -> None:
    requests = limit_of(9, Unit.REQUESTS, Window.MINUTE)
    desk = await limited_desk(
        requests, replace(requests, capacity=5), limit_of(10**7, Unit.TOKENS, Window.MINUTE)
    )
    answer = await desk.ask(ask)
    assert answer.status_code == 200
    # Of two limits the one that is reached first, once: clients read one figure.
    assert answer.headers.get_list("x-ratelimit-limit-requests") == ["5"]
    assert answer.headers.get_list("x-ratelimit-remaining-requests") == ["4"]
    assert answer.headers["x-ratelimit-reset-requests"].endswith("s")
    assert len(answer.headers.get_list("ratelimit")) == (
        2 if ask.route is Route.COUNT_TOKENS else 3
    )
    counts_tokens = ask.route is not Route.COUNT_TOKENS
    assert (answer.headers.get("x-ratelimit-limit-tokens") == "10000000") == counts_tokens
    told = anthropic_headers(answer)
    if ask.route.spec.errors is ErrorShape.OPENAI:
        assert told == {}
        return
    for unit in ("requests", "tokens") if counts_tokens else ("requests",):
        for what in ("limit", "remaining"):
            assert told.pop(f"{unit}-{what}") == answer.headers[f"x-ratelimit-{what}-{unit}"]
        # The same instant, said the other way: the end of this minute.
        reset = datetime.fromisoformat(told.pop(f"{unit}-reset"))
        assert (reset.second, reset.tzinfo) == (0, UTC)
    assert told == {}


async def test_counting_tokens_counts_as_a_request(limited_desk) -> None:
    ask = next(ask for ask in ASKS if ask.route is Route.COUNT_TOKENS)
    desk = await limited_desk(limit_of(2, Unit.REQUESTS, Window.MINUTE))
    assert [(await desk.ask(ask)).status_code for _ in range(4)] == [200, 200, 429, 429]
    assert desk.holds.held == {"budget": (0, 2)}
    # What it drew is durable, and bills nothing.
    assert [[draw.units for draw in void.draws] for void in desk.journal.voids] == [[1], [1]]
    assert {void.reason for void in desk.journal.voids} == {"unbilled"}
    assert desk.journal.usages == []


async def test_a_count_of_tokens_that_failed_counts_as_nothing(limited_desk) -> None:
    ask = next(ask for ask in ASKS if ask.route is Route.COUNT_TOKENS)
    broken = replace(ask, script=replace(ask.script, status=400))
    desk = await limited_desk(limit_of(2, Unit.REQUESTS, Window.MINUTE))
    assert [(await desk.ask(broken)).status_code for _ in range(4)] == [400] * 4
    assert desk.holds.held == {"budget": (0, 0)}
    assert desk.journal.records == []


def endless(ask: Ask) -> Ask:
    """The same stream with 1,500 tokens in it, whose engine tells them as they go or at the end."""
    head, *middle, last = ask.script.pieces
    match ask.route.spec.dialect:
        case Dialect.CHUNKS:
            choices: list[object] = [{"index": 0, "delta": {"content": " x"}}]
            more = [chunk(choices, counted(number + 1)) for number in range(1500)]
        case Dialect.RESPONSES:
            delta = {"type": "response.output_text.delta", "delta": " x"}
            more = [
                event("response.output_text.delta", {**delta, "sequence_number": number})
                for number in range(1500)
            ]
        case _:
            delta = {"index": 0, "delta": {"type": "text_delta", "text": " x"}}
            more = [event("content_block_delta", {"type": "content_block_delta", **delta})] * 1500
    # A few at a time, as they would come.
    parts = [b"".join(more[at : at + 20]) for at in range(0, 1500, 20)]
    body = json.loads(ask.body)
    if ask.route is Route.MESSAGES:
        body["max_tokens"] = 4000
    return replace(
        ask,
        body=json.dumps(body).encode(),
        script=replace(ask.script, pieces=(head, *parts, *middle, last)),
    )


def event(name: str, members: dict[str, object]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(members)}\n\n".encode()


COMPLETIONS = Ask(
    route=Route.COMPLETIONS,
    body=json.dumps({"model": "text", "prompt": "hi", "stream": True}).encode(),
    script=CHAT_STREAM,
)
STREAMS = [ask for ask in (*ASKS, COMPLETIONS) if ask.script.chunked]


@pytest.mark.parametrize("ask", STREAMS, ids=lambda ask: ask.name)
async def test_a_stream_whose_hold_cannot_grow_ends_in_the_words_of_its_route(
    limited_desk, ask: Ask
) -> None:
    desk = await limited_desk(limit_of(1200, Unit.TOKENS), policy=LIKELY)
    answer = await desk.ask(endless(ask))
    # It ends in order: what just broke off would be asked again.
    assert answer.status_code == 200
    *events, last, rest = answer.content.split(b"\n\n")
    assert rest == b""
    name, _, content = last.rpartition(b"data: ")
    said = json.loads(content)
    match ask.route.spec.dialect:
        case Dialect.RESPONSES:
            assert name == b"event: error\n"
            assert (said["type"], said["code"]) == ("error", "insufficient_quota")
            previous = json.loads(events[-1].partition(b"data: ")[2])
            assert said["sequence_number"] == previous["sequence_number"] + 1
            limit = said["limit"]
        case Dialect.MESSAGES:
            assert name == b"event: error\n"
            assert (said["type"], said["error"]["type"]) == ("error", "billing_error")
            limit = said["error"]["limit"]
        case _:
            assert name == b""
            assert said["error"]["code"] == "insufficient_quota"
            limit = said["error"]["limit"]
    assert (limit["name"], limit["limit"]) == ("budget", "1200")
    await desk.settled()
    usage = desk.journal.usage
    assert (usage.cause, usage.estimated) == ("drained", True)
    assert 0 < usage.counts.output <= 512
    (draw,) = usage.draws
    assert desk.holds.held == {"budget": (0, draw.units)}
    assert desk.app.tally.limits_reached == {("tokens", "hard"): 1}
    await until(lambda: desk.engine.left)  # the engine was told to stop


async def test_openais_client_raises_what_the_limit_says(limited: LimitedYards) -> None:
    world = await limited(limit_of(1200, Unit.TOKENS), policy=LIKELY)
    world.yard.engine.behaviour = Behaviour(tokens=1500, pace_ms=1)
    client = openai.AsyncOpenAI(
        api_key=KEY, base_url=f"http://127.0.0.1:{world.yard.port}/v1", max_retries=0
    )
    async with client:
        stream = await client.chat.completions.create(model="tiny", messages=[], stream=True)
        with pytest.raises(openai.APIError) as raised:
            async for _ in stream:
                pass
    assert raised.value.code == "insufficient_quota"


@pytest.mark.parametrize("route", [route for route in Route if route.generates])
def test_the_last_event_is_in_the_words_of_its_route(route: Route) -> None:
    limit = replace(limit_of(5, Unit.TOKENS, Window.MINUTE), currency="")
    reached = LimitReached(limit, used=5, capacity=5, resets_us=RESETS_US, now_us=RESETS_US - 9)
    away = HoldsUnavailable("Limits cannot be asked at the moment; please retry.")
    instead = b'event: x\ndata: {"type":"x","sequence_number":41,"delta":"..."}\n\n'
    for refusal, code, kind in (
        (reached, "rate_limit_exceeded", "rate_limit_error"),
        (away, "limits_unavailable", "overloaded_error"),
    ):
        event = error_event(refusal, route, b"req_1", instead=instead)
        assert event.endswith(b"\n\n")
        head, _, content = event.partition(b"data: ")
        said = json.loads(content)
        match route.spec.dialect:
            case Dialect.RESPONSES:
                assert head == b"event: error\n"
                assert (said["type"], said["code"], said["sequence_number"]) == ("error", code, 41)
                assert "limit" in said["message"] or "Limit" in said["message"]
            case Dialect.MESSAGES:
                assert head == b"event: error\n"
                assert (said["type"], said["error"]["type"]) == ("error", kind)
                assert said["request_id"] == "req_1"
            case _:
                assert head == b""
                assert set(said["error"]) >= {"message", "type", "param", "code"}


@pytest.mark.parametrize("ask", STREAMS, ids=lambda ask: ask.name)
async def test_more_than_is_left_at_once_is_refused_before_a_byte(limited_desk, ask: Ask) -> None:
    """An engine that sends its answer in one piece leaves nothing to cut: there is a status."""
    desk = await limited_desk(limit_of(1200, Unit.TOKENS), policy=LIKELY)
    long = endless(ask)
    answer = await desk.ask(replace(long, script=replace(long.script, pieces=(long.script.body,))))
    await desk.settled()
    assert answer.status_code == 402
    assert [void.reason for void in desk.journal.voids] == ["limit_reached"]
    assert desk.holds.held == {"budget": (0, 0)}
    assert desk.app.tally.limits_reached == {("tokens", "hard"): 1}


def test_credit_is_told_in_its_currency() -> None:
    credit = limit_of(0, Unit.MONEY)
    reached = LimitReached(
        credit, used=5 * PICO // 2, capacity=3 * PICO, resets_us=None, now_us=RESETS_US
    )
    event = error_event(reached, Route.CHAT_COMPLETIONS, b"req_1", instead=b"")
    assert json.loads(event.partition(b"data: ")[2])["error"]["limit"] == {
        "name": "budget", "unit": "money", "window": "none", "currency": "USD",
        "limit": "3.00", "used": "2.50", "resets_at": None,
    }  # fmt: skip
