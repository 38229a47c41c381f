"""Streams of Anthropic's Messages API, as its own servers and several engines send them.

Decides: which of its events end a stream or carry usage or content. `message_start` says the
prompt, `message_delta` the output so far: cumulative, never to be summed. Some engines put usage
on every event; the highest figure counts.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw

from billing.engines.event_stream import EventReading
from billing.engines.mark import Ending
from billing.engines.odd_json import read_odd
from billing.engines.usage import OF_MESSAGES, read_named_figures

_EMPTY = frozenset({b"", b"null", b'""', b"{}", b"[]"})


class _Delta(msgspec.Struct, frozen=True):
    text: Raw = Raw(b"")
    thinking: Raw = Raw(b"")
    partial_json: Raw = Raw(b"")


class _Message(msgspec.Struct, frozen=True):
    usage: Raw = Raw(b"")


class _Event(msgspec.Struct, frozen=True):
    type: Any = None
    delta: Raw = Raw(b"")
    message: Raw = Raw(b"")
    usage: Raw = Raw(b"")
    error: Raw = Raw(b"")


_EVENT = msgspec.json.Decoder(_Event)
_MESSAGE = msgspec.json.Decoder(_Message)
_NO_MESSAGE = _Message()
_DELTA = msgspec.json.Decoder(_Delta)


class MessagesReading(EventReading):
    """One stream of the Messages API."""

    __slots__ = ("_prompt_said", "_tiered")

    def __init__(self, *, prompt_floor: int, tiered: bool = False) -> None:
        """
        Args:
            tiered: its usage names the service tier.
        """
        super().__init__(prompt_floor=prompt_floor)
        self._prompt_said = False
        self._tiered = tiered

    def _read(self, payload: bytes) -> Ending | None:
        event = read_odd(_EVENT, payload)
        if event is None:
            broken = payload.startswith((b'{"error"', b'{"type":"error"', b'{"type": "error"'))
            return Ending.ERROR if broken else None
        match event.type:
            case "message_stop":
                return Ending.DONE
            case "error":
                return Ending.ERROR
            case None if bytes(event.error) not in _EMPTY:
                return Ending.ERROR
            case "content_block_delta":
                if _carries(event.delta):
                    self._content()
                self._report(event.usage)
            case "message_start":
                message = read_odd(_MESSAGE, event.message) or _NO_MESSAGE
                self._report(message.usage, first=True)
            case "message_delta":
                self._report(event.usage, last=True)
            case _:
                self._report(event.usage)
        return None

    def _report(self, usage: Raw, *, first: bool = False, last: bool = False) -> None:
        if bytes(usage) in _EMPTY:
            return
        figures = read_named_figures(usage, OF_MESSAGES, generates=True, tiered=self._tiered)
        if first and figures is not None:
            figures.completion = figures.reasoning = 0  # generated, not delivered with this event
        self._reported(usage, figures, whole=False)
        if figures is not None:
            self.tier = figures.tier or self.tier
            self._prompt_said = self._prompt_said or figures.prompt_said
            counted = figures.completion_said and (
                figures.completion > 0 or not self.mark.completion
            )
            self.exact = False
            if last and counted and self._prompt_said:
                self._conclude()


def _carries(delta: Raw) -> bool:
    try:
        piece = _DELTA.decode(delta)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return (
        bytes(piece.text) not in _EMPTY
        or bytes(piece.thinking) not in _EMPTY
        or bytes(piece.partial_json) not in _EMPTY
    )
