"""Chunks of a body that arrive whole, so that no parser need look at them.

Decides: which bytes are nothing but whole chunks, as servers write small ones. Engines send one
chunk per token, and each mostly arrives alone: reading it here costs half of what the parser and
its callbacks cost. Everything else (other sizes, extensions, a part of a chunk, the last one) goes
to the parser.

Does not decide where a chunk may begin: whoever asks knows that nothing of one was read.
"""

from __future__ import annotations

from typing import Final

_SIZES: Final = {b"%x" % size: size for size in range(1, 4 << 10)}
_LINE_BYTES: Final = 5  # three digits and the end of the line


def whole_chunks(content: bytes, start: int = 0) -> bytes | None:
    """What the chunks carry that these bytes are from `start` on; None if not just that."""
    parts: list[bytes] = []
    end = len(content)
    while start < end:
        line_end = content.find(b"\r\n", start, start + _LINE_BYTES)
        size = _SIZES.get(content[start:line_end])
        if line_end < 0 or size is None:
            return None
        begin = line_end + 2
        start = begin + size
        if content[start : start + 2] != b"\r\n":
            return None
        parts.append(content[begin:start])
        start += 2
    return parts[0] if len(parts) == 1 else b"".join(parts)
