"""API keys: their text, their checksum, their digest.

`sk-sy-<public 12>-<secret 32><checksum 6>`, letters and digits only after the prefix. The public
part names the key in lists and logs; the secret part has 190 bits; the checksum lets a scanner or
a client tell a mistyped key from an unknown one without asking us. Only the SHA-256 digest of the
whole text is stored. Randomness is handed in; nothing here draws it.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
PREFIX = "sk-sy-"
PUBLIC_CHARS = 12
SECRET_CHARS = 32
CHECKSUM_CHARS = 6
RANDOM_BITS = 272
"""Random bits for one key: 72 for the public part, 200 for the secret."""

_SHAPE = re.compile(rf"{PREFIX}[0-9A-Za-z]{{{PUBLIC_CHARS}}}-[0-9A-Za-z]{{38}}", re.ASCII)


class Role(StrEnum):
    """What a key may do."""

    TENANT = "tenant"
    """Inference, and the tenant's own usage, invoices, outcomes and keys."""
    INFERENCE = "inference"
    """Inference only: the key that goes into an application."""
    OPERATOR = "operator"
    """Everything of this deployment; never inference."""
    FINANCE = "finance"
    """Reads invoices, journals and margin of all tenants; changes nothing."""

    @property
    def belongs_to_tenant(self) -> bool:
        """True if a key of this role is always one tenant's."""
        return self in {Role.TENANT, Role.INFERENCE}

    @property
    def may_infer(self) -> bool:
        """True if the proxy serves this role."""
        return self in {Role.TENANT, Role.INFERENCE}


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A key as it is listed: everything but the secret."""

    id: int
    tenant: str | None
    project: str | None
    role: Role
    public: str
    name: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


def key_text(randomness: int) -> str:
    """The text of a new key from `RANDOM_BITS` random bits. Shown once, never stored."""
    public, rest = _base62(randomness, PUBLIC_CHARS)
    secret, _ = _base62(rest, SECRET_CHARS)
    body = f"{PREFIX}{public}-{secret}"
    return body + _checksum(body)


def is_well_formed(text: str) -> bool:
    """True if shape and checksum are right; says nothing about whether the key exists."""
    return bool(_SHAPE.fullmatch(text)) and _checksum(text[:-CHECKSUM_CHARS]) == text[-6:]


def public_part(text: str) -> str:
    """The part of a key that may be shown and logged."""
    return text[: len(PREFIX) + PUBLIC_CHARS]


def digest(text: str) -> bytes:
    """SHA-256 of the whole key: what is stored and looked up."""
    return hashlib.sha256(text.encode()).digest()


def _base62(number: int, length: int) -> tuple[str, int]:
    digits: list[str] = []
    for _ in range(length):
        number, index = divmod(number, 62)
        digits.append(ALPHABET[index])
    return "".join(digits), number


def _checksum(body: str) -> str:
    return _base62(zlib.crc32(body.encode()), CHECKSUM_CHARS)[0]
