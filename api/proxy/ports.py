"""What the data plane needs from outside, as narrow interfaces.

Decides: the shape of the two seams, control (who may do what, swapped whole) and journal (where
usage becomes durable). Does not decide how either is built: the request path sees no database.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from billing.admission.snapshot import Snapshot
from billing.journal.records import Checkpoint, Record

Clock = Callable[[], int]
"""Returns the time now, in µs since 1970 UTC."""


class ControlPort(Protocol):
    """Where snapshots of keys, contracts and models come from."""

    @property
    def snapshot(self) -> Snapshot:
        """The newest complete snapshot; read once per request."""
        ...

    async def look_up(self, key_digest: bytes) -> None:
        """Ask for a refresh because the SHA-256 of a key is unknown.

        Returns when `snapshot` holds the key if it exists. Callers bound how often they ask.
        """
        ...


class JournalPort(Protocol):
    """Where usage becomes durable before anybody is told that it happened."""

    @property
    def healthy(self) -> bool:
        """False while records cannot be made durable; the proxy then stops admitting."""
        ...

    async def append(self, record: Record) -> None:
        """Return once the record is durable.

        Raises:
            JournalError: it cannot be made durable; nothing about it may be told to anybody.
        """
        ...

    def append_soon(self, record: Record) -> None:
        """Queue the record for the next commit, without waiting for it.

        Raises:
            JournalError: the journal is closed or cannot take it.
        """
        ...

    def append_checkpoints(self, checkpoints: Sequence[Checkpoint]) -> None:
        """Queue what open streams have delivered; each takes the place of its stream's last one.

        Raises:
            JournalError: the journal is closed or cannot take them.
        """
        ...

    async def close(self) -> None:
        """Make everything queued durable and release the journal."""
        ...
