"""What is counted: meters, usage events, token classes."""
