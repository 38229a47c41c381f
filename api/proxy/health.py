"""Asks backends that rest whether they work again.

Decides: how often, and that only those are asked that have failed: the others show with every
request what they can do. A backend that says yes gets one request, which decides.
"""

from __future__ import annotations

import asyncio

from api.proxy.pools import Pools
from api.proxy.ports import ControlPort
from api.proxy.upstream import Upstream, now_us
from billing.admission.backend import Backend
from billing.errors import SteelyardError

CHECK_SECONDS = 5


class HealthChecks:
    """Runs from its making until `close`."""

    def __init__(self, upstream: Upstream, pools: Pools, control: ControlPort) -> None:
        self._upstream = upstream
        self._pools = pools
        self._control = control
        self._task = asyncio.create_task(self._run())

    def close(self) -> None:
        """Ask no more."""
        self._task.cancel()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            await asyncio.gather(*(self._check(backend) for backend in self._to_ask()))

    def _to_ask(self) -> list[Backend]:
        found: dict[str, Backend] = {}
        for model in self._control.snapshot.models.values():
            for backend in model.backends:
                if backend.health_path is not None and self._pools.resting(backend.name):
                    found[backend.name] = backend
        return list(found.values())

    async def _check(self, backend: Backend) -> None:
        assert backend.health_path is not None
        try:
            status = await self._upstream.ask(backend, backend.health_path)
        except SteelyardError:
            return  # it goes on resting
        if 200 <= status < 300:
            self._pools.wake(backend.name, now_us())
