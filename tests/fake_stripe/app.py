"""The fake as an ASGI application: authentication, faults, checks, idempotency, one log.

Decides the order in which Stripe looks at a request. What operations mean is behind `dispatch.py`.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, replace
from typing import Any

from tests.fake_stripe import dispatch, failures, forms, spec
from tests.fake_stripe.failures import Refusal
from tests.fake_stripe.faults import Fault, FaultKind, FaultSchedule
from tests.fake_stripe.idempotency import IdempotencyKeys
from tests.fake_stripe.world import World

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

#: Put into the scope by the server, so that a connection can be lost without an answer.
DROP_CONNECTION = "fake_stripe.drop_connection"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    method: str
    path: str
    query: str
    body: str
    headers: dict[str, str]
    id: str

    @property
    def key(self) -> str | None:
        """Idempotency key; without meaning on GET and DELETE."""
        return self.headers.get("idempotency-key") if self.method == "POST" else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """`status` None: the connection is lost instead."""

    status: int | None
    body: bytes = b""
    should_retry: str | None = None
    replayed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedRequest:
    """One line of the request log; `operation` is empty for an unknown URL."""

    method: str
    path: str
    operation: str
    idempotency_key: str | None
    fault: FaultKind | None
    status: int | None
    replayed: bool


class StripeApp:
    """Attributes:
    world: what the account holds; take `lock` to touch it from another thread.
    log: every request, in order of arrival of its answer.
    violations: defects of the fake itself; a test that sees one has proved nothing.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.lock = threading.RLock()
        self.faults = FaultSchedule()
        self.log: list[LoggedRequest] = []
        self.violations: list[str] = []
        self._keys = IdempotencyKeys(world.clock)
        self._spec = spec.load()
        self._serial = itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = await self._read(scope, receive)
        operation = self._spec.find(request.method, request.path)
        name = operation.key if operation is not None else ""
        fault = self.faults.take(name)
        answer = await self._answer(request, operation, fault)
        self.log.append(
            LoggedRequest(
                method=request.method,
                path=request.path,
                operation=name,
                idempotency_key=request.key,
                fault=fault.kind if fault is not None else None,
                status=answer.status,
                replayed=answer.replayed,
            )
        )
        if answer.status is None:
            scope[DROP_CONNECTION]()
            await asyncio.sleep(0)
            return
        await self._write(request, answer, send)

    async def _answer(
        self, request: Request, operation: spec.Operation | None, fault: Fault | None
    ) -> Answer:
        kind = fault.kind if fault is not None else None
        try:
            if kind is FaultKind.DROP_BEFORE:
                return Answer(status=None)
            if (early := _early_fault(kind)) is not None:
                return early
            self._authenticate(request)
            if operation is None:
                raise failures.unrecognized(request.method, request.path)
            params = self._params(request, operation)
            delay_ms = fault.delay_ms if fault is not None and kind is FaultKind.SLOW else 0
            answer = await self._idempotent(request, operation, params, kind, delay_ms)
        except Refusal as refusal:
            return _refused(refusal)
        except Exception as defect:  # noqa: BLE001  every crash of the fake voids the test
            self.violations.append(f"{request.method} {request.path}: {defect!r}")
            return _refused(failures.broken(stored=False))
        return replace(answer, status=None) if kind is FaultKind.DROP_AFTER else answer

    async def _idempotent(
        self,
        request: Request,
        operation: spec.Operation,
        params: dict[str, Any],
        kind: FaultKind | None,
        delay_ms: int,
    ) -> Answer:
        """Run once per key; a later request under the key gets the first one's answer."""
        key = request.key
        if key is not None:
            fingerprint = f"{request.method} {request.path}?{request.query}#{request.body}"
            with self.lock:
                kept = self._keys.begin(key, fingerprint)
            if kept is not None:
                return Answer(status=kept.status, body=kept.body, replayed=True)
        kept_answer: tuple[int, bytes, str] | None = None
        try:
            await asyncio.sleep(delay_ms / 1000)
            answer, stored = self._run(operation, params, kind)
            if stored and answer.status is not None:
                kept_answer = answer.status, answer.body, request.id
            return answer
        finally:
            if key is not None:
                with self.lock:
                    self._keys.finish(key, answer=kept_answer)

    def _run(
        self, operation: spec.Operation, params: dict[str, Any], kind: FaultKind | None
    ) -> tuple[Answer, bool]:
        """(answer, whether its key keeps it), with the faults that hit during execution."""
        if kind is FaultKind.ERROR_STORED:
            return _refused(failures.broken(stored=True)), True
        try:
            with self.lock:
                result = dispatch.run(self.world, operation, params)
                self._spec.check_answer(operation, 200, result)
                body = json.dumps(result, separators=(",", ":")).encode()
        except Refusal as refusal:
            self._spec.check_answer(operation, refusal.status, refusal.body())
            return _refused(refusal), refusal.stored
        if kind is FaultKind.ERROR_AFTER:
            return _refused(failures.broken(stored=True)), True
        return Answer(status=200, body=body), True

    def _authenticate(self, request: Request) -> None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme != "Bearer" or not token.startswith("sk_test_"):
            raise failures.unauthenticated("Invalid API Key provided.")
        version = request.headers.get("stripe-version")
        if version is None:
            raise failures.malformed("The fake needs the Stripe-Version header on every request.")
        self.world.api_version = version

    def _params(self, request: Request, operation: spec.Operation) -> dict[str, Any]:
        if request.method == "POST" and request.query:
            raise failures.malformed("POST takes its parameters in the body.")
        try:
            tree = forms.parse(request.body if request.method == "POST" else request.query)
        except (forms.MalformedForm, ValueError) as error:
            raise failures.malformed("The parameters cannot be read.") from error
        params, problems = self._spec.check_request(operation, tree)
        if problems:
            first = problems[0]
            raise failures.malformed(
                f"{first.message}: {first.param}", code=first.code, param=first.param
            )
        return params

    async def _read(self, scope: Scope, receive: Receive) -> Request:
        body = bytearray()
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        return Request(
            method=scope["method"],
            path=scope["path"],
            query=scope["query_string"].decode("ascii"),
            body=body.decode("utf-8"),
            headers={k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]},
            id=f"req_fake{next(self._serial):08d}",
        )

    async def _write(self, request: Request, answer: Answer, send: Send) -> None:
        headers = {
            "content-type": "application/json",
            "content-length": str(len(answer.body)),
            "request-id": request.id,
            "stripe-version": request.headers.get("stripe-version", ""),
        }
        if request.key is not None:
            headers["idempotency-key"] = request.key
        if answer.replayed:
            headers["idempotent-replayed"] = "true"
        if answer.should_retry is not None:
            headers["stripe-should-retry"] = answer.should_retry
        encoded = [(name.encode(), text.encode()) for name, text in headers.items()]
        await send({"type": "http.response.start", "status": answer.status, "headers": encoded})
        await send({"type": "http.response.body", "body": answer.body})


def _early_fault(kind: FaultKind | None) -> Answer | None:
    """Answers given before anything of the request is looked at."""
    match kind:
        case FaultKind.RATE_LIMITED:
            return _refused(failures.rate_limited())
        case FaultKind.RATE_LIMITED_RETRY:
            return replace(_refused(failures.rate_limited()), should_retry="true")
        case FaultKind.RATE_LIMITED_FINAL:
            return replace(_refused(failures.rate_limited()), should_retry="false")
        case FaultKind.LOCKED:
            return _refused(failures.lock_timeout())
        case FaultKind.ERROR_BEFORE:
            return _refused(failures.broken(stored=False))
        case _:
            return None


def _refused(refusal: Refusal) -> Answer:
    return Answer(status=refusal.status, body=json.dumps(refusal.body()).encode())
