"""Background processes: the ledger writer, and the worker that runs jobs."""
