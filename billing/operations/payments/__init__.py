"""Stripe mirrors issued invoices and tells of payments; it never rates (D12)."""
