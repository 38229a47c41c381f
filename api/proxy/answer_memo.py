"""The head of the last answers of a backend's connection, so that it need not be parsed again.

Decides: which heads are kept: of a whole answer with status 200 that says its length, and nothing
that would make the next one be read in another way. Does not decide which bytes are another answer
with that head (`said_head.py`).
"""

from __future__ import annotations

from typing import NamedTuple

from api.proxy.answer_head import AnswerFacts
from api.proxy.headers import Headers
from api.proxy.said_head import LENGTH, VAIN_MAX, SaidHead, said_head

_OK = 200
_MEAN_MORE = frozenset({b"connection", b"trailer", b"transfer-encoding", b"upgrade"})


class RecalledAnswer(NamedTuple):
    """A whole answer whose head was known."""

    status: int
    facts: AnswerFacts
    headers: Headers
    body: bytes


class AnswerMemo:
    """What one connection can repeat."""

    __slots__ = ("_facts", "_said", "_vain")

    def __init__(self) -> None:
        self._said: SaidHead | None = None
        self._facts: AnswerFacts | None = None
        self._vain = 0  # remembered since one was of use

    def recall(self, content: bytes) -> RecalledAnswer | None:
        """The answer that these bytes are, if it came with the remembered head."""
        if self._said is None or self._facts is None:
            return None
        found = self._said.body_of(content)
        if found is None:
            return None
        self._vain = 0
        digits, body = found
        return RecalledAnswer(_OK, self._facts, self._said.headers(digits), body)

    def remember(self, content: bytes, status: int, headers: Headers, facts: AnswerFacts) -> None:
        """Keep the head of an answer that was parsed.

        Args:
            content: the answer and nothing else, from its first byte to its last.
            headers: of it; names in lower case.
        """
        if status != _OK or self._vain >= VAIN_MAX:
            return
        fields = dict(headers)
        if len(fields) != len(headers) or not fields.keys().isdisjoint(_MEAN_MORE):
            return
        said = said_head(content, headers, fields.get(LENGTH, b""))
        if said is not None:
            self._vain += 1
            self._said, self._facts = said, facts
