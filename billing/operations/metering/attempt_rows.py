"""Failed attempts in the records of a journal.

Decides: that only those which reached a backend are kept. Nothing was spent on the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from uuid import UUID

from billing.journal.records import UNREACHED, Usage, Void
from billing.metering.event_id import from_microseconds
from billing.store.usage.attempts import AttemptRow


def backends_of(outcomes: Iterable[Usage | Void]) -> set[str]:
    """Names of all backends that the outcomes mention."""
    return {outcome.attribution.backend for outcome in outcomes} | {
        attempt.backend for outcome in outcomes for attempt in outcome.attempts
    }


def attempt_rows(outcomes: Iterable[Usage | Void], backends: Mapping[str, int]) -> list[AttemptRow]:
    """The failed attempts of outcomes, as the ledger keeps them.

    Args:
        backends: row ids by name.
    """
    return [
        AttemptRow(
            operation_id=UUID(bytes=outcome.id),
            ordinal=attempt.ordinal,
            at=from_microseconds(attempt.at_us),
            tenant_id=outcome.attribution.tenant_id,
            model_id=attempt.model_id,
            backend_id=backends[attempt.backend],
            duration_us=attempt.duration_us,
            reason=attempt.reason,
        )
        for outcome in outcomes
        for attempt in outcome.attempts
        if attempt.reason != UNREACHED
    ]
