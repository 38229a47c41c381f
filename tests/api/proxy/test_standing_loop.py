"""A loop that stands still, and what nobody has taken yet when it goes on; waits given up."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import pytest
import uvloop

from api.proxy.control.bindings import Bindings
from api.proxy.keys import KeyRing
from api.proxy.limits import Limits
from api.proxy.openai_errors import Unavailable
from api.proxy.patience import done_within
from api.proxy.upstream import Upstream
from billing.admission.backend import Backend
from billing.admission.snapshot import KeyGrant
from billing.errors import UpstreamTimeout
from billing.store.database import Database
from tests.api.proxy.conftest import MemoryControl, digest, snapshot_for

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


def on_uvloop(scenario: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        async with asyncio.timeout(20):
            await scenario()

    uvloop.run(run())


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize("turn", range(6))
def test_a_standstill_while_connecting_is_no_failure_of_the_backend(turn: int) -> None:
    async def scenario() -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        backend = Backend(name="b", base_url=f"http://127.0.0.1:{port}", engine="vllm")
        upstream = Upstream(Limits(connect_ms=80))
        asked = asyncio.create_task(upstream.ask(backend, "/health"))
        await turns(turn)
        time.sleep(0.2)  # noqa: ASYNC251  # it stands still
        await asyncio.sleep(0.01)
        with listener, (await asyncio.to_thread(listener.accept))[0] as peer:
            peer.recv(4096)
            peer.sendall(ANSWER)
            assert await asked == 200
        upstream.close()

    on_uvloop(scenario)


@pytest.mark.parametrize("turn", range(8))
def test_a_connection_that_nobody_waits_for_any_more_is_closed(turn: int) -> None:
    async def scenario() -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        backend = Backend(name="b", base_url=f"http://127.0.0.1:{port}", engine="vllm")
        upstream = Upstream(Limits())
        asked = asyncio.create_task(upstream.ask(backend, "/health"))
        await turns(turn)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        await asyncio.sleep(0.02)
        listener.settimeout(0)
        with listener, contextlib.suppress(BlockingIOError):
            peer, _ = listener.accept()
            with peer, contextlib.suppress(ConnectionResetError):
                peer.settimeout(5)
                while peer.recv(4096):
                    pass
        assert not upstream._busy
        upstream.close()

    on_uvloop(scenario)


def test_a_backend_that_takes_no_connection_is_given_up() -> None:
    async def scenario() -> None:
        # A queue of one that is full: the kernel answers nothing to whoever comes next.
        with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            address = listener.getsockname()
            for each in (first, second):
                each.setblocking(False)
                each.connect_ex(address)
            backend = Backend(name="b", base_url=f"http://127.0.0.1:{address[1]}", engine="vllm")
            upstream = Upstream(Limits(connect_ms=80))
            with pytest.raises(UpstreamTimeout):
                await upstream.ask(backend, "/health")
            upstream.close()

    on_uvloop(scenario)


def test_a_new_key_is_found_in_spite_of_a_standstill(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused as unknown it would be given up by its client for good."""
    monkeypatch.setattr("api.proxy.keys.LOOK_UP_MS", 80)

    async def scenario() -> None:
        control = MemoryControl(snapshot_for("http://127.0.0.1:9"))
        new = digest("sk-sy-new")
        grant = KeyGrant(key_id=3, tenant_id=7, project_id=8, may_infer=True)
        control.new_keys[new] = grant
        asked = asyncio.create_task(KeyRing(control, Limits(), time.time_ns).grant(new))
        await turns(2)
        time.sleep(0.2)  # noqa: ASYNC251  # it stands still
        assert await asked == grant

    on_uvloop(scenario)


def test_a_call_that_was_answered_during_a_standstill_counts(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.proxy.control.bindings.CALL_MS", 80)

    async def scenario() -> None:
        bindings = Bindings(database, now=lambda: datetime.now(UTC))
        asked = asyncio.create_task(bindings._ask("find", lambda _: "found"))
        await turns(2)
        time.sleep(0.3)  # noqa: ASYNC251  # it stands still
        assert await asked == "found"
        assert bindings.healthy
        bindings.close()

    on_uvloop(scenario)


def test_calls_that_nobody_waits_for_any_more_are_not_made(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the database hangs they would pile up, and be made one by one when it is back."""
    monkeypatch.setattr("api.proxy.control.bindings.CALL_MS", 80)
    go_on, made = threading.Event(), list[int]()

    async def scenario() -> None:
        bindings = Bindings(database, now=lambda: datetime.now(UTC))
        hang = [bindings._ask("find", lambda _: go_on.wait()) for _ in range(2)]
        late = [bindings._ask("find", lambda _: made.append(1)) for _ in range(3)]
        answers = await asyncio.gather(*hang, *late, return_exceptions=True)
        assert [type(answer) for answer in answers] == [Unavailable] * 5
        go_on.set()
        await asyncio.to_thread(bindings._threads.shutdown)

    on_uvloop(scenario)
    assert made == []


async def test_a_standstill_is_no_excuse_for_ever() -> None:
    """A loop that is always late still ends a wait."""
    never: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(done_within(never, 80))
    for _ in range(40):
        if waiting.done():
            break
        time.sleep(0.03)  # noqa: ASYNC251  # it is always late
        await turns(3)
    assert waiting.done()
    assert not waiting.result()
