"""The local durable journal: facts that reached the disk before anybody was told of them.

One proxy process writes one instance folder (`journal.Journal`); the ledger writer reads it
(`reader`) and, when the owner has died, adopts it by its file lock and completes what the owner
left open (`recovery`). Nothing here knows PostgreSQL, prices or HTTP.
"""
