"""Operations that a journal has begun and not ended.

Decides: what of them a new segment must begin with, so that recovery needs no older one: the
newest intent and the newest checkpoint of each. Does not decide when a segment begins.
"""

from __future__ import annotations

from dataclasses import dataclass

from billing.journal.records import AnyRecord, Checkpoint, Intent, Usage, Void, encode


@dataclass(slots=True, kw_only=True)
class _OpenOperation:
    intent: bytes
    checkpoint: Checkpoint | None = None


class OpenOperations:
    """Those of one instance."""

    __slots__ = ("_open", "_opening")

    def __init__(self) -> None:
        self._open: dict[bytes, _OpenOperation] = {}
        self._opening: set[bytes] = set()  # those whose intents are queued or being written

    def __len__(self) -> int:
        """How many have a durable intent and no outcome."""
        return len(self._open)

    def queue(self, record: AnyRecord) -> None:
        """A record is going to be written."""
        if isinstance(record, Intent):
            self._opening.add(record.id)

    def refuse(self, record: AnyRecord) -> None:
        """A queued record is not going to be written."""
        if isinstance(record, Intent):
            self._opening.discard(record.id)

    def ends_one(self, record: AnyRecord) -> bool:
        """Whether it is the outcome of one of them."""
        return isinstance(record, Usage | Void) and (
            record.id in self._open or record.id in self._opening
        )

    def note(self, record: AnyRecord, payload: bytes) -> None:
        """A record is durable."""
        if isinstance(record, Intent):
            self._opening.discard(record.id)
            if (begun := self._open.get(record.id)) is not None:
                begun.intent = payload  # written again; what was delivered stays known
            else:
                self._open[record.id] = _OpenOperation(intent=payload)
        elif isinstance(record, Usage | Void):
            self._open.pop(record.id, None)
        elif isinstance(record, Checkpoint):
            self.note_checkpoint(record)

    def note_checkpoint(self, checkpoint: Checkpoint) -> None:
        """As `note`."""
        if (operation := self._open.get(checkpoint.id)) is not None:
            operation.checkpoint = checkpoint

    def carried(self) -> list[bytes]:
        """Payloads of the frames that a new segment begins with."""
        payloads: list[bytes] = []
        for operation in self._open.values():
            payloads.append(operation.intent)
            if operation.checkpoint is not None:
                payloads.append(encode(operation.checkpoint))
        return payloads
