"""Inference requests that name stored objects, or whose response is to be stored.

Decides: that such a request goes to the backend which keeps what it names, and nowhere else, and
that the id of a stored response is its tenant's before it leaves. A tenant that does not ask for
its response to be stored gets its answer also while nobody can bind ids; it is not stored then.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from api.proxy.binding_port import BindingPort
from api.proxy.exchange import Exchange
from api.proxy.openai_errors import Unavailable
from api.proxy.stored_lookup import find_stored, no_such_object
from billing.admission.binding import Binding, ObjectKind
from billing.admission.decision import Admission
from billing.admission.route import Route
from billing.admission.snapshot import Snapshot
from billing.engines.read_request import InferenceRequest
from billing.errors import InvalidInput


async def placed(
    port: BindingPort | None, snapshot: Snapshot, admission: Admission, request: InferenceRequest
) -> Admission:
    """The admission with the one backend that keeps what a request names; unchanged without.

    Raises:
        NotFound: an object that it names is not this tenant's.
        InvalidInput: the model is not served where they lie.
        Unavailable: nobody can tell now whose they are.
    """
    places: set[str] = set()
    field = ""
    for kind, object_id, field in _named(request):
        if port is None:
            raise no_such_object(field)
        _, backend = await find_stored(
            port,
            snapshot,
            tenant_id=admission.grant.tenant_id,
            kind=kind,
            object_id=object_id,
            field=field,
        )
        places.add(backend.name)
    if not places:
        return admission
    backends = tuple(backend for backend in admission.model.backends if {backend.name} == places)
    if not backends:
        raise InvalidInput(
            "The model is not served where the stored object lies.",
            field=field,
            remedy="Name the model with which it was made.",
        )
    return replace(admission, model=replace(admission.model, backends=backends, fallbacks=()))


def keeper_of(
    port: BindingPort | None, admission: Admission, request: InferenceRequest
) -> BindingPort | None:
    """Where the id of a response is bound, if it is to be stored.

    Raises:
        Unavailable: the client wants it stored, and its id could not be bound.
    """
    store = request.references.store
    if port is None or store is False or request.route is not Route.RESPONSES:
        return None
    stored_as = ObjectKind.RESPONSE.plural
    if not any(stored_as in backend.stores for backend in admission.model.backends):
        return None
    if port.healthy:
        return port
    if store:
        raise Unavailable("Responses cannot be stored at the moment; please retry.")
    return None


async def bind_answer(exchange: Exchange, object_ids: Sequence[str]) -> None:
    """Bind the ids of an answer, before they leave.

    Raises:
        UpstreamError: the backend issued one that cannot be this tenant's.
        Unavailable: they cannot be bound now; nobody may see them.
    """
    backend, keeper = exchange.backend, exchange.keeper
    if keeper is None or ObjectKind.RESPONSE.plural not in backend.stores:
        return
    grant = exchange.admission.grant
    await keeper.bind(
        [
            Binding(
                kind=ObjectKind.RESPONSE,
                backend=backend.name,
                object_id=object_id,
                tenant_id=grant.tenant_id,
                project_id=grant.project_id,
                key_id=grant.key_id,
                model_id=exchange.model.id,
                created_at_us=exchange.plant.clock(),
            )
            for object_id in object_ids
        ]
    )


def _named(request: InferenceRequest) -> Iterator[tuple[ObjectKind, str, str]]:
    """Kind, id and member of every object that a request names."""
    references = request.references
    if references.previous_response_id is not None:
        yield ObjectKind.RESPONSE, references.previous_response_id, "previous_response_id"
    for file_id in references.file_ids:
        yield ObjectKind.FILE, file_id, "file_id"
