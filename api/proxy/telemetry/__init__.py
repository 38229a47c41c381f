"""What the data plane notes of a request beside its bill; nothing here decides what is billed."""
