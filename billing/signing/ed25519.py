"""Ed25519 keys: made on first use in a file that only its user can read, and signatures.

Decides nothing about what is signed. A key's id is the beginning of the hash of its public half.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from billing.errors import ConfigurationError

SEED_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class SealKey:
    """A key that signs heads."""

    private: Ed25519PrivateKey = field(repr=False)

    @property
    def public_key(self) -> bytes:
        """The public half, 32 bytes."""
        return self.private.public_key().public_bytes_raw()

    @property
    def id(self) -> str:
        """The key's id."""
        return key_id(self.public_key)

    def sign(self, text: str) -> bytes:
        """A signature of 64 bytes."""
        return self.private.sign(text.encode())


def key_id(public_key: bytes) -> str:
    """The id of a public key: 16 hexadecimal digits of its hash."""
    return hashlib.sha256(public_key).hexdigest()[:16]


def verify(public_key: bytes, text: str, signature: bytes) -> bool:
    """Whether a signature is that of a key."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, text.encode())
    except InvalidSignature:
        return False
    return True


def load_or_make(path: Path) -> SealKey:
    """The key in a file; a new one if there is no such file.

    Raises:
        ConfigurationError: the file cannot be read or made, or holds no key.
    """
    try:
        if not path.exists():
            _make(path)
        seed = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except (OSError, ValueError):
        raise _unusable() from None
    if len(seed) != SEED_BYTES:
        raise _unusable()
    return SealKey(private=Ed25519PrivateKey.from_private_bytes(seed))


def _make(path: Path) -> None:
    """Write a whole file beside it first: whoever comes second finds a key, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = Ed25519PrivateKey.generate().private_bytes_raw()
    made, name = tempfile.mkstemp(dir=path.parent, prefix=".seal-key-")
    try:
        with os.fdopen(made, "w", encoding="ascii") as file:
            file.write(seed.hex() + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(name, path)
        except FileExistsError:
            return
    finally:
        Path(name).unlink()


def _unusable() -> ConfigurationError:
    return ConfigurationError(
        "the seal's key cannot be used",
        field="STEELYARD_SEAL_KEY_FILE",
        remedy="name a file of 64 hexadecimal digits that this user can read",
    )
