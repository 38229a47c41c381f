"""Streams of every engine, cut at sampled bytes on real sockets: the bill is what was delivered.

What a reader lets out at which byte is tested at every byte in tests/engines; here, that the
relay bills it, whoever cuts.
"""

from __future__ import annotations

import random

import pytest

from billing.engines.mark import NOTHING, Mark
from billing.engines.prompt_floor import Ratio, prompt_floor
from billing.engines.reading import stream_reading
from billing.journal.records import Counts
from tests.api.proxy.aborts.conftest import Stage
from tests.api.proxy.conftest import until
from tests.engines.golden import STREAMS, Vector

CAUSES = ("client_left", "upstream_broke", "drained")
CUTS_PER_STREAM = 5


def samples() -> list[object]:
    """Streams by engine and protocol, each cut at bytes that differ from cause to cause."""
    chosen = random.Random(7)
    whole = [vector for vector in STREAMS if vector.expected["ending"] == "DONE"]
    whole += [vector for vector in STREAMS if vector.expected["ending"] == "BODY"]
    seen: set[tuple[str, str]] = set()
    found = []
    for vector in whole:
        kind = (vector.engine.engine, vector.route.value)
        if kind in seen:
            continue
        seen.add(kind)
        for cause in CAUSES:
            cuts = [chosen.randrange(1, len(vector.wire)) for _ in range(CUTS_PER_STREAM)]
            name = f"{vector.engine.engine}-{vector.route.spec.dialect.name.lower()}-{cause}"
            found.append(pytest.param(vector, cause, [0, *cuts], id=name))
    return found


def delivered(vector: Vector, upto: int) -> tuple[bytes, Mark, bool, bool]:
    """What a client has when so many bytes came: bytes, counts, whether exact, whether ended."""
    floor = prompt_floor(vector.request, Ratio())
    reading = stream_reading(vector.route, vector.engine, vector.request, prompt_floor=floor)
    shown = reading.feed(vector.wire[:upto])
    mark, exact = reading.passed, reading.exact and not reading.holding
    return shown, reading.mark if exact else mark, exact, reading.ending is not None


@pytest.mark.parametrize(("vector", "cause", "cuts"), samples())
async def test_bill_follows_the_table(open_stage, vector, cause, cuts):
    for upto in cuts:
        shown, mark, exact, ended = delivered(vector, upto)
        if ended:
            continue  # the end has come: nothing of it can be cut any more
        stage = await open_stage()
        await cut(stage, vector, upto, cause, shown)
        journal = stage.yard.journal
        if mark == NOTHING:
            assert journal.usages == []
            assert [void.reason for void in journal.voids] == [cause], upto
        else:
            usage = journal.usage
            assert usage.counts == Counts.of(mark.counts()), upto
            assert (usage.cause, usage.estimated) == (cause, not exact), upto
            assert journal.voids == []


async def cut(stage: Stage, vector: Vector, upto: int, cause: str, shown: bytes) -> None:
    """Play so many bytes, and end it there."""
    stage.play(vector, upto=upto, breaks=cause == "upstream_broke")
    client = await stage.ask(vector)
    if cause == "upstream_broke":
        got = await client.rest() if shown else await client.until(b"\r\n\r\n")
        assert b"\r\n0\r\n\r\n" not in got
    else:
        if shown:
            await client.until(shown[-40:])
        await until(lambda: stage.player.bodies)
        if cause == "client_left":
            client.leave()
        else:
            await stage.yard.app.drain()
        await until(lambda: stage.player.left)
    await stage.yard.settled()
