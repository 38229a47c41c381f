"""Steelyard: metering, rating, ledgers, invoices and margin for AI factories."""
