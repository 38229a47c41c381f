"""Measurements that anybody can repeat: `make bench NAME=…`. Baselines come from the same run."""
