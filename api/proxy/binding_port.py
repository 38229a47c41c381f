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
class SubmittedBatch:
    """A batch that a backend has taken, and what it is billed by.

    Attributes:
        binding: of the batch itself.
        endpoint: the route that each of its lines is a request of.
    """

    binding: Binding
    price_version_id: int
    endpoint: str
    input_file_id: str


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

    async def record(self, batch: SubmittedBatch, bindings: Sequence[Binding]) -> None:
        """As `bind`, and have the batch billed when it has run."""
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
