"""Use cases: each module does one thing a user would ask for, in its caller's transaction."""
