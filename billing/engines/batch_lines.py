"""Result files of batches: what each of their lines costs.

Decides: which line was answered, which failed and which nobody can read, and what an answered one
is charged for: the same as the answer that it carries would be if it had been asked for alone.
Nothing else of a line is kept. Does not decide whose usage it is, nor whether it was counted
before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from msgspec import Raw

from billing.admission.route import Route
from billing.engines.batch_input import BATCH_ROUTES
from billing.engines.capabilities import engine_named
from billing.engines.read_request import InferenceRequest
from billing.engines.splice import Members
from billing.engines.whole_answer import Reading, read_whole
from billing.errors import InvalidInput
from billing.metering.usage_event import require_text

LINE_BYTES_MAX: Final = 64 << 20
"""Longest line that is read: the vectors of a few thousand texts fit in."""

_GENERIC: Final = engine_named("generic")
_NOTHING_SAID: Final = frozenset({b"", b"null"})
_SUCCESS: Final = range(200, 300)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A line whose request the backend has answered.

    Attributes:
        custom_id: the client's name of the request, unique in its batch.
        model: as the backend calls it; None if it does not say, or in no words that can be kept.
        reading: what the answer costs.
    """

    custom_id: str
    model: str | None
    reading: Reading


@dataclass(frozen=True, slots=True)
class Failed:
    """A line whose request failed, or was never begun: it costs nothing."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A line of which nobody can say what it costs.

    Attributes:
        reason: a stable word.
    """

    reason: str


BatchLine = Answered | Failed | Unreadable


class _Line(msgspec.Struct, frozen=True):
    custom_id: Any = None
    response: Raw = Raw(b"")
    error: Raw = Raw(b"")


class _Response(msgspec.Struct, frozen=True):
    status_code: Any = None
    body: Raw = Raw(b"")


class _Named(msgspec.Struct, frozen=True):
    model: Any = None


_LINE = msgspec.json.Decoder(_Line)
_RESPONSE = msgspec.json.Decoder(_Response)
_NAMED = msgspec.json.Decoder(_Named)
_UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def batch_route(endpoint: str) -> Route | None:
    """The route of a batch's lines; None where none of them could be metered."""
    return next((route for route in BATCH_ROUTES if route.value == endpoint), None)


def read_batch(pieces: Iterable[bytes], *, route: Route, passed: int = 0) -> Iterator[BatchLine]:
    """Read the lines of a result file while it arrives, in its order.

    Args:
        pieces: the file, cut anywhere. Of it one line at a time is in memory.
        passed: so many lines at the start are left out unread.
    """
    for number, line in enumerate(_lines(pieces)):
        if number >= passed:
            yield Unreadable("too_long") if line is None else read_batch_line(line, route=route)


def read_batch_line(line: bytes, *, route: Route) -> BatchLine:
    """Read one line of a result file, of requests on `route`."""
    try:
        found = _LINE.decode(line)
    except _UNDECODABLE:
        return Unreadable("not_json")
    if bytes(found.error) not in _NOTHING_SAID:
        return Failed()
    try:
        response = _RESPONSE.decode(found.response)
        if not isinstance(response.status_code, int):
            return Unreadable("no_status")
        if response.status_code not in _SUCCESS:
            return Failed()
        model = _NAMED.decode(response.body).model
    except _UNDECODABLE:
        return Unreadable("no_response")
    if not isinstance(found.custom_id, str) or not found.custom_id:
        return Unreadable("no_custom_id")
    return Answered(
        custom_id=found.custom_id,
        model=model if isinstance(model, str) and _can_be_kept(model) else None,
        reading=read_whole(
            bytes(response.body),
            route=route,
            engine=_GENERIC,
            request=_unseen(route),
            prompt_floor=0,
        ),
    )


def _unseen(route: Route) -> InferenceRequest:
    """What is known of a request that stood in a file which we never kept."""
    return InferenceRequest(
        route=route,
        model="",
        stream=False,
        max_tokens=None,
        choices=1,
        wants_usage=False,
        wants_continuous=False,
        members=Members(b"", {}),
    )


def _can_be_kept(name: str) -> bool:
    try:
        require_text(name, field="model")
    except InvalidInput:
        return False
    return True


def _lines(pieces: Iterable[bytes]) -> Iterator[bytes | None]:
    """Lines that are not blank; None in the place of one that is longer than any may be."""
    parts: list[bytes] = []
    size = 0
    for piece in pieces:
        start = 0
        while (end := piece.find(b"\n", start)) >= 0:
            size += end - start
            yield from _line(parts, piece[start:end], size)
            parts, size, start = [], 0, end + 1
        size += len(piece) - start
        # Of a line that is too long nothing is kept: it would take the memory of everything else.
        if size <= LINE_BYTES_MAX:
            parts.append(piece[start:])
        else:
            parts.clear()
    yield from _line(parts, b"", size)


def _line(parts: list[bytes], last: bytes, size: int) -> Iterator[bytes | None]:
    if size > LINE_BYTES_MAX:
        yield None
        return
    line = b"".join([*parts, last]).strip()
    if line:
        yield line
