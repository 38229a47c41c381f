"""Files, batches and stored responses: what a backend keeps for a tenant, reached by its ids.

Decides: that an id reaches a backend only if it is bound to the tenant that sends it, that it goes
to the backend that issued it, and that an id leaves only when it is bound. Looking costs nothing;
content passes unread and is kept nowhere. What makes batches and what lists objects is in
`stored_batches.py` and `stored_lists.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable, Mapping
from functools import partial

from api.proxy.answer_head import REQUEST_ID
from api.proxy.binding_port import BindingPort
from api.proxy.client_connection import ClientConnection
from api.proxy.client_request import ClientRequest
from api.proxy.defects import end_for_defect
from api.proxy.holds import Holds
from api.proxy.ids import Mint, shown
from api.proxy.keys import KeyRing, key_digest
from api.proxy.limit_errors import LimitReached, limit_refusal
from api.proxy.limits import Limits
from api.proxy.openai_errors import (
    ClientLeft,
    TooLarge,
    TooSlow,
    Unavailable,
    json_headers,
    rendered,
)
from api.proxy.ports import Clock, ControlPort
from api.proxy.request_body import read_body
from api.proxy.stored_batches import bind_files, create_batch
from api.proxy.stored_calls import StoredCalls
from api.proxy.stored_lists import list_objects
from api.proxy.stored_lookup import StoredRequest
from api.proxy.tally import Tally
from api.proxy.telemetry.recorder import Ended, Recorder
from api.proxy.telemetry.stored_course import StoredCourse
from api.proxy.telemetry.trace_context import passed_on
from api.proxy.upstream import Upstream, now_us
from billing.admission.backend import Backend
from billing.admission.binding import ObjectKind
from billing.admission.decision import authenticate, models_for
from billing.admission.route import RouteSpec
from billing.engines.stored_answer import file_end_us, object_id
from billing.engines.unsupported import UnsupportedParameter
from billing.errors import (
    Conflict,
    Forbidden,
    InvalidInput,
    NotFound,
    SteelyardError,
    UpstreamError,
)

CLIENT_LEFT_STATUS = 499  # in metrics only: nobody is there to be answered
MODEL_HEADER = b"x-steelyard-model"
_IGNORED_BODY_BYTES = 64 << 10
_DRAIN_POLL_SECONDS = 0.02
_FORM = re.compile(rb"multipart/form-data[ \t]*;[\x20-\x7e]{1,200}\Z", re.IGNORECASE)
_QUERY = re.compile(
    rb"(?:(?:include(?:\[\]|%5B%5D)?|stream|starting_after|include_obfuscation|limit|order|after"
    rb"|before)=[A-Za-z0-9_.%-]{0,128}(?:&|\Z))*\Z"
)


class StoredObjects:
    """Serves requests about stored objects of one process.

    Attributes:
        draining: nothing more is begun.
    """

    def __init__(
        self,
        control: ControlPort,
        keys: KeyRing,
        tally: Tally,
        port: BindingPort,
        *,
        clock: Clock,
        limits: Limits,
        holds: Holds | None,
        upstream: Callable[[], Upstream],
        recorder: Recorder | None,
    ) -> None:
        self._control = control
        self._keys = keys
        self._tally = tally
        self._port = port
        self._clock = clock
        self._limits = limits
        self._holds = holds
        self._upstream = upstream
        self._recorder = recorder
        self._mint = Mint()
        self._live: set[StoredCalls] = set()
        self.draining = False

    async def serve(
        self,
        spec: RouteSpec,
        ids: Mapping[str, str],
        request: ClientRequest,
        client: ClientConnection,
    ) -> None:
        """Answer a request about stored objects."""
        began_at_us, failure = self._clock(), ""
        operation_id = self._mint(began_at_us)
        shown_id, course = shown(operation_id), self._course(operation_id, request)
        self._tally.in_flight += 1
        try:
            await self._serve(spec, ids, request, client, shown_id, course=course)
        except ClientLeft as error:
            failure = error.code
        except SteelyardError as error:
            failure = error.code
            if not client.lost and not request.status:
                self._refuse(error, spec, request, shown_id)
        except Exception as error:  # noqa: BLE001  # the last line: one request, not the process
            failure = "internal"
            refuse = partial(self._refuse, spec=spec, request=request, shown_id=shown_id)
            end_for_defect(error, shown_id.decode(), request, client, refuse)
        finally:
            self._tally.in_flight -= 1
            self._tally.answers[spec.path, request.status or CLIENT_LEFT_STATUS] += 1
            if client.lost and not request.status:
                failure = ClientLeft.code
            ended = Ended(operation_id, began_at_us, self._clock(), spec.path, failure)
            self._tell(ended, request, course)

    async def drain(self) -> None:
        """Begin nothing more, let open requests end until the deadline, cut the others."""
        self.draining = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._limits.drain_ms / 1000):
                while self._live:  # noqa: ASYNC110  # no event: one check per 20 ms, at stop only
                    await asyncio.sleep(_DRAIN_POLL_SECONDS)
        for calls in list(self._live):
            calls.end()

    async def _serve(
        self,
        spec: RouteSpec,
        ids: Mapping[str, str],
        request: ClientRequest,
        client: ClientConnection,
        shown_id: bytes,
        *,
        course: StoredCourse,
    ) -> None:
        digest = key_digest(request)
        await self._keys.grant(digest)
        snapshot, now_us = self._control.snapshot, self._clock()
        grant = authenticate(snapshot, digest, now_us)
        if not grant.may_infer:
            raise Forbidden(
                "This API key may not use stored objects.",
                remedy="Use a key with the inference permission.",
            )
        if self.draining:
            raise Unavailable("The server is stopping; please retry.")
        if len(self._live) >= self._limits.stored_in_flight:
            raise Unavailable("The server is overloaded; please retry.")
        assert spec.stored is not None
        calls = StoredCalls(self._upstream(), request, client, shown_id, course)
        asked = StoredRequest(
            spec=spec,
            kind=spec.stored,
            ids=ids,
            key_digest=digest,
            grant=grant,
            snapshot=snapshot,
            received=request,
            calls=calls,
            port=self._port,
            limits=self._limits,
            now_us=now_us,
        )
        self._live.add(calls)
        try:
            await self._answer(asked, client)
        except UpstreamError:
            if self.draining:
                raise Unavailable("The server is stopping; please retry.") from None
            raise
        finally:
            client.watch(None)
            self._live.discard(calls)

    async def _answer(self, asked: StoredRequest, client: ClientConnection) -> None:
        if client.lost:
            return
        making = asked.spec.method == "POST" and not asked.ids
        if making and asked.kind is ObjectKind.BATCH:
            # Its client is not watched: a batch that was begun has to be recorded, or given up.
            await create_batch(asked, self._holds)
            return
        client.watch(asked.calls.end)
        if making:
            await _upload(asked)
        elif asked.ids:
            await _ask(asked)
        else:
            await list_objects(asked)

    def _course(self, operation_id: bytes, request: ClientRequest) -> StoredCourse:
        recorder, durations = self._recorder, self._tally.durations.stored_calls
        trace = passed_on(request) if recorder is None else recorder.trace(operation_id, request)
        return StoredCourse(trace, durations)

    def _tell(self, ended: Ended, request: ClientRequest, course: StoredCourse) -> None:
        """Count how long a request took, and keep its spans."""
        if not ended.failure and request.status < 400:
            method, took_us = request.method.decode("ascii"), now_us() - course.began_us
            self._tally.durations.stored.observe((method, ended.route), took_us)
        if self._recorder is not None:
            self._recorder.end_stored(ended, request, course)

    def _refuse(
        self, error: SteelyardError, spec: RouteSpec, request: ClientRequest, shown_id: bytes
    ) -> None:
        if isinstance(error, LimitReached):
            status, headers, content = limit_refusal(error, spec.errors, shown_id)
            request.answer(status, [*headers, (REQUEST_ID, shown_id)], content)
            return
        status, content = rendered(error)
        request.answer(status, json_headers(status, (REQUEST_ID, shown_id)), content)


async def _ask(asked: StoredRequest) -> None:
    """Show, change or end one object."""
    ((_, name),) = asked.ids.items()
    binding, backend = await asked.find(asked.kind, name)
    await read_body(asked.received, _IGNORED_BODY_BYTES)  # nothing of it goes on
    calls, spec = asked.calls, asked.spec
    path, query = spec.path.format(**asked.ids), asked.received.query
    if not _QUERY.match(query):
        raise UnsupportedParameter("A query parameter is not taken here.", field="query")
    if spec.method == "DELETE":
        if asked.kind is ObjectKind.FILE and await asked.port.is_awaited(binding):
            raise Conflict(
                "The file may hold results of a batch that is not billed yet.",
                remedy="Delete it a minute after the batch is over.",
            )
        answer = await calls.whole(
            backend, spec.method, path, limit_bytes=asked.limits.object_bytes
        )
        if answer.good or answer.status == 404:
            with contextlib.suppress(Unavailable):  # an id of nothing stays bound: no harm
                await asked.port.forget(binding)
        calls.answer(answer)
    elif asked.kind is ObjectKind.BATCH:
        answer = await calls.whole(
            backend, spec.method, path, limit_bytes=asked.limits.object_bytes
        )
        if answer.good:
            await bind_files(asked, backend, answer.body)
        calls.answer(answer)
    else:
        await calls.relay(backend, spec.method, path, query=query)


async def _upload(asked: StoredRequest) -> None:
    """Pass a file on, and bind its id before anybody sees it."""
    headers = asked.received.fields
    content_type = headers.get(b"content-type", b"")
    if not _FORM.match(content_type):
        raise InvalidInput("The request must be a form with a file.", field="content-type")
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise InvalidInput("Compressed request bodies are not taken.")
    declared = headers.get(b"content-length")
    length = None if declared is None else int(declared)
    if length is not None and length > asked.limits.file_bytes:
        raise TooLarge(f"The file is larger than {asked.limits.file_bytes} bytes.")
    if not asked.port.healthy:
        raise Unavailable("Stored objects cannot be reached at the moment; please retry.")
    backend = _keeper(asked, headers.get(MODEL_HEADER))
    try:
        async with asyncio.timeout(asked.limits.upload_ms / 1000):
            answer = await asked.calls.upload(
                backend,
                asked.spec.path,
                content_type=content_type,
                length=length,
                limit_bytes=asked.limits.file_bytes,
                answer_bytes=asked.limits.object_bytes,
            )
    except TimeoutError:
        raise TooSlow("The file did not arrive in time.") from None
    finally:
        if not asked.received.body_complete:
            asked.received.keeps_alive = False  # nobody wants the rest, however much it is
    if answer.good:
        name, ends_us = object_id(answer.body), file_end_us(answer.body, now_us=asked.now_us)
        await asked.port.bind([asked.binding(name, backend, expires_at_us=ends_us)])
    asked.calls.answer(answer)


def _keeper(asked: StoredRequest, model_name: bytes | None) -> Backend:
    """The backend that gets a new object: of the model that the client names, or always the same.

    One that also runs batches is better: a batch reads its file where it lies.

    Raises:
        NotFound: no backend of a model that the key can use keeps such objects.
    """
    found = {
        backend.name: backend
        for model in models_for(asked.snapshot, asked.grant)
        if model_name is None or model.name.encode() == model_name
        for backend in model.backends
        if asked.kind.plural in backend.stores and not backend.draining
    }
    if not found:
        raise NotFound(
            "No model that you have access to keeps such objects.",
            remedy="Ask the operator which models do.",
        )
    batches = ObjectKind.BATCH.plural
    return min(found.values(), key=lambda backend: (batches not in backend.stores, backend.name))
