"""What a journal tells of itself. Decides nothing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalStatistics:
    """What one journal has done since it was opened.

    Attributes:
        records, batches: durable ones; their ratio is how well the group commit works.
        payload_bytes: durable bytes of records, without frames and carried records.
        refusals: batches that the disk refused.
        segment, durable_offset: the place behind the last durable record.
        backlog_records, backlog_bytes: queued or being written.
        open_operations: intents without usage or void, carried into the next segment.
    """

    records: int
    batches: int
    payload_bytes: int
    refusals: int
    segment: int
    durable_offset: int
    backlog_records: int
    backlog_bytes: int
    open_operations: int
