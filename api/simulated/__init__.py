"""A stand-in for an inference engine: deterministic answers and exact counts, no model."""
