"""What became of the operations that a dead process left open.

Decides: an intent without an outcome was cut off by the crash. If its last checkpoint says that
tokens were delivered, they are billed, flagged as estimated: last checkpoint ≤ billed ≤
delivered (D2). If none were, it is void. Its draws on limits and what it counted beside tokens are
those of the checkpoint, its failed attempts those of the intent.
Pure: the result depends on the set of records only, not on their order or repetition.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from billing.journal.records import Checkpoint, Intent, Record, Usage, Void


@dataclass(slots=True)
class OpenOperations:
    """What is known of operations whose outcome has not been seen yet, page by page."""

    _intents: dict[bytes, Intent] = field(default_factory=dict[bytes, Intent])
    _checkpoints: dict[bytes, Checkpoint] = field(default_factory=dict[bytes, Checkpoint])
    _complete: set[bytes] = field(default_factory=set[bytes])

    def note(self, records: Iterable[Record]) -> None:
        """Take more records into account; their order and repetition do not matter."""
        for record in records:
            match record:
                case Intent():
                    written = self._intents.get(record.id)
                    if written is None or len(record.attempts) > len(written.attempts):
                        self._intents[record.id] = record
                case Checkpoint():
                    known = self._checkpoints.get(record.id)
                    if known is None or _progress(record) > _progress(known):
                        self._checkpoints[record.id] = record
                case Usage() | Void():
                    self._complete.add(record.id)

    def outcomes(self) -> list[Usage | Void]:
        """The missing outcomes, sorted by id; those that were noted are not returned again."""
        return [
            _outcome(self._intents[operation], self._checkpoints.get(operation))
            for operation in sorted(self._intents.keys() - self._complete)
        ]


def recover(records: Iterable[Record]) -> list[Usage | Void]:
    """The missing outcomes, sorted by id.

    Args:
        records: everything in the newest segment of a dead instance and in its unshipped ones.
    """
    open_operations = OpenOperations()
    open_operations.note(records)
    return open_operations.outcomes()


def _progress(checkpoint: Checkpoint) -> tuple[object, ...]:
    counts = checkpoint.counts
    return (
        checkpoint.at_us,
        counts.output,
        counts.input,
        counts.cached_input,
        counts.cache_write,
        counts.reasoning,
        sorted(checkpoint.units.items()),
        [(draw.lease, draw.units) for draw in checkpoint.draws],
    )


def _outcome(intent: Intent, checkpoint: Checkpoint | None) -> Usage | Void:
    at_us = intent.at_us if checkpoint is None else checkpoint.at_us
    if checkpoint is None or checkpoint.is_zero:
        return Void(
            id=intent.id,
            at_us=at_us,
            attribution=intent.attribution,
            reason="crash",
            attempts=intent.attempts,
        )
    return Usage(
        id=intent.id,
        at_us=at_us,
        attribution=intent.attribution,
        counts=checkpoint.counts,
        raw={},
        cause="recovered",
        estimated=True,
        ttft_us=0,
        duration_us=max(0, at_us - intent.at_us),
        draws=checkpoint.draws,
        attempts=intent.attempts,
        units=checkpoint.units,
    )
