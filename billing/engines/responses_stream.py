"""Streams of the Responses API.

Decides: which of its events end a stream, carry usage, content or an id that a client can send
back. `response.completed`, `.incomplete`, `.failed` and `.cancelled` all end it; they carry the
usage of what was generated, which is billed whatever the outcome. Speech to text streams in the
same form, with the usage on its last event.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw

from billing.engines.answer_usage import tier_named
from billing.engines.event_stream import EventReading
from billing.engines.mark import Ending
from billing.engines.odd_json import read_odd
from billing.engines.sse import ends_stream
from billing.engines.usage import OF_RESPONSES, read_named_figures

_ENDS = frozenset(
    {
        "response.completed",
        "response.incomplete",
        "response.failed",
        "response.cancelled",
        "transcript.text.done",
    }
)
_FAILS = frozenset({"response.failed", "response.cancelled"})
_EMPTY = frozenset({b"", b"null", b'""', b"{}"})


class _Response(msgspec.Struct, frozen=True):
    id: Any = None
    usage: Raw = Raw(b"")
    service_tier: Raw = Raw(b"")


class _Event(msgspec.Struct, frozen=True):
    type: Any = None
    delta: Raw = Raw(b"")
    response: Raw = Raw(b"")
    usage: Raw = Raw(b"")
    error: Raw = Raw(b"")


_EVENT = msgspec.json.Decoder(_Event)
_RESPONSE = msgspec.json.Decoder(_Response)


class ResponsesReading(EventReading):
    """One stream of the Responses API."""

    __slots__ = ("_tiered",)

    def __init__(self, *, prompt_floor: int, tiered: bool = False) -> None:
        """
        Args:
            tiered: its responses name the service tier.
        """
        super().__init__(prompt_floor=prompt_floor)
        self._tiered = tiered

    def _read(self, payload: bytes) -> Ending | None:
        if ends_stream(payload):
            return Ending.DONE
        event = read_odd(_EVENT, payload)
        if event is None:
            broken = payload.startswith((b'{"error"', b'{"type":"error"', b'{"type": "error"'))
            return Ending.ERROR if broken else None
        kind = event.type if isinstance(event.type, str) else ""
        if kind == "error" or (not kind and bytes(event.error) not in _EMPTY):
            return Ending.ERROR
        if kind.endswith(".delta"):
            if bytes(event.delta) not in _EMPTY:
                self._content()
            return None
        response = read_odd(_RESPONSE, event.response) if bytes(event.response) else None
        if response is not None:
            self._note_id(response.id)
            if self._tiered:
                self.tier = tier_named(response.service_tier) or self.tier
        usage = event.usage if response is None else response.usage
        ends = kind in _ENDS
        if bytes(usage) not in _EMPTY:
            figures = read_named_figures(usage, OF_RESPONSES, generates=True)
            self._reported(usage, figures, whole=ends and bool(figures and figures.complete))
        if not ends:
            return None
        return Ending.ERROR if kind in _FAILS and not self.exact else Ending.DONE

    def _note_id(self, object_id: Any) -> None:
        if object_id and isinstance(object_id, str) and object_id not in self.object_ids:
            self.object_ids.append(object_id)
