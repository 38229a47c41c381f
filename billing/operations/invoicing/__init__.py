"""Invoices: draft, issue, read, verify."""
