"""Finance exports as rows and text: invoices, the journal, plain-text accounting."""
