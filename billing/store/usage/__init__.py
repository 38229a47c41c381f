"""Usage ledger: append with idempotency and rollups in one transaction; reads from rollups."""
