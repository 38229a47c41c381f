"""What one operation holds of its tenant's limits, from admission to its record.

Decides: what the operation drew of each limit, how it goes on when its answer grows beyond what it
holds, and what the answer says of the limits. Does not decide which limits apply and how much is
set aside first: `holds.py` does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from api.proxy.headers import Headers
from api.proxy.hold_port import HoldPort
from api.proxy.likely_output import Lengths
from api.proxy.limit_errors import (
    HoldsUnavailable,
    LimitReached,
    Standing,
    limit_headers,
    told_kind,
)
from billing.admission.amounts import Rates, charge
from billing.admission.bound import Bound, cost_of
from billing.admission.lease_book import Held, Lease, Wanted
from billing.admission.limit import Limit, Unit
from billing.admission.route import ErrorShape
from billing.journal.records import Draw, of_limit
from billing.metering.token_class import TokenCounts
from billing.metering.unit_meter import UnitMeter

if TYPE_CHECKING:
    from api.proxy.ports import Clock


@dataclass(slots=True, kw_only=True, eq=False)
class Holding:
    """The holds of one operation.

    Attributes:
        rates: the highest that can apply to whichever model answers.
        bound: what the operation can come to.
        covered: tokens of output, over all choices, that are held by now.
        lengths: what learns of its length; None where no hold goes by it.
        unasked: it was admitted while limits could not be asked: it holds nothing, and draws on
            the limits themselves.
        cover: bound per choice that the engine must be given because the client set none.
    """

    port: HoldPort
    clock: Clock
    rates: Rates
    bound: Bound
    covered: int
    wanted: Sequence[Wanted]
    lengths: Lengths | None = None
    unasked: bool = False
    held: list[Held] = field(default_factory=list[Held])

    @property
    def cover(self) -> int | None:
        """Bound per choice that the engine must be given, because the client set none."""
        return self.bound.cover

    def draws(self, counts: TokenCounts, units: Mapping[UnitMeter, int]) -> tuple[Draw, ...]:
        """What an outcome with these counts draws in all: from leases, or from limits."""
        if self.unasked:
            on = [(of_limit(each.limit.id), each.limit.unit) for each in self.wanted]
        else:
            on = [(lease.id, lease.limit.unit) for lease, _ in self._first]
        drawn: list[Draw] = []
        for whose, unit in on:
            match unit:
                case Unit.MONEY:
                    amount = charge(self.rates, counts, units)
                case Unit.TOKENS:
                    amount = counts.input + counts.cached_input + counts.cache_write + counts.output
                case Unit.REQUESTS:
                    amount = 1
                case Unit.SLOTS:
                    amount = 0
            if amount:
                drawn.append(Draw.of(whose, amount))
        return tuple(drawn)

    def learn(self, output: int, *, complete: bool) -> None:
        """Learn from an answer that ended how long answers are; `output` is over all choices."""
        if self.lengths is not None:
            self.lengths.note(-(-output // self.bound.choices), complete=complete)

    def covers(self, completion: int) -> bool:
        """Whether so many tokens of output may be relayed."""
        return completion <= self.covered

    @property
    def covers_all(self) -> bool:
        """Whether the answer cannot outgrow what is held."""
        return self.covered >= self.bound.choice_tokens * self.bound.choices

    async def extend(self) -> LimitReached | HoldsUnavailable | None:
        """Hold twice the output; why not, where the answer has to end here."""
        most = self.bound.choice_tokens * self.bound.choices
        more = min(max(self.covered, 1), most - self.covered)
        if more <= 0:
            return None  # the engine was given this bound
        money = cost_of(self.rates, prompt=0, output=more, units={})
        growing = {Unit.MONEY: money, Unit.TOKENS: more}
        wanted = [
            Wanted(limit=each.limit, amount=growing[each.limit.unit], blocks=each.blocks)
            for each in self.wanted
            if growing.get(each.limit.unit)
        ]
        now_us = self.clock()
        if wanted:
            held = self.port.take(wanted, now_us)
            try:
                if held is None:
                    held = await self.port.obtain(wanted, now_us)
            except (LimitReached, HoldsUnavailable) as refusal:
                return refusal
            self.held.append(held)
        self.covered += more
        return None

    def release(self, draws: Sequence[Draw] = ()) -> None:
        """Give back what is held, less what was drawn; a second time: nothing."""
        drawn = {draw.lease: draw.units for draw in draws}
        for held in self.held:
            self.port.release(held, drawn)
            # A lease that was extended has two parts of one draw.
            drawn = {}

    def headers(self, shape: ErrorShape) -> Headers:
        """What the answer says of the limits to clients of a shape."""
        now_us = self.clock()
        # Clients pace themselves by these: one that refuses nothing must not slow them down.
        blocking = {each.limit.id for each in self.wanted if each.blocks}
        shown = limit_headers(
            (_standing(lease, now_us) for lease, _ in self._first if lease.limit.id in blocking),
            shape,
        )
        for limit in self.exceeded:
            told = f"{limit.name};{told_kind(limit)}"
            shown.append((b"x-steelyard-limit", told.encode()))
        return shown

    @property
    def exceeded(self) -> Sequence[Limit]:
        """Limits that had not enough left when it was admitted, and only tell."""
        return self.held[0].exceeded if self.held else ()

    @property
    def _first(self) -> Sequence[tuple[Lease, int]]:
        return self.held[0].parts if self.held else ()


def _standing(lease: Lease, now_us: int) -> Standing:
    end = lease.window_end_us
    wait_us = None if end is None else max(0, end - now_us)
    return Standing(lease.limit, lease.left + lease.free, wait_us, end)
