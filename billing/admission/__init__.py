"""Who may send which request now: decisions over a frozen snapshot, without I/O."""
