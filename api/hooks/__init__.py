"""What payment providers call. Their signature stands in the place of a key."""
