"""After a restore from a backup: what is missing, and booking it again from the journals."""
