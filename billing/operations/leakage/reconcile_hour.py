"""Put an hour of engines' counters beside what the ledger has of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal

import sqlalchemy as sa

from billing.metering.leakage import (
    EngineWork,
    LedgerWork,
    Reconciled,
    engine_work,
    is_complete,
)
from billing.metering.token_class import TokenClass
from billing.period import Period
from billing.store import leakage as store
from billing.store.leakage import LeakageRow

HOUR = timedelta(hours=1)
SAMPLES_KEPT = timedelta(days=35)
HOURS_AGAIN = 3
"""So many are worked out each time: what is booked late by minutes needs no watermark."""

HOURS_AT_ONCE = 48
"""Most hours that waited for a journal and are worked out at a time."""

_AFRESH = (TokenClass.INPUT.meter, TokenClass.CACHE_WRITE.meter)
_CACHED = TokenClass.CACHED_INPUT.meter
_OUTPUT = TokenClass.OUTPUT.meter


def hour_of(instant: datetime) -> Period:
    """The hour, of UTC, that an instant lies in."""
    start = instant.replace(minute=0, second=0, microsecond=0)
    return Period(start=start, end=start + HOUR)


def reconcile_hour(connection: sa.Connection, *, hour: Period, now: datetime) -> list[Reconciled]:
    """Work an hour out for every backend that was looked at in it, in the operator's role.

    It may be done again at any time: what comes out takes the place of what came out before.
    """
    backends = store.sampled_backends(connection, period=hour)
    if not backends:
        return []
    ids = [backend_id for backend_id, _ in backends]
    meters = [*_AFRESH, _CACHED, _OUTPUT]
    booked = store.booked_tokens(connection, backend_ids=ids, meters=meters, period=hour)
    scrap = store.scrap_attempts(connection, backend_ids=ids, period=hour)
    cut = store.cut_events(connection, backend_ids=ids, period=hour)
    behind = store.journals_behind(connection, period=hour)
    found: list[Reconciled] = []
    for backend_id, name in backends:
        samples = store.samples_around(connection, backend_id=backend_id, period=hour)
        work = engine_work(samples, hour)
        if work is None:
            continue
        ledger = _ledger_work(backend_id, work, booked)
        unbilled = scrap.get(backend_id, {})
        reasons = Counter(unbilled) + Counter(cut.get(backend_id, {}))
        reconciled = Reconciled(
            backend=name,
            hour=hour.start,
            engine_prompt=work.prompt,
            engine_generation=work.generation,
            ledger_prompt=ledger.prompt,
            ledger_generation=ledger.generation,
            scrap_attempts=sum(unbilled.values()),
            reasons=dict(sorted(reasons.items())),
            restarts=work.restarts,
            journals_behind=behind,
            complete=is_complete(work, hour, journals_behind=behind, now=now),
        )
        store.write_leakage(
            connection,
            LeakageRow(backend_id=backend_id, reconciled=reconciled, reconciled_at=now),
        )
        found.append(reconciled)
    return found


def hours_to_work_out(connection: sa.Connection, *, now: datetime) -> list[Period]:
    """This hour, those just before it, and those that waited for a journal; oldest first."""
    recent = {hour_of(now - ago * HOUR).start for ago in range(HOURS_AGAIN)}
    waiting = store.hours_behind(connection, limit=HOURS_AT_ONCE)
    return [hour_of(start) for start in sorted(recent.union(waiting))]


def forget_samples(connection: sa.Connection, *, now: datetime) -> int:
    """Delete the samples of hours that were reconciled long ago; how many."""
    return store.forget_samples(connection, before=now - SAMPLES_KEPT)


def _ledger_work(
    backend_id: int,
    work: EngineWork,
    booked: Mapping[tuple[int, str], Decimal],
) -> LedgerWork:
    prompt = [*_AFRESH, _CACHED] if work.counts_cached else [*_AFRESH]
    return LedgerWork(
        prompt=sum(int(booked.get((backend_id, meter), 0)) for meter in prompt),
        generation=int(booked.get((backend_id, _OUTPUT), 0)),
    )
