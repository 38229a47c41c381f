"""Lists by cursor, as every Stripe list is: newest first unless the list says otherwise.

Decides page limits, cursors and `created` ranges.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tests.fake_stripe.failures import invalid
from tests.fake_stripe.world import Object, Params

PAGE_DEFAULT = 10
PAGE_MAX = 100


def page(ordered: list[Object], params: Params, url: str) -> Object:
    """One page of `ordered`, which is already in the order of the list."""
    limit = params.get("limit", PAGE_DEFAULT)
    if not 1 <= limit <= PAGE_MAX:
        raise invalid("This value must be between 1 and 100.", param="limit")
    after, before = params.get("starting_after"), params.get("ending_before")
    if after is not None and before is not None:
        raise invalid("You cannot parameterize both starting_after and ending_before.")
    ids = [item["id"] for item in ordered]
    if before is not None:
        end = _position(ids, before, "ending_before")
        window, has_more = ordered[max(0, end - limit) : end], end > limit
    else:
        start = 0 if after is None else _position(ids, after, "starting_after") + 1
        window, has_more = ordered[start : start + limit], start + limit < len(ordered)
    return {"object": "list", "url": url, "has_more": has_more, "data": window}


def created_within(items: Iterable[Object], bounds: int | dict[str, int] | None) -> list[Object]:
    """Those whose `created` is the given second, or lies in the given range."""
    if bounds is None:
        return list(items)
    if isinstance(bounds, int):
        return [item for item in items if item["created"] == bounds]
    return [item for item in items if all(_holds(item["created"], b) for b in bounds.items())]


def _holds(created: int, bound: tuple[str, Any]) -> bool:
    match bound:
        case ("gt", second):
            return created > second
        case ("gte", second):
            return created >= second
        case ("lt", second):
            return created < second
        case (_, second):
            return created <= second


def _position(ids: list[str], cursor: str, param: str) -> int:
    if cursor not in ids:
        raise invalid(f"No such object: '{cursor}'", code="resource_missing", param=param)
    return ids.index(cursor)
