"""Filters of meters, in CEL."""
