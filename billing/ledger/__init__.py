"""The money ledger's values: accounts, postings, transactions, templates."""
