"""What became of the operations that a dead process left open.

Decides: an intent without an outcome was cut off by the crash. If its last checkpoint says that
tokens were delivered, they are billed, flagged as estimated: last checkpoint ≤ billed ≤
delivered (D2). If none were, it is void.
Pure: the result depends on the set of records only, not on their order or repetition.
"""

from __future__ import annotations

from collections.abc import Iterable

from billing.journal.records import Checkpoint, Intent, Record, Usage, Void


def recover(records: Iterable[Record]) -> list[Usage | Void]:
    """The missing outcomes, sorted by id.

    Args:
        records: everything in the newest segment of a dead instance and in its unshipped ones.
            Outcomes found among them are not returned again.
    """
    intents: dict[bytes, Intent] = {}
    checkpoints: dict[bytes, Checkpoint] = {}
    complete: set[bytes] = set()
    for record in records:
        match record:
            case Intent():
                intents[record.id] = record
            case Checkpoint():
                known = checkpoints.get(record.id)
                if known is None or _progress(record) > _progress(known):
                    checkpoints[record.id] = record
            case Usage() | Void():
                complete.add(record.id)
    return [
        _outcome(intents[operation], checkpoints.get(operation))
        for operation in sorted(intents.keys() - complete)
    ]


def _progress(checkpoint: Checkpoint) -> tuple[int, ...]:
    counts = checkpoint.counts
    return (
        checkpoint.at_us,
        counts.output,
        counts.input,
        counts.cached_input,
        counts.cache_write,
        counts.reasoning,
    )


def _outcome(intent: Intent, checkpoint: Checkpoint | None) -> Usage | Void:
    at_us = intent.at_us if checkpoint is None else checkpoint.at_us
    if checkpoint is None or checkpoint.counts.is_zero:
        return Void(id=intent.id, at_us=at_us, attribution=intent.attribution, reason="crash")
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
    )
