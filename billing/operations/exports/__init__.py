"""Finance exports: invoices and the journal as CSV, checked before they leave."""
