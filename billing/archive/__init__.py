"""Closed partitions as Parquet files, on disk or in an object store."""
