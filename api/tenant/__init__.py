"""A tenant's own account: usage, invoices, keys, outcomes. The key says whose."""
