"""Bind objects of backends to tenants, and find them again.

Decides: that an id belongs to the tenant that it was first bound to, until its row leaves
(`retire_objects.py`). Does not decide
who asks, nor what the objects hold: that is never read here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from billing.admission.binding import Binding, ObjectKind, is_object_id
from billing.errors import Conflict
from billing.store import stored_objects as store


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectPage:
    """Some objects of a tenant.

    Attributes:
        more: whether others come behind them.
    """

    objects: tuple[Binding, ...]
    more: bool


def bind(connection: sa.Connection, bindings: Sequence[Binding]) -> None:
    """Bind objects to their tenants, all or none; bound again by its own, it stays as it is.

    Raises:
        Conflict: an id is another tenant's, or the tenant has one like it at another backend, or
            no path could carry it.
    """
    # In one order, so that two requests that bind the same files cannot wait for each other.
    for binding in sorted(bindings, key=lambda binding: (binding.kind, binding.object_id)):
        if not is_object_id(binding.object_id) or not store.insert_object(connection, binding):
            raise Conflict(
                "the backend issued an id that cannot be bound to this tenant",
                remedy="ask the backend for another one",
            )


def find(
    connection: sa.Connection, *, tenant_id: int, kind: ObjectKind, object_id: str
) -> Binding | None:
    """An object of a tenant; None for an unknown one, a deleted one and anybody else's."""
    return store.find_object(connection, tenant_id=tenant_id, kind=kind, object_id=object_id)


def page(
    connection: sa.Connection,
    *,
    tenant_id: int,
    kind: ObjectKind,
    after: str | None,
    limit: int,
    oldest_first: bool = False,
) -> ObjectPage:
    """Objects of a tenant by age.

    Args:
        after: id of the object behind which the page begins; an unknown one gives none.
    """
    found = store.page_of_objects(
        connection,
        tenant_id=tenant_id,
        kind=kind,
        after=after,
        most=limit + 1,
        oldest_first=oldest_first,
    )
    return ObjectPage(objects=tuple(found[:limit]), more=len(found) > limit)


def forget(connection: sa.Connection, binding: Binding, *, now: datetime) -> None:
    """The backend has deleted it: nobody finds it any more."""
    store.delete_object(connection, binding, now=now)
