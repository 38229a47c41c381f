"""Signatures of tree heads, Ed25519."""
