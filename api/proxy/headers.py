"""Header fields of a message, in their order; names in lower case."""

from __future__ import annotations

Headers = list[tuple[bytes, bytes]]
