"""Tables seal_…: what is sealed, the hashes of the trees, folds and heads, witnesses."""
