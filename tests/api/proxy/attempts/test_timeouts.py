"""Deadlines of a backend of its own."""

from __future__ import annotations

import httpx
import pytest

from tests.fake_engine.shapes import Behaviour


@pytest.mark.parametrize("stream", [True, False])
async def test_the_first_byte_is_waited_for_as_long_as_the_backend_says(fleet, stream):
    fleet.reconfigure("e1", draining=True)
    fleet.reconfigure("e0", first_byte_ms=200)
    fleet.behave(Behaviour(silent_ms=20_000), Behaviour())
    answer = await fleet.chat(stream=stream)
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "upstream_timeout")
    fleet.reconfigure("e0", first_byte_ms=20_000)
    fleet.behave(Behaviour(silent_ms=700), Behaviour())
    assert (await fleet.chat(stream=stream)).status_code == 200


async def test_silence_is_borne_as_long_as_the_backend_says(fleet):
    fleet.reconfigure("e1", draining=True)
    fleet.reconfigure("e0", stalled_ms=200)
    fleet.behave(Behaviour(pace_ms=20_000), Behaviour())
    with pytest.raises(httpx.RemoteProtocolError):
        await fleet.chat(stream=True)
    await fleet.yard.settled()
    assert fleet.journal.usage.cause == "timeout"


async def test_all_attempts_of_a_pool_share_the_first_ones_deadline(open_fleet):
    fleet = await open_fleet(3)
    fleet.reconfigure("e0", first_byte_ms=600)
    fleet.behave(
        Behaviour(silent_ms=300, status=503, answer=b"{}"),
        Behaviour(hang=True),
        Behaviour(),
    )
    answer = await fleet.chat()
    assert answer.status_code == 504
    assert fleet.served == [1, 1, 0]
    (void,) = fleet.journal.voids
    assert (void.reason, [failed.reason for failed in void.attempts]) == (
        "timeout",
        ["refused_503"],
    )
