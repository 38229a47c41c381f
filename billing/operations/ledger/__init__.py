"""Use cases of the money ledger: reversals, accounting periods, balances, statements."""
