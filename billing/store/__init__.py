"""PostgreSQL: one module per room, with the queries that read and write its tables.

The migrations are the single source of the schema; queries name their columns explicitly. Every
function takes an open connection whose transaction its caller began and will commit.
"""
