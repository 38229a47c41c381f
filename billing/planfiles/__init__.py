"""Files that people write: price plans, costs, recorded usage."""
