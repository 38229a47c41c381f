"""Engines' own counters against the ledger: samples, reconciled hours, the report of them."""
