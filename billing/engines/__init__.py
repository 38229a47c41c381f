"""What inference engines say and how: requests, usage shapes, event streams, quirks."""
