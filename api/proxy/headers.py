"""Header fields of a message; names in lower case."""

from __future__ import annotations

Headers = list[tuple[bytes, bytes]]
"""In their order, repeated ones too."""

Fields = dict[bytes, bytes]
"""By name; of a repeated one the last."""
