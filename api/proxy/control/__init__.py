"""The control side of a proxy process: what the request path reads, kept current off it."""
