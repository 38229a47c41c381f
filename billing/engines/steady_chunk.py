"""The form that one chunk after the other of a stream has.

Decides: whether a chunk differs from one that was decoded before in nothing but its text and its
counts. Then its counts are known without decoding it: for most streams, of all chunks but the
first and the last. Whatever else may be different is not of the form, and is decoded.

Why this is exact: every byte outside one string and two numbers is the same as in a chunk that
was decoded, the string is a whole JSON string and not empty, and each number can be written in
one way only. So both chunks decode to the same tree, but for that string and those numbers.
"""

from __future__ import annotations

import re

from billing.engines.sse import Event
from billing.engines.usage import read_figures

_TEXT = re.compile(rb'"(?:delta": ?\{"(?:content|reasoning_content|reasoning)|text)": ?"')
_string = re.compile(rb'[^"\\\x00-\x1f]*+(?:\\(?:["\\/bfnrt]|u[0-9A-Fa-f]{4})[^"\\\x00-\x1f]*+)*+')
_is_string = _string.fullmatch
_COUNTS = re.compile(
    rb'\{"prompt_tokens":(\d{1,15}),"(completion|total)_tokens":(\d{1,15}),'
    rb'"(completion|total)_tokens":(\d{1,15})(?=[,}])'
)
_COUNTED_ONCE = (b'"prompt_tokens"', b'"completion_tokens"', b'"total_tokens"', b"\\")
_DIGITS = 15
_CLOSE = b"}\n\n"


class SteadyChunk:
    """What the chunks of one stream have in common. Make it with `steady_chunk`.

    Attributes:
        counted: its chunks carry usage.
        completion: generated tokens up to the last chunk that had the form, as the engine said
            them; 0 where its chunks carry no usage.
    """

    __slots__ = (
        "_between",
        "_end",
        "_newest",
        "_prefix",
        "_prompt",
        "_shown_end",
        "_shown_tail",
        "_start",
        "_stop",
        "_tail",
        "_total_first",
        "_usage_at",
        "completion",
        "counted",
    )

    def __init__(self, prefix: bytes, tail: bytes) -> None:
        """A form without counts: bytes up to the text, its quote included, and from there on."""
        self._prefix, self._start = prefix, len(prefix)
        self._tail = tail
        self._shown_tail, self._shown_end = len(tail), b""  # what the client gets of the tail
        self._between = b""
        self._end = self._usage_at = self._prompt = 0
        self._total_first = False
        self._newest, self._stop = b"", 0
        self.counted = False
        self.completion = 0

    def show(self, shown: bytes, text: bytes) -> bool:
        """Learn what the client gets of the chunk; False if more than its end differs."""
        common = next(
            (at for at, (one, other) in enumerate(zip(shown, text, strict=False)) if one != other),
            len(shown),
        )
        self._shown_tail = common - (len(text) - len(self._tail))
        self._shown_end = shown[common:]
        return self._shown_tail > 0

    def count(self, usage: bytes) -> bool:
        """Learn where the counts stand in the usage object that ends it; False if they are not
        where most engines write them, or contradict each other."""
        counts = _COUNTS.match(usage)
        figures = read_figures(usage, generates=True)
        if counts is None or figures is None or not figures.complete or figures.anomalies:
            return False
        fixed = usage[counts.end() :]
        total_first = counts[2] == b"total"
        first, second = int(counts[3]), int(counts[5])
        completion, total = (second, first) if total_first else (first, second)
        if (
            counts[2] == counts[4]
            or not figures.prompt
            or not completion
            or (int(counts[1]), completion) != (figures.prompt, figures.completion)
            or total != figures.prompt + completion
            or any(word in fixed for word in _COUNTED_ONCE)
        ):
            return False
        self._usage_at = len(self._tail) - len(usage) - len(_CLOSE)
        before = self._tail[: self._usage_at] + usage[: counts.start(3)]
        self._between = usage[counts.end(3) : counts.start(5)]
        end = fixed + _CLOSE
        self._tail = b"%d".join(part.replace(b"%", b"%%") for part in (before, self._between, end))
        self._end = len(end)
        self.counted = True
        self._prompt, self._total_first, self.completion = figures.prompt, total_first, completion
        return True

    def read(self, text: bytes) -> bytes | None:
        """What the client gets of a chunk; None where it is not of the form."""
        completion, tail = self.completion, self._tail
        if self.counted:
            completion += 1  # what most chunks say next
            total = self._prompt + completion
            tail %= (total, completion) if self._total_first else (completion, total)
            if not text.endswith(tail):
                completion = self._completion_in(text)
                total = self._prompt + completion
                tail = self._tail % (
                    (total, completion) if self._total_first else (completion, total)
                )
                if completion < self.completion:
                    return None
        stop = len(text) - len(tail)
        if not (
            text.endswith(tail)
            and text.startswith(self._prefix)
            and self._start < stop
            and _is_string(text, self._start, stop)
        ):
            return None
        self.completion = completion
        self._newest, self._stop = text, stop
        return text[: stop + self._shown_tail] + self._shown_end if self._shown_end else text

    def _completion_in(self, text: bytes) -> int:
        """The count where the form has it; -1 where no number stands there."""
        digits = text[text.rfind(self._between) + len(self._between) : -self._end]
        if not digits.isdigit() or len(digits) > _DIGITS:
            return -1
        return int(digits) - (0 if self._total_first else self._prompt)

    @property
    def usage(self) -> bytes:
        """JSON text of the usage object of the last chunk that had the form."""
        return self._newest[self._stop + self._usage_at : -len(_CLOSE)]


def steady_chunk(event: Event, shown: bytes) -> SteadyChunk | None:
    """The form of a chunk that was decoded, for those that follow; None if it cannot be told.

    Args:
        event: has one choice, which has not finished.
        shown: what the client gets of it.
    """
    text = event.text
    found = _TEXT.search(text)
    if found is None or not text.startswith(b"data: {") or not text.endswith(_CLOSE):
        return None
    string = _string.match(text, found.end())
    if string is None or text[string.end() : string.end() + 1] != b'"':
        return None
    steady = SteadyChunk(text[: found.end()], text[string.end() :])
    if shown != text and not steady.show(shown, text):
        return None
    if event.usage is not None and not (event.cut and steady.count(bytes(event.usage))):
        return None
    return steady if steady.read(text) == shown else None
