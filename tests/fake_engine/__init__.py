"""An inference engine that fails on purpose, and keeps count of what it sent."""
