"""What a backend says of a batch.

Decides: when a batch is over, and where its results are. OpenAI names the instant by its outcome
(`completed_at`, `expired_at`, …); a batch that expired or was cancelled has answered some lines all
the same. Does not decide what its lines cost (`batch_lines.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

import msgspec

from billing.errors import UpstreamError

_INSTANT_MAX: Final = 1 << 40
_COUNT_MAX: Final = 1 << 40


class Outcome(StrEnum):
    """How a batch can be over."""

    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchStatus:
    """A batch at the backend.

    Attributes:
        outcome: None while it goes on.
        ended_at: when it was over; None where the backend does not say.
        output_file_id, error_file_id: of the results; None for none.
        requests: how many lines it was given; None where the backend does not say.
        answered: how many of them it has answered; None likewise.
    """

    outcome: Outcome | None
    ended_at: datetime | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    requests: int | None = None
    answered: int | None = None


class _Counts(msgspec.Struct, frozen=True):
    total: Any = None
    completed: Any = None


class _Batch(msgspec.Struct, frozen=True):
    status: str
    completed_at: Any = None
    expired_at: Any = None
    cancelled_at: Any = None
    failed_at: Any = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    request_counts: _Counts | None = None


class _Listed(msgspec.Struct, frozen=True):
    id: str
    input_file_id: str | None = None
    created_at: Any = None


class _List(msgspec.Struct, frozen=True):
    data: list[_Listed]
    has_more: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedBatch:
    """A batch in a backend's list.

    Attributes:
        created_at: None where the backend does not say.
    """

    id: str
    input_file_id: str
    created_at: datetime | None

    def older_than(self, instant: datetime) -> bool:
        """Whether it is known to have been made before an instant."""
        return self.created_at is not None and self.created_at < instant


_LIST = msgspec.json.Decoder(_List)
_BATCH = msgspec.json.Decoder(_Batch)
_OUTCOMES: Final = {outcome.value: outcome for outcome in Outcome}


def read_batch_status(body: bytes) -> BatchStatus:
    """Read the answer to `GET /v1/batches/{id}`.

    Raises:
        UpstreamError: it is no batch.
    """
    try:
        batch = _BATCH.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise UpstreamError("the backend's answer is no batch") from None
    counts = batch.request_counts or _Counts()
    outcome = _OUTCOMES.get(batch.status)
    return BatchStatus(
        outcome=outcome,
        ended_at=None if outcome is None else _instant(getattr(batch, f"{outcome.value}_at")),
        output_file_id=batch.output_file_id or None,
        error_file_id=batch.error_file_id or None,
        requests=_count(counts.total),
        answered=_count(counts.completed),
    )


def read_batch_list(body: bytes) -> tuple[list[ListedBatch], bool]:
    """Read the answer to `GET /v1/batches`: the batches, and whether others come behind them.

    Raises:
        UpstreamError: it is no list.
    """
    try:
        page = _LIST.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise UpstreamError("the backend's answer is no list of batches") from None
    listed = [
        ListedBatch(
            id=each.id,
            input_file_id=each.input_file_id or "",
            created_at=_instant(each.created_at),
        )
        for each in page.data
    ]
    return listed, page.has_more


def _instant(seconds: object) -> datetime | None:
    if isinstance(seconds, int) and 0 < seconds < _INSTANT_MAX:
        try:
            return datetime.fromtimestamp(seconds, UTC)
        except (ValueError, OverflowError):
            return None
    return None


def _count(number: object) -> int | None:
    return number if isinstance(number, int) and 0 <= number <= _COUNT_MAX else None
