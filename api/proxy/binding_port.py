"""Where the ids that backends issue become their tenants', as a narrow interface.

Decides: the shape of the seam. The request path waits on it in one case only: before an id leaves
that a client can send back, and before one that came back reaches a backend.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from billing.admission.binding import Binding, ObjectKind


@dataclass(frozen=True, slots=True, kw_only=True)
class IntendedBatch:
    """A batch that a backend is about to be asked to run, and what it is billed by.

    Attributes:
        binding: of the batch, under the id of the request that asks for it.
        operation_id: of that request, as bytes.
        endpoint: the route that each of its lines is a request of.
        credit: id of the credit that it draws on; None for a postpaid tenant.
        most: what its lines can cost together, in 10⁻¹² of the major unit.
    """

    binding: Binding
    operation_id: bytes
    price_version_id: int
    endpoint: str
    input_file_id: str
    credit: int | None
    most: int


class BindingPort(Protocol):
    """Which tenant an object of a backend belongs to.

    Every method raises Unavailable while the database cannot be asked.
    """

    @property
    def healthy(self) -> bool:
        """False just after the database could not be asked."""
        ...

    async def bind(self, bindings: Sequence[Binding]) -> None:
        """Return once the objects are durably their tenants'.

        Raises:
            UpstreamError: a backend issued an id that cannot be this tenant's.
        """
        ...

    async def intend(self, batch: IntendedBatch) -> None:
        """Return once it is durable that a batch may run, and what it can cost is set aside.

        Raises:
            LimitReached: the tenant's credit has not that much left.
        """
        ...

    async def record(
        self, batch: IntendedBatch, batch_id: str, bindings: Sequence[Binding]
    ) -> None:
        """As `bind`, also of the batch under its backend's id, and have it billed when it has
        run."""
        ...

    async def give_up(self, batch: IntendedBatch) -> None:
        """The backend does not run it: nothing is set aside for it any more."""
        ...

    async def find(self, *, tenant_id: int, kind: ObjectKind, object_id: str) -> Binding | None:
        """An object of a tenant; None for an unknown one and anybody else's."""
        ...

    async def page(
        self,
        *,
        tenant_id: int,
        kind: ObjectKind,
        after: str | None,
        limit: int,
        oldest_first: bool,
    ) -> tuple[Sequence[Binding], bool]:
        """Objects of a tenant behind `after`, by age, and whether others follow."""
        ...

    async def is_awaited(self, binding: Binding) -> bool:
        """Whether a file may hold results of a batch that are not billed yet."""
        ...

    async def forget(self, binding: Binding) -> None:
        """The backend has deleted it."""
        ...
