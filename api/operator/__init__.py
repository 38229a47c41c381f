"""The operator's side: tenants, keys, plans, contracts, usage, invoices, costs, outcomes."""
