"""The verifier's own Ed25519 judges as the library does: vectors of RFC 8032, and forgeries."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.signing.ed25519 import SealKey, verify
from billing.verifier import ed25519_verifies

# RFC 8032, section 7.1, tests 1 to 3: public key, message, signature.
VECTORS = [
    (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        (
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9"
            "b46bd25bf5f0595bbe24655141438e7a100b"
        ),
    ),
    (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        (
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f1"
            "1d8c387b2eaeb4302aeeb00d291612bb0c00"
        ),
    ),
    (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        (
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984d"
            "c6594a7c15e9716ed28dc027beceea1ec40a"
        ),
    ),
]


@pytest.mark.parametrize(("key", "message", "signature"), VECTORS)
def test_published_vectors_verify(key: str, message: str, signature: str) -> None:
    assert ed25519_verifies(bytes.fromhex(key), bytes.fromhex(message), bytes.fromhex(signature))


@settings(max_examples=40, deadline=None)
@given(seed=st.binary(min_size=32, max_size=32), text=st.text(max_size=80), bit=st.integers(0, 767))
def test_a_signature_verifies_and_with_one_bit_changed_does_not(
    seed: bytes, text: str, bit: int
) -> None:
    key = SealKey(private=Ed25519PrivateKey.from_private_bytes(seed))
    signature = key.sign(text)
    assert ed25519_verifies(key.public_key, text.encode(), signature)
    assert verify(key.public_key, text, signature)
    both = bytearray(key.public_key + signature)
    both[bit // 8] ^= 1 << bit % 8
    public_key, forged = bytes(both[:32]), bytes(both[32:])
    assert not ed25519_verifies(public_key, text.encode(), forged)
    assert not ed25519_verifies(key.public_key, text.encode() + b"x", signature)
    assert not ed25519_verifies(key.public_key, text.encode(), signature[:-1])
