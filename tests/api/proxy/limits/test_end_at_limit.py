"""A stream that a limit ends is billed what was delivered, whatever its engine has told by then."""

from __future__ import annotations

from dataclasses import replace

from billing.admission.limit import Unit
from billing.admission.terms import AdmissionPolicy, HoldSize
from tests.api.proxy.endpoints.asks import ASKS, CHAT_STREAM, chunk, counted
from tests.api.proxy.limits.conftest import limit_of


async def test_what_the_refusal_took_the_place_of_is_not_billed(limited_desk):
    """The bytes that went beyond the hold had the whole usage with them."""
    ask = next(one for one in ASKS if one.script is CHAT_STREAM)
    word: list[object] = [{"index": 0, "delta": {"content": " x"}}]
    beyond = chunk(word, counted(2_000)) + chunk([], counted(2_000))
    pieces = chunk(word, counted(5)), beyond
    desk = await limited_desk(
        limit_of(1200, Unit.TOKENS), policy=AdmissionPolicy(hold_size=HoldSize.LIKELY)
    )
    answer = await desk.ask(replace(ask, script=replace(ask.script, pieces=pieces)))
    assert answer.content.startswith(pieces[0] + b'data: {"error":')
    assert beyond not in answer.content
    await desk.settled()
    usage = desk.journal.usage
    assert (usage.cause, usage.estimated, usage.counts.output) == ("drained", True, 5)
