"""What a connection took is free when it closes.

Circles of objects stay until the garbage collector looks for them: under many clients that come
and go they would be most of the memory of the process.
"""

from __future__ import annotations

import gc

from api.proxy.client_connection import ClientConnection
from api.proxy.exchange import Exchange
from api.proxy.limits import Limits
from api.proxy.stream import StreamRelay
from api.proxy.upstream_connection import UpstreamConnection
from tests.api.proxy.conftest import YardBuilder, until

KEPT = (ClientConnection, UpstreamConnection, Exchange, StreamRelay)


def alive() -> list[object]:
    return [each for each in gc.get_objects() if isinstance(each, KEPT)]


async def test_closed_connections_are_free_at_once(open_yard: YardBuilder) -> None:
    yard = await open_yard(limits=Limits(pool_size=0))
    gc.collect()
    gc.disable()
    try:
        for stream in (True, False):
            client = await yard.stream(stream=stream)
            await client.until(b"[DONE]" if stream else b'"usage"')
            await yard.settled()
            await client.close()
        leaving = await yard.stream()
        await leaving.until(b"data: ")
        leaving.leave()
        await until(lambda: not alive())
    finally:
        gc.enable()
