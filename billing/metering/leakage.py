"""Leakage: what engines counted against what the ledger has.

Decides: what an engine counted in an hour when its counters were only looked at now and then, when
such an hour is known completely, and how the one figure is made. What is not known is never
invented: the tokens of attempts that bill nothing, and those that a cut stream's engine counted
beyond its bill, are in the engine's totals and in nobody's record. So the requests are told beside
the figure by the reason for it (`crash`, `client_left` …), and explain what is missing.

A counter that fell means that the engine was started again. It counts from zero then, so all that
it shows is new; what it did between the last look and its end is lost, and is less than an
interval's worth. Such a restart is told beside the figure too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction
from itertools import pairwise

from billing.metering.usage_event import Cause
from billing.period import Period

GAP_MAX = timedelta(seconds=60)
"""Looks that lie further apart may hide a restart, or the work of another hour."""

SETTLED_AFTER = timedelta(minutes=5)
"""An hour's requests are in the ledger this long after its end: journals take milliseconds."""


SHIPPED_MARGIN = timedelta(minutes=1)
"""What happened at an instant is in its journal by so much later."""

JOURNAL_LOST_AFTER = timedelta(days=1)
"""A journal that nobody has shipped for so long holds up no further hours: its host is gone."""

CRASH = "crash"
REASON_OF_CAUSE: Mapping[Cause, str] = {
    Cause.RECOVERED: CRASH,
    Cause.CLIENT_LEFT: "client_left",
    Cause.UPSTREAM_BROKE: "upstream_broke",
    Cause.TIMEOUT: "timeout",
    Cause.DRAINED: "drained",
}
"""Why an engine may have counted more than was billed of an operation that ended so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSample:
    """An engine's totals at one instant, in tokens.

    Attributes:
        engine_epoch: 1, and one more for each time that its counters fell.
        counts_cached: prompt tokens that came from a prefix cache are in `prompt`.
    """

    at: datetime
    engine_epoch: int
    prompt: int
    generation: int
    counts_cached: bool = True

    def succeeds(self, before: EngineSample | None) -> EngineSample:
        """This sample with the epoch that it has after another one."""
        epoch = 1
        if before is not None:
            fell = self.prompt < before.prompt or self.generation < before.generation
            epoch = before.engine_epoch + fell
        return EngineSample(
            at=self.at,
            engine_epoch=epoch,
            prompt=self.prompt,
            generation=self.generation,
            counts_cached=self.counts_cached,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineWork:
    """What an engine counted in a period.

    Attributes:
        restarts: how often its counters fell.
        unbroken: it was looked at often enough, from the first instant to the last.
    """

    prompt: int
    generation: int
    restarts: int
    unbroken: bool
    counts_cached: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerWork:
    """What the ledger has for a backend in a period, in tokens of the proxy's own events.

    Attributes:
        prompt: input tokens of all classes that the engine counts too.
    """

    prompt: int = 0
    generation: int = 0


def engine_work(samples: Sequence[EngineSample], period: Period) -> EngineWork | None:
    """What an engine counted in a period, from samples in the order of time.

    What it counted between two looks belongs to the period of the first one, so that nothing is
    lost or counted twice from period to period.

    Args:
        samples: those of the period, with the next one before and after it where there are any.

    Returns:
        None if the engine was not looked at in the period, or only once.
    """
    steps = [(a, b) for a, b in pairwise(samples) if a.at < period.end and b.at > period.start]
    inside = [(a, b) for a, b in steps if a.at in period]
    if not inside:
        return None
    return EngineWork(
        prompt=sum(_risen(a, b, a.prompt, b.prompt) for a, b in inside),
        generation=sum(_risen(a, b, a.generation, b.generation) for a, b in inside),
        restarts=sum(b.engine_epoch != a.engine_epoch for a, b in inside),
        unbroken=(
            steps[0][0].at <= period.start
            and steps[-1][1].at >= period.end
            and all(b.at - a.at <= GAP_MAX for a, b in steps)
        ),
        counts_cached=inside[0][0].counts_cached,
    )


def is_complete(work: EngineWork, period: Period, *, journals_behind: int, now: datetime) -> bool:
    """Whether a period's figures stay as they are: it is over, settled, watched and shipped."""
    return work.unbroken and journals_behind == 0 and now >= period.end + SETTLED_AFTER


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciled:
    """An engine's count of an hour beside the ledger's, in tokens.

    Attributes:
        reasons: how many requests bill less than their engine may have counted, by why.
        journals_behind: journals that may hold more of the hour than the ledger has.
        complete: see `is_complete`; otherwise the figures may still move, or lack something.
    """

    backend: str
    hour: datetime
    engine_prompt: int
    engine_generation: int
    ledger_prompt: int
    ledger_generation: int
    scrap_attempts: int
    reasons: Mapping[str, int]
    restarts: int
    journals_behind: int
    complete: bool

    @property
    def leaked(self) -> int:
        """Tokens that the engine counted and the ledger lacks; below zero where it has more."""
        counted = self.engine_prompt + self.engine_generation
        return counted - self.ledger_prompt - self.ledger_generation


def leakage(rows: Iterable[Reconciled]) -> Fraction | None:
    """1 - ledger tokens / engine tokens; below zero where the ledger has more, None for 0 / 0.

    A stream that runs over the hour's end is in both hours of its engine and in the last one of
    the ledger, so a single hour may show a little of either sign that the next one takes back:
    sum over hours to judge.
    """
    counted = booked = 0
    for row in rows:
        counted += row.engine_prompt + row.engine_generation
        booked += row.ledger_prompt + row.ledger_generation
    return None if counted == 0 else 1 - Fraction(booked, counted)


def _risen(before: EngineSample, after: EngineSample, was: int, now: int) -> int:
    return now - was if before.engine_epoch == after.engine_epoch else now
