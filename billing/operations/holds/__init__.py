"""Holds on credit and on limits."""
