"""Sealing the ledgers, proving what is sealed, and verifying all of it."""
