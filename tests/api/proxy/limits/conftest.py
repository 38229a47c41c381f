"""Yards whose tenant has limits: the leases are a real book, the whole capacity is leased."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace

import httpx
import pytest

from api.proxy.app import create_app, system_clock
from api.proxy.limit_errors import HoldsUnavailable, LimitReached
from api.proxy.limits import Limits
from api.proxy.server import serving
from billing.admission.amounts import Rates
from billing.admission.lease_book import Held, LeaseBook, Wanted
from billing.admission.limit import Limit, Unit, Window
from billing.admission.terms import AdmissionPolicy
from billing.metering.unit_meter import UnitMeter
from tests.api.proxy.conftest import (
    KEY,
    TENANT,
    MemoryControl,
    MemoryJournal,
    Yard,
    snapshot_for,
)
from tests.api.proxy.endpoints.conftest import Desk, snapshot_of
from tests.fake_engine.scripted import scripted_engine
from tests.fake_engine.server import fake_engine

RATES = Rates(input=10**12, cached_input=10**12, output=10**12)
"""A token costs 10⁻⁶ of the major unit: a million of the whole numbers that limits count in."""

UNIT_RATES = replace(RATES, units=dict.fromkeys(UnitMeter, 10**12))


def limit_of(
    capacity: int, unit: Unit = Unit.REQUESTS, window: Window = Window.NONE, **more: bool
) -> Limit:
    return replace(
        Limit(
            id=1,
            name="budget",
            unit=unit,
            window=window,
            hard=more.get("hard", True),
            shadow=more.get("shadow", False),
            capacity=capacity,
            currency="USD" if unit is Unit.MONEY else "",
        ),
    )


def numbered(limits: Sequence[Limit]) -> tuple[Limit, ...]:
    """Limits with ids and names of their own."""
    return tuple(
        replace(limit, id=number, name=limit.name if number == 1 else f"{limit.name}-{number}")
        for number, limit in enumerate(limits, start=1)
    )


@dataclass(slots=True)
class BookedHolds:
    """A port that has leased each limit whole, at once.

    Attributes:
        away: the database does not answer.
    """

    book: LeaseBook = field(default_factory=LeaseBook)
    processes: int = 1
    away: bool = False

    def lease(self, limit: Limit) -> None:
        window = limit.window_at(system_clock())
        self.book.grant(
            limit,
            lease_id=100 + limit.id,
            granted=limit.capacity,
            window_end_us=None if window is None else window[1] + 3_600_000_000,
            left=0,
            now_us=system_clock(),
        )

    def take(self, wanted: Sequence[Wanted], now_us: int) -> Held | None:
        for lease in self.book.leases.values():
            lease.asked_us = now_us
        return self.book.take(wanted, now_us)

    async def obtain(self, wanted: Sequence[Wanted], now_us: int) -> Held:
        if self.away:
            raise HoldsUnavailable("away")
        for each in wanted:
            lease = self.book.leases[each.limit.id]
            if each.blocks and lease.free < each.amount:
                used = lease.granted - lease.free
                raise LimitReached(
                    each.limit,
                    used=used,
                    capacity=lease.granted,
                    resets_us=lease.window_end_us,
                    now_us=now_us,
                    needed=each.amount,
                )
        raise AssertionError("nothing is short")

    def release(self, held: Held, draws: Mapping[int, int]) -> None:
        self.book.release(held, draws)

    @property
    def held(self) -> dict[str, tuple[int, int]]:
        """(held, drawn) by limit."""
        return {lease.limit.name: (lease.held, lease.drawn) for lease in self.book.leases.values()}


@dataclass(slots=True, kw_only=True)
class LimitedYard:
    """A yard and the leases of its tenant."""

    yard: Yard
    holds: BookedHolds


class LimitedYards:
    """Opens yards with limits."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack

    async def __call__(
        self, *limits: Limit, policy: AdmissionPolicy | None = None, prepaid: int | None = None
    ) -> LimitedYard:
        fake = await self._stack.enter_async_context(fake_engine())
        snapshot = snapshot_for(fake.base_url)
        named = numbered(limits)
        holds = BookedHolds()
        for limit in named:
            holds.lease(limit)
        terms = replace(
            snapshot.terms[TENANT],
            limits=named,
            policy=policy or AdmissionPolicy(),
            rates=dict.fromkeys(snapshot.models, RATES),
            prepaid=prepaid,
        )
        control = MemoryControl(replace(snapshot, terms={TENANT: terms}))
        journal = MemoryJournal()
        app = create_app(control, journal, limits=Limits(drain_ms=2_000), holds=holds)
        port = await self._stack.enter_async_context(serving(app))
        client = await self._stack.enter_async_context(
            httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{port}",
                headers={"authorization": f"Bearer {KEY}"},
                timeout=20,
                trust_env=False,
            )
        )
        yard = Yard(fake, control, journal, app, port, client, self._stack)
        return LimitedYard(yard=yard, holds=holds)


@pytest.fixture
async def limited() -> AsyncIterator[LimitedYards]:
    async with AsyncExitStack() as stack:
        yield LimitedYards(stack)


@dataclass(slots=True, kw_only=True)
class LimitedDesk(Desk):
    """A desk with every kind of model, and the leases of its tenant."""

    holds: BookedHolds


class LimitedDesks:
    """Opens desks with limits."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack

    async def __call__(self, *limits: Limit, policy: AdmissionPolicy | None = None) -> LimitedDesk:
        engine = await self._stack.enter_async_context(scripted_engine())
        snapshot, holds = snapshot_of(engine.base_url), BookedHolds()
        named = numbered(limits)
        for limit in named:
            holds.lease(limit)
        terms = replace(
            snapshot.terms[TENANT],
            limits=named,
            policy=policy or AdmissionPolicy(),
            rates=dict.fromkeys(snapshot.models, UNIT_RATES),
        )
        control = MemoryControl(replace(snapshot, terms={TENANT: terms}))
        journal = MemoryJournal()
        app = create_app(control, journal, limits=Limits(drain_ms=2_000), holds=holds)
        port = await self._stack.enter_async_context(serving(app))
        client = await self._stack.enter_async_context(
            httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{port}",
                headers={"authorization": f"Bearer {KEY}"},
                timeout=20,
                trust_env=False,
            )
        )
        return LimitedDesk(
            engine=engine,
            control=control,
            journal=journal,
            app=app,
            port=port,
            http=client,
            stack=self._stack,
            holds=holds,
        )


@pytest.fixture
async def limited_desk() -> AsyncIterator[LimitedDesks]:
    async with AsyncExitStack() as stack:
        yield LimitedDesks(stack)
