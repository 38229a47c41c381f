"""Outcomes: report a claim, confirm it, and bill it by a usage event in the same transaction."""
