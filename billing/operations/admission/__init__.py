"""What the proxy may admit: the snapshot of keys, terms and models."""
