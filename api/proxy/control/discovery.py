"""Asks engines without configured models what they serve.

Decides: when they are asked, and that an engine whose answer cannot be served beside the others is
left out. Does not decide what becomes of the models: `served_models` does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

import httpx
import structlog

from api.proxy.control.served_models import served_models
from billing.errors import ConfigurationError
from billing.planfiles.backend_file import BackendModel, BackendSpec

log = structlog.get_logger("steelyard.control")

DISCOVERY_SECONDS = 5


class Discovery:
    """The engines as configured, and what those without models have said by now."""

    def __init__(self, backends: Sequence[BackendSpec]) -> None:
        self.backends = list(backends)

    async def keep_asking(self, found: Callable[[], Awaitable[None]]) -> None:
        """Ask until every engine has answered; `found` is awaited after each answer."""
        while any(not backend.models for backend in self.backends):
            await asyncio.sleep(DISCOVERY_SECONDS)
            if await self.ask():
                await found()

    async def ask(self) -> bool:
        """Ask the engines that are still unknown once; True if one answered."""
        found = False
        async with httpx.AsyncClient(timeout=DISCOVERY_SECONDS) as client:
            for position, backend in enumerate(self.backends):
                if not backend.models and (names := await _model_names(client, backend)):
                    models = tuple(BackendModel(name=name) for name in names)
                    backends = list(self.backends)
                    backends[position] = replace(backend, models=models)
                    try:
                        served_models(backends)
                    except ConfigurationError as error:
                        log.error("engine is left out", backend=backend.name, reason=error.message)  # noqa: TRY400  # no traceback: it is the operator's to mend
                        continue
                    self.backends = backends
                    log.info("engine serves", backend=backend.name, models=names)
                    found = True
        return found


async def _model_names(client: httpx.AsyncClient, backend: BackendSpec) -> list[str]:
    headers = {"Authorization": f"Bearer {backend.api_key}"} if backend.api_key else {}
    try:
        answer = await client.get(f"{backend.url}/v1/models", headers=headers)
        rows = answer.raise_for_status().json()["data"]
        names = [str(row["id"]) for row in rows]
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        log.warning("engine does not say what it serves", backend=backend.name)
        return []
    return names
