"""What stands for a reporter's id in the key table: 16 bytes, and the text where they are not it.

Most reporters send UUIDs. One in its usual form (lower case, four hyphens) is its own key, and its
text is not kept beside it. Any other text gets a fingerprint, a UUID of version 8 (RFC 9562) made
of 122 bits of its SHA-256, and is kept: whoever looks an id up compares the text too, so that two
ids never pass for one. UUIDs of version 8 are fingerprinted like texts; no UUID is therefore ever
the fingerprint of something else. `fingerprint_key` in the database computes the same.
"""

from __future__ import annotations

import hashlib
from typing import Final

_UUID_LENGTH: Final = 36
_VERSION_AT: Final = 14
_FINGERPRINTED: Final = "8"


def reported_key(foreign_id: str) -> tuple[bytes, str | None]:
    """What stands for a reporter's id, among those of its tenant and source.

    Returns:
        16 bytes, and the id itself where it cannot be read from them. A plain pair, because one is
        made per event.
    """
    if (
        len(foreign_id) == _UUID_LENGTH
        and foreign_id[8] == foreign_id[13] == foreign_id[18] == foreign_id[23] == "-"
        and foreign_id[_VERSION_AT] != _FINGERPRINTED
        and foreign_id == foreign_id.lower()
    ):
        try:
            key = bytes.fromhex(foreign_id.replace("-", ""))
        except ValueError:
            key = b""
        if len(key) == 16:  # else there were more hyphens, or blanks, which `fromhex` skips
            return key, None
    return fingerprint(foreign_id), foreign_id


def fingerprint(foreign_id: str) -> bytes:
    """The 16 bytes that stand for a text."""
    digest = hashlib.sha256(foreign_id.encode()).digest()
    marked = bytes((digest[6] & 0x0F | 0x80, digest[7], digest[8] & 0x3F | 0x80))
    return digest[:6] + marked + digest[9:16]
