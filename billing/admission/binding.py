"""Objects that a backend keeps for a tenant, by the ids that it gave them.

Decides: what is known of such an object, and which ids can be one. Its content is the backend's
alone. Does not decide when an id is bound: before it leaves to a client.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

_ID = re.compile(r"[A-Za-z0-9_-]{1,128}\Z")


class ObjectKind(StrEnum):
    """What a backend can keep."""

    RESPONSE = "response"
    FILE = "file"
    BATCH = "batch"

    @property
    def plural(self) -> str:
        """As paths and the `stores` of a backend have it."""
        return "batches" if self is ObjectKind.BATCH else f"{self.value}s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """Whose an object is, and which backend has it.

    Attributes:
        object_id: as the backend issued it.
        key_id: of the key with which it was made.
        model_id: of the model that made it; None where it belongs to no model.
        created_at_us: when it was bound, in µs since 1970 UTC.
        expires_at_us: when the backend drops it, in µs since 1970 UTC; None where it said nothing.
    """

    kind: ObjectKind
    backend: str
    object_id: str
    tenant_id: int
    project_id: int
    key_id: int
    model_id: int | None
    created_at_us: int
    expires_at_us: int | None = None


def is_object_id(text: str) -> bool:
    """Whether a text can be the id of an object: what else a path can carry names none."""
    return _ID.match(text) is not None
