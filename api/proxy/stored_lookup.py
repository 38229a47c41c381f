"""From the id of a stored object to the backend that keeps it.

Decides: that an id which is unknown, another tenant's, or kept by a backend that is no longer there
is refused in the same words, after the same look-up. Does not decide what is asked of the backend.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from api.proxy.binding_port import BindingPort
from api.proxy.client_request import ClientRequest
from api.proxy.limits import Limits
from api.proxy.stored_calls import StoredCalls
from billing.admission.backend import Backend
from billing.admission.binding import Binding, ObjectKind, is_object_id
from billing.admission.route import RouteSpec
from billing.admission.snapshot import KeyGrant, Snapshot
from billing.errors import NotFound


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRequest:
    """A request about stored objects whose key may make it.

    Attributes:
        ids: in its path, by name.
        key_digest: SHA-256 of its key.
        now_us: when it came, in µs since 1970 UTC.
    """

    spec: RouteSpec
    kind: ObjectKind
    ids: Mapping[str, str]
    key_digest: bytes
    grant: KeyGrant
    snapshot: Snapshot
    received: ClientRequest
    calls: StoredCalls
    port: BindingPort
    limits: Limits
    now_us: int

    def binding(
        self,
        object_id: str,
        backend: Backend,
        *,
        kind: ObjectKind | None = None,
        model_id: int | None = None,
        expires_at_us: int | None = None,
    ) -> Binding:
        """An object of this tenant, as it is bound."""
        return Binding(
            kind=kind or self.kind,
            backend=backend.name,
            object_id=object_id,
            tenant_id=self.grant.tenant_id,
            project_id=self.grant.project_id,
            key_id=self.grant.key_id,
            model_id=model_id,
            created_at_us=self.now_us,
            expires_at_us=expires_at_us,
        )

    async def find(
        self, kind: ObjectKind, object_id: str, *, field: str | None = None
    ) -> tuple[Binding, Backend]:
        """As `find_stored`, for this tenant."""
        tenant_id = self.grant.tenant_id
        return await find_stored(
            self.port,
            self.snapshot,
            tenant_id=tenant_id,
            kind=kind,
            object_id=object_id,
            field=field,
        )


async def find_stored(
    port: BindingPort,
    snapshot: Snapshot,
    *,
    tenant_id: int,
    kind: ObjectKind,
    object_id: str,
    field: str | None = None,
) -> tuple[Binding, Backend]:
    """An object of a tenant and the backend that keeps it.

    Args:
        field: where a request names it, if not in its path.

    Raises:
        NotFound: there is none, or it is another tenant's.
        Unavailable: that cannot be told now.
    """
    if is_object_id(object_id):
        binding = await port.find(tenant_id=tenant_id, kind=kind, object_id=object_id)
        if binding is not None:
            backend = backend_of(snapshot, binding)
            if backend is not None:
                return binding, backend
    raise no_such_object(field)


def backend_of(snapshot: Snapshot, binding: Binding) -> Backend | None:
    """The backend that keeps an object, if it is still served."""
    for model in snapshot.models.values():
        for backend in model.backends:
            if backend.name == binding.backend and binding.kind.plural in backend.stores:
                return backend
    return None


def no_such_object(field: str | None = None) -> NotFound:
    """The refusal of an id that is bound to nobody, or to somebody else."""
    return NotFound("There is no such object, or you do not have access to it.", field=field)
