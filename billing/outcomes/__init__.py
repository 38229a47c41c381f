"""Outcomes: definitions, claims, and the transitions that make a claim billable."""
