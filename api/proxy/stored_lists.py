"""Lists of a tenant's files and batches.

Decides: that a list is of the ids that are bound to the tenant, never of what a backend would list,
which knows no tenants. Each object is shown as its backend shows it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Literal
from urllib.parse import parse_qsl

import msgspec

from api.proxy.stored_batches import bind_files
from api.proxy.stored_lookup import StoredRequest, backend_of
from billing.admission.binding import Binding, ObjectKind, is_object_id
from billing.engines.unsupported import UnsupportedParameter
from billing.errors import InvalidInput, UpstreamError

_AT_ONCE = 8
"""Objects that are asked for at a time."""


class _Query(msgspec.Struct, forbid_unknown_fields=True):
    limit: int = 20
    after: str | None = None
    order: Literal["asc", "desc"] = "desc"
    purpose: str | None = None


class _Purpose(msgspec.Struct):
    purpose: str | None = None


_PURPOSE = msgspec.json.Decoder(_Purpose)


class _List(msgspec.Struct):
    data: list[msgspec.Raw]
    first_id: str | None
    last_id: str | None
    has_more: bool
    object: str = "list"


async def list_objects(asked: StoredRequest) -> None:
    """Answer with a page of the tenant's objects.

    Raises:
        InvalidInput: a parameter that cannot be used.
        Unavailable: the tenant's ids cannot be asked for now.
        UpstreamError: a backend does not answer.
    """
    query = _read(asked.received.query)
    if query.purpose is not None and asked.kind is not ObjectKind.FILE:
        raise UnsupportedParameter("Only files have a purpose.", field="purpose")
    after, shown, more = query.after, list[tuple[str, msgspec.Raw]](), True
    # A page of which nothing is shown would look like the end to a client.
    while more and not shown:
        page, more = await asked.port.page(
            tenant_id=asked.grant.tenant_id,
            kind=asked.kind,
            after=after,
            limit=query.limit,
            oldest_first=query.order == "asc",
        )
        shown = [each for each in await _shown(asked, page) if _is_for(query.purpose, each[1])]
        after = page[-1].object_id if page else after
    ids = [object_id for object_id, _ in shown]
    answer = _List(
        data=[raw for _, raw in shown],
        first_id=ids[0] if ids else None,
        last_id=ids[-1] if ids else None,
        has_more=more,
    )
    asked.calls.answer_json(msgspec.json.encode(answer))


def _read(query: bytes) -> _Query:
    try:
        members = dict(parse_qsl(query.decode("ascii"), strict_parsing=bool(query)))
        read = msgspec.convert(members, _Query, strict=False)
    except msgspec.ValidationError:
        raise UnsupportedParameter(
            "A query parameter is not taken here.",
            field="query",
            remedy="Send limit, after, order and purpose.",
        ) from None
    except ValueError:
        raise InvalidInput("The query cannot be read.", field="query") from None
    if not 1 <= read.limit <= 100:
        raise InvalidInput("Must be 1 to 100.", field="limit")
    if read.after is not None and not is_object_id(read.after):
        raise InvalidInput("Must be the id of an object.", field="after")
    return read


def _is_for(purpose: str | None, shown: msgspec.Raw) -> bool:
    """Whether a file is shown to have a purpose; None: whatever it has."""
    if purpose is None:
        return True
    try:
        return _PURPOSE.decode(shown).purpose == purpose
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise UpstreamError("The inference backend's answer cannot be used.") from None


async def _shown(asked: StoredRequest, page: Sequence[Binding]) -> list[tuple[str, msgspec.Raw]]:
    """What the backends show of a page's objects; those that they no longer have are left out."""
    places = asyncio.Semaphore(_AT_ONCE)

    async def show(binding: Binding) -> bytes | None:
        async with places:
            return await _show(asked, binding)

    showing = [asyncio.create_task(show(binding)) for binding in page]
    try:
        bodies = await asyncio.gather(*showing)
    finally:
        for task in showing:
            task.cancel()
    found = zip(page, bodies, strict=True)
    return [(binding.object_id, msgspec.Raw(body)) for binding, body in found if body is not None]


async def _show(asked: StoredRequest, binding: Binding) -> bytes | None:
    backend = backend_of(asked.snapshot, binding)
    if backend is None:
        return None
    path = f"/v1/{binding.kind.plural}/{binding.object_id}"
    answer = await asked.calls.whole(backend, "GET", path, limit_bytes=asked.limits.object_bytes)
    if answer.status == 404:
        return None
    if not answer.good:
        raise UpstreamError("The inference backend did not show an object.")
    if binding.kind is ObjectKind.BATCH:
        await bind_files(asked, backend, answer.body)
    return answer.body
