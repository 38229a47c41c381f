"""What finance reads: margin, invoices and the journal of all tenants. Nothing here writes."""
