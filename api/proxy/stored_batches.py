"""Batches: checked line by line before a backend gets them, recorded before anybody is told.

Decides: that a batch runs only if each of its lines would have been admitted as a request of its
own: its model is served where the file lies and has a price, nothing in it would have been changed,
the tenant's limits have something left, and a prepaid tenant's credit has what all of them can
cost. It is written down before the backend is asked, so that a death at any instant leaves none
that nobody bills: what became of it is then looked up where it runs. Does not decide how its lines
are billed: that happens when the backend has run them.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field

from api.proxy.binding_port import IntendedBatch
from api.proxy.holds import Holds, size_of
from api.proxy.ids import id_of
from api.proxy.openai_errors import Unavailable
from api.proxy.request_body import read_body
from api.proxy.stored_calls import Answer
from api.proxy.stored_lookup import StoredRequest, no_such_object
from billing.admission.backend import Backend, ServedModel
from billing.admission.binding import Binding, ObjectKind
from billing.admission.bound import bound_of
from billing.admission.decision import Admission, admit
from billing.admission.route import Route
from billing.engines.batch_input import BATCH_ROUTES, BatchInput, BatchLine
from billing.engines.member_values import required_text
from billing.engines.splice import locate
from billing.engines.stored_answer import batch_files, object_id
from billing.engines.unsupported import UnsupportedParameter
from billing.errors import InvalidInput, SteelyardError

# Without `output_expires_after`: results that are gone before they are read cannot be billed.
_MEMBERS = frozenset({"input_file_id", "endpoint", "completion_window", "metadata"})
_TURN = 32
"""Lines that are read before other requests get their turn."""


async def create_batch(asked: StoredRequest, holds: Holds | None) -> None:
    """Check a batch, have a backend take it, record it, and tell the client.

    Raises:
        NotFound: its file is not this tenant's, or no backend runs it there.
        InvalidInput: it, or a line of its file, cannot be run.
        LimitReached: the tenant has nothing left.
        Unavailable: it cannot be recorded; the backend is asked to give it up.
    """
    body = await read_body(asked.received, asked.limits.object_bytes)
    route, file_id = _read(body)
    _, backend = await asked.find(ObjectKind.FILE, file_id, field="input_file_id")
    if ObjectKind.BATCH.plural not in backend.stores or backend.cache_salt:
        # Lines pass as they are: none of them can be given the salt that keeps tenants apart.
        raise no_such_object("input_file_id")
    if not asked.port.healthy:
        raise Unavailable("Stored objects cannot be reached at the moment; please retry.")
    lines = await _admitted(asked, route, backend, file_id, holds)
    batch = _intended(asked, route, backend, file_id, lines)
    await asked.port.intend(batch)
    path, limit_bytes = asked.spec.path, asked.limits.object_bytes
    # Without an answer nobody knows whether it runs; then it stays intended until that is known.
    answer = await asked.calls.whole(backend, "POST", path, body=body, limit_bytes=limit_bytes)
    if answer.good:
        await _record(asked, backend, batch, answer)
    else:
        with contextlib.suppress(Unavailable):
            await asked.port.give_up(batch)
    asked.calls.answer(answer)


async def bind_files(asked: StoredRequest, backend: Backend, body: bytes) -> None:
    """Bind the files that a batch has written, before their ids leave."""
    await asked.port.bind(_files(asked, backend, body))


def _read(body: bytes) -> tuple[Route, str]:
    members = locate(body)
    if members.values.keys() - _MEMBERS:
        raise UnsupportedParameter("A batch has no such member.")
    file_id, endpoint = (required_text(members, name) for name in ("input_file_id", "endpoint"))
    for route in BATCH_ROUTES:
        if route.value == endpoint:
            return route, file_id
    raise InvalidInput("Batches cannot ask for this endpoint.", field="endpoint")


@dataclass(slots=True)
class _Lines:
    """The lines of a file that are admitted.

    Attributes:
        admitted: one admission per model, by the name that lines call it.
        most: what they can cost together, in 10⁻¹² of the major unit.
    """

    admitted: dict[str, Admission] = field(default_factory=dict[str, Admission])
    most: int = 0

    def count(self, line: BatchLine) -> None:
        """Add what a line of an admitted model can cost.

        No bound is spliced into a line: one that sets none is bounded by its model's.
        """
        admission = self.admitted[line.request.model]
        rates = admission.terms.rates.get(admission.model.name)
        if rates is not None:
            self.most += bound_of(rates, admission.model, size_of(line.request)).money


def _intended(
    asked: StoredRequest, route: Route, backend: Backend, file_id: str, lines: _Lines
) -> IntendedBatch:
    admissions = list(lines.admitted.values())
    terms, model_ids = admissions[0].terms, {each.model.id for each in admissions}
    request_id = asked.calls.shown_id
    return IntendedBatch(
        binding=asked.binding(
            request_id.decode(),
            backend,
            model_id=model_ids.pop() if len(model_ids) == 1 else None,
        ),
        operation_id=id_of(request_id),
        price_version_id=terms.price_version_id,
        endpoint=route.value,
        input_file_id=file_id,
        credit=None if terms.policy.shadow else terms.prepaid,
        most=lines.most,
    )


async def _admitted(
    asked: StoredRequest, route: Route, backend: Backend, file_id: str, holds: Holds | None
) -> _Lines:
    """Admit every line of a file."""
    models = _models(asked, backend)
    found = _Lines()
    lines = BatchInput(route, backend, most_lines=asked.limits.batch_lines)

    async def take(texts: list[bytes]) -> None:
        for position, text in enumerate(texts):
            if position % _TURN == _TURN - 1:
                await asyncio.sleep(0)
            line = lines.read(text)
            if line is None:
                continue
            if line.request.model not in found.admitted:
                admission = _admit(asked, lines, line, models)
                await _require_room(holds, admission, line)
                found.admitted[line.request.model] = admission
            found.count(line)

    content = f"/v1/files/{file_id}/content"
    async with contextlib.aclosing(asked.calls.parts(backend, content)) as parts:
        async for part in parts:
            await take(lines.feed(part))
    await take(lines.finish())
    return found


def _models(asked: StoredRequest, backend: Backend) -> dict[str, ServedModel]:
    """The models of a backend by the names that it knows them by: no line is rewritten."""
    return {
        served.model or model.name: model
        for model in asked.snapshot.models.values()
        for served in model.backends
        if served.name == backend.name
    }


def _admit(
    asked: StoredRequest, lines: BatchInput, line: BatchLine, models: dict[str, ServedModel]
) -> Admission:
    model = models.get(line.request.model)
    if model is None:
        raise lines.refused("names a model that is not served where the file lies.")
    route = line.request.route
    return admit(asked.snapshot, asked.key_digest, model.name, route, asked.now_us)


async def _require_room(holds: Holds | None, admission: Admission, line: BatchLine) -> None:
    """Ask the limits for one line; nothing is held: when a batch runs is the backend's to say.

    Raises:
        LimitReached: not even one line has room.
    """
    if holds is None:
        return
    holding = await holds.hold(admission, line.request)
    if holding is not None:
        holding.release()


async def _record(
    asked: StoredRequest, backend: Backend, batch: IntendedBatch, answer: Answer
) -> None:
    """Record a batch that a backend has taken; one that nobody can record must not run.

    Raises:
        SteelyardError: it cannot be recorded.
    """
    batch_id = object_id(answer.body)
    try:
        await asked.port.record(batch, batch_id, _files(asked, backend, answer.body))
    except SteelyardError:
        path = f"{asked.spec.path}/{batch_id}/cancel"
        with contextlib.suppress(SteelyardError):
            await asked.calls.whole(backend, "POST", path, limit_bytes=asked.limits.object_bytes)
        raise


def _files(asked: StoredRequest, backend: Backend, body: bytes) -> list[Binding]:
    return [asked.binding(name, backend, kind=ObjectKind.FILE) for name in batch_files(body)]
