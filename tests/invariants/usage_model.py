"""What the usage ledger must hold after any sequence of reports, kept in plain Python.

Decides which verdict every report gets and what the totals are; knows nothing of the database.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

from hypothesis import strategies as st

from billing.metering.usage_event import UsageReport, Verdict, VerdictKind
from billing.money import EXACT
from billing.tenancy.tenant import Tenant
from tests.world import usage_report

IDS = st.integers(0, 25)
"""Few, so that most batches meet an id again."""

INSTANTS = tuple(
    datetime(2026, 11, 15, 11, 45, tzinfo=UTC) + timedelta(microseconds=offset)
    for offset in (-900_000_000, -1, 0, 1)
)
"""The edges of a bucket, ± 1 µs, and another bucket."""

QUANTITIES = (Decimal(1), Decimal(7), Decimal("0.000000000000000001"), Decimal(10) ** 18)
METERS = ("tokens.input", "tokens.output", "requests")
UNKNOWN = "nobody-defined-this"

Total = tuple[str, datetime]
"""A meter, and the start of a bucket."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """What a report says besides its id."""

    meter: str
    quantity: Decimal
    at: datetime


bodies = st.builds(
    Body,
    meter=st.sampled_from((*METERS, *METERS, UNKNOWN)),
    quantity=st.sampled_from(QUANTITIES),
    at=st.sampled_from(INSTANTS),
)
batches = st.lists(st.tuples(IDS, bodies), min_size=1, max_size=8)
Batch = Sequence[tuple[int, Body]]


@dataclass(slots=True)
class Books:
    """What the ledger must hold of one tenant."""

    tenant: Tenant
    known: dict[int, tuple[Body, UUID]] = field(default_factory=dict[int, tuple[Body, UUID]])
    totals: dict[Total, Decimal] = field(default_factory=dict[Total, Decimal])
    parked: dict[int, Body] = field(default_factory=dict[int, Body])
    events: int = 0
    scrap: int = 0

    def count(self, meter: str, at: datetime, quantity: Decimal | int) -> None:
        add(self.totals, (meter, bucket(at)), Decimal(quantity))

    def accept(self, number: int, body: Body, event: UUID) -> None:
        assert number not in self.known
        self.known[number] = (body, event)
        self.count(body.meter, body.at, body.quantity)
        self.events += 1

    def new(self, batch: Batch) -> set[int]:
        """The ids of a batch that were never accepted."""
        return {number for number, body in batch if body.meter != UNKNOWN} - self.known.keys()

    def judge(self, batch: Batch, verdicts: Sequence[Verdict]) -> None:
        """Hold one answer against the model, and learn from it which ids were new."""
        assert len(verdicts) == len(batch)
        for (number, body), verdict in zip(batch, verdicts, strict=True):
            if body.meter == UNKNOWN:
                same = self.parked.setdefault(number, body) == body
                assert verdict.kind is (VerdictKind.PARKED if same else VerdictKind.CONFLICTING)
                continue
            assert verdict.event_id is not None
            if number not in self.known:
                assert verdict.kind is VerdictKind.ACCEPTED
                self.accept(number, body, verdict.event_id)
                continue
            first_body, event = self.known[number]
            same = first_body == body
            assert verdict.kind is (VerdictKind.DUPLICATE if same else VerdictKind.CONFLICTING)
            assert verdict.event_id == event


def add(totals: dict[Total, Decimal], key: Total, quantity: Decimal) -> None:
    totals[key] = EXACT.add(totals.get(key, Decimal(0)), quantity)


def bucket(at: datetime) -> datetime:
    return at.replace(minute=at.minute // 15 * 15, second=0, microsecond=0)


def reports_of(batch: Batch) -> list[UsageReport]:
    # An unknown meter has ids of its own: parked is another room than the ledger.
    return [
        usage_report(
            foreign_id=f"{'parked' if body.meter == UNKNOWN else 'event'}-{number}",
            meter=body.meter,
            quantity=body.quantity,
            model="tiny" if body.meter.startswith("tokens.") else None,
            occurred_at=body.at,
        )
        for number, body in batch
    ]
