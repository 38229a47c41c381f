"""Rate recorded usage under its contracts, and post what was earned."""
