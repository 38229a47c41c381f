"""Objects that backends keep for tenants: bound, found, listed, forgotten."""
