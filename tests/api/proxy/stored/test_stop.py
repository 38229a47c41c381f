"""A stop while requests wait for the database."""

from __future__ import annotations

import asyncio

from tests.api.proxy.conftest import until


async def test_what_waited_for_an_id_when_the_stop_began_is_not_begun(keep):
    """It is not among those for which a stop waits: its answer would be cut, or lose its record."""
    made = (await keep.respond(store=True)).json()["id"]
    asked = len(keep.asked)
    keep.bindings.gate.clear()
    late = asyncio.create_task(keep.respond(previous_response_id=made))
    await until(lambda: keep.bindings.waiting)
    await keep.app.drain()
    keep.bindings.gate.set()
    assert (await late).status_code == 503
    assert len(keep.asked) == asked
