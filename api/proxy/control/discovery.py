"""Keeps up with the engines: what is configured, and what those without models say they serve.

Decides: when the configuration is looked at again and engines are asked, and that what cannot be
served is left out: an engine that does not fit beside the others, a configuration with a mistake.
Does not decide what becomes of the models: `served_models` does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

import httpx
import structlog

from api.proxy.control.served_models import served_models
from billing.errors import ConfigurationError, SteelyardError
from billing.planfiles.backend_file import BackendModel, BackendSpec

log = structlog.get_logger("steelyard.control")

DISCOVERY_SECONDS = 5


Reread = Callable[[], Sequence[BackendSpec] | None]
"""The configuration if it has changed since it was last read, else None.

Raises:
    SteelyardError: it has changed and cannot be used.
"""


class Discovery:
    """The engines as configured, and what those without models have said by now."""

    def __init__(self, backends: Sequence[BackendSpec], reread: Reread | None = None) -> None:
        self.backends = list(backends)
        self._reread = reread

    @property
    def all_said(self) -> bool:
        """Whether it is known of every backend what it serves."""
        return all(backend.models for backend in self.backends)

    async def keep_asking(self, found: Callable[[], Awaitable[None]]) -> None:
        """Look for changes and ask engines that have not answered; `found` is awaited after each.

        Ends when there is nothing left that could change.
        """
        while self._reread is not None or not self.all_said:
            await asyncio.sleep(DISCOVERY_SECONDS)
            changed = await self._take_changes()
            if await self.ask() or changed:
                await found()

    async def _take_changes(self) -> bool:
        """Read the configuration again if it has changed; one that cannot be used changes nothing.

        A backend that is no longer in it gets nothing new and finishes what it has.
        """
        if self._reread is None:
            return False
        try:
            changed = await asyncio.to_thread(self._reread)
            if changed is None:
                return False
            told = {(spec.name, spec.url): spec.models for spec in self.backends}
            backends = [
                spec if spec.models else replace(spec, models=told.get((spec.name, spec.url), ()))
                for spec in changed
            ]
            served_models(backends)
        except SteelyardError as error:
            log.error("backends stay as they are", field=error.field, reason=error.message)  # noqa: TRY400  # no traceback: it is the operator's to mend
            return False
        self.backends = backends
        log.info("backends read again", backends=[spec.name for spec in backends])
        return True

    async def ask(self) -> bool:
        """Ask the engines that are still unknown once; True if one answered."""
        unknown = [backend for backend in self.backends if not backend.models]
        if not unknown:
            return False
        found = False
        async with httpx.AsyncClient(timeout=DISCOVERY_SECONDS) as client:
            for backend in unknown:
                if names := await _model_names(client, backend):
                    models = tuple(BackendModel(name=name) for name in names)
                    backends = [
                        replace(one, models=models) if one is backend else one
                        for one in self.backends
                    ]
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
