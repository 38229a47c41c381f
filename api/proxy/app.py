"""The data plane as an application.

Decides: the route table: whatever is not in it reaches no backend; and that a defect in an answer
of its own is a 500 and not a connection that ends without a word.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import Any
from urllib.parse import unquote

import msgspec

from api.proxy.binding_port import BindingPort
from api.proxy.client_connection import ClientConnection
from api.proxy.client_request import ClientRequest
from api.proxy.defects import end_for_defect
from api.proxy.hold_port import HoldPort
from api.proxy.holds import Holds
from api.proxy.inference import Inference
from api.proxy.keys import KeyRing, key_digest
from api.proxy.limits import Limits
from api.proxy.openai_errors import body, json_headers, rendered
from api.proxy.ports import Clock, ControlPort, JournalPort
from api.proxy.stored_objects import StoredObjects
from api.proxy.tally import Tally
from api.proxy.telemetry.recorder import Recorder
from billing.admission.decision import authenticate, models_for
from billing.admission.route import RouteSpec, Serving, find_route
from billing.errors import NotFound, SteelyardError


class _ModelRow(msgspec.Struct):
    id: str
    created: int
    object: str = "model"
    owned_by: str = "steelyard"


class _ModelList(msgspec.Struct):
    data: list[_ModelRow]
    object: str = "list"


def system_clock() -> int:
    """µs since 1970 UTC."""
    return time.time_ns() // 1000


class Proxy:
    """One process of the data plane; `server.py` gives it requests."""

    def __init__(
        self,
        control: ControlPort,
        journal: JournalPort,
        *,
        clock: Clock,
        limits: Limits,
        holds: HoldPort | None = None,
        bindings: BindingPort | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self._control = control
        self._journal = journal
        self._clock = clock
        self._keys = KeyRing(control, limits, clock)
        self.tally = Tally()
        self.limits = limits
        self._inference = Inference(
            control,
            journal,
            self._keys,
            self.tally,
            clock=clock,
            limits=limits,
            holds=holds,
            bindings=bindings,
            recorder=recorder,
        )
        self._stored: StoredObjects | None = None
        if bindings is not None:
            self._stored = StoredObjects(
                control,
                self._keys,
                self.tally,
                bindings,
                clock=clock,
                limits=limits,
                holds=None if holds is None else Holds(holds, clock),
                upstream=lambda: self._inference.upstream,
                recorder=recorder,
            )

    def serve(self, request: ClientRequest, client: ClientConnection) -> Coroutine[Any, Any, None]:
        """What answers one request."""
        found = find_route(request.method, request.path)
        if found is None:
            return self._guarded(self._refuse_unknown(request), "unknown", request, client)
        spec, ids = found
        match spec.serving:
            case Serving.INFERENCE | Serving.UNBILLED if spec.route is not None:
                return self._inference.serve(spec.route, request, client)
            case Serving.STORED if self._stored is not None:
                return self._stored.serve(spec, ids, request, client)
            case Serving.LIST:
                answer = self._models(spec, ids.get("model"), request)
            case Serving.STATUS:
                answer = self._tell(spec, request)
            case _:
                answer = self._refuse_unknown(request)
        return self._guarded(answer, spec.path, request, client)

    async def drain(self) -> None:
        """Admit nothing more, let open requests end until the deadline, cut the others."""
        if self._stored is None:
            await self._inference.drain()
        else:
            await asyncio.gather(self._inference.drain(), self._stored.drain())

    async def close(self) -> None:
        """After `drain`: close the backends' connections, then the journal."""
        self._inference.close()
        await self._journal.close()

    async def _guarded(
        self,
        answer: Coroutine[Any, Any, None],
        path: str,
        request: ClientRequest,
        client: ClientConnection,
    ) -> None:
        """The last line of what asks no backend: one request fails, and is told so."""
        try:
            await answer
        except Exception as error:  # noqa: BLE001  # the last line: one request, not the process
            refuse = partial(self._refuse, path=path, request=request)
            end_for_defect(error, path, request, client, refuse)

    async def _models(self, spec: RouteSpec, name: str | None, request: ClientRequest) -> None:
        """The models of a key, or one of them."""
        try:
            digest = key_digest(request)
            await self._keys.grant(digest)
            snapshot = self._control.snapshot
            grant = authenticate(snapshot, digest, self._clock())
            rows = [
                _ModelRow(model.name, model.created_at_us // 1_000_000)
                for model in models_for(snapshot, grant)
            ]
            shown: _ModelRow | _ModelList = _ModelList(rows)
            if name is not None:
                shown = _row_of(unquote(name), rows)
        except SteelyardError as error:
            self._refuse(error, spec.path, request)
        else:
            self.tally.answers[spec.path, 200] += 1
            request.answer(200, json_headers(200), msgspec.json.encode(shown))

    async def _tell(self, spec: RouteSpec, request: ClientRequest) -> None:
        """Whether this process is alive, and whether it takes requests."""
        match spec.path:
            case "/healthz" | "/health":
                request.answer(200, json_headers(200), b'{"status":"ok"}')
            case _:
                ready = not self._inference.draining and self._journal.healthy
                status = 200 if ready else 503
                content = b'{"ready":true}' if ready else b'{"ready":false}'
                request.answer(status, json_headers(status), content)

    def _refuse(self, error: SteelyardError, path: str, request: ClientRequest) -> None:
        status, content = rendered(error)
        self.tally.answers[path, status] += 1
        request.answer(status, json_headers(status), content)

    async def _refuse_unknown(self, request: ClientRequest) -> None:
        self.tally.answers["unknown", 404] += 1
        content = body(
            "Unknown request URL or method.", wire_type="invalid_request_error", code="unknown_url"
        )
        request.answer(404, json_headers(404), content)


def _row_of(name: str, rows: Sequence[_ModelRow]) -> _ModelRow:
    for row in rows:
        if row.id == name:
            return row
    raise NotFound(
        "The model does not exist or you do not have access to it.",
        field="model",
        remedy="Ask `GET /v1/models` for the models of this key.",
    )


def create_app(
    control: ControlPort,
    journal: JournalPort,
    *,
    clock: Clock = system_clock,
    limits: Limits | None = None,
    holds: HoldPort | None = None,
    bindings: BindingPort | None = None,
    recorder: Recorder | None = None,
) -> Proxy:
    """The application over its two seams.

    Args:
        clock: µs since 1970 UTC.
        holds: where limits are asked; None: none are kept.
        bindings: where ids of stored objects are bound; None: none are served.
        recorder: of spans; None: none are made.
    """
    return Proxy(
        control,
        journal,
        clock=clock,
        limits=limits or Limits(),
        holds=holds,
        bindings=bindings,
        recorder=recorder,
    )
