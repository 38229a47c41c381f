"""Margin: what serving cost, and what it earned."""
