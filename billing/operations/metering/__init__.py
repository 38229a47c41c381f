"""Usage into the ledger, from the proxy's journal and from outside, and back out as reports."""
