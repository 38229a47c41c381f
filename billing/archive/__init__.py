"""Closed months as Parquet files, in a folder or an S3-compatible bucket.

Decides how a month lies in a file (`parquet.py`) and where files lie (`places.py`). When a month
may be archived, and whether a file still holds it, is decided by `operations/retention`.
"""
