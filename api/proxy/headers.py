"""Header fields of a message; names in lower case."""

from __future__ import annotations

from dataclasses import dataclass

Headers = list[tuple[bytes, bytes]]
"""In their order, repeated ones too."""

Fields = dict[bytes, bytes]
"""By name; of a repeated one the last."""


def lines_of(headers: Headers) -> bytes:
    """As they stand in a head."""
    return b"".join([b"%b: %b\r\n" % field for field in headers])


@dataclass(slots=True)
class HeadFacts:
    """What was made out of a request's head, for the requests that repeat it word for word.

    Only what nothing but the head decides, its method and path among it; the length of a body is
    not of it. None until somebody has asked.

    Attributes:
        key_digest: of the key that it names.
        forwarded: those of its lines that a backend gets.
    """

    key_digest: bytes | None = None
    forwarded: bytes | None = None
