"""What one operation holds of its tenant's limits, from admission to its record.

Decides: what the operation drew of each limit, how it goes on when its answer grows beyond what it
holds, and what the answer says of the limits. Does not decide which limits apply and how much is
set aside first: `holds.py` does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from api.proxy.headers import Headers
from api.proxy.hold_port import HoldPort
from api.proxy.likely_output import Lengths
from api.proxy.limit_errors import (
    HoldsUnavailable,
    LimitReached,
    LimitsCrowded,
    Standing,
    limit_headers,
    told_kind,
)
from billing.admission.amounts import Rates, charge
from billing.admission.backend import ServedModel
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
        prices: the highest that can apply, by the model's name.
        serving: the model that answers, as far as is known.
        bound: what the operation can come to.
        covered: tokens of output, over all choices, that are held by now.
        wanted: what it needs of the limits on the model that was asked for.
        others: what it needs of limits on a fallback alone, by the model's id.
        expose: admits what comes to so much while limits cannot be asked, or raises
            `HoldsUnavailable`.
        lengths: what learns of its length; None where no hold goes by it.
        unasked: it was admitted while limits could not be asked: it holds nothing, and draws on
            the limits themselves.
        cover: bound per choice that the engine must be given because the client set none.
    """

    port: HoldPort
    clock: Clock
    rates: Rates
    prices: Mapping[str, Rates]
    serving: ServedModel
    bound: Bound
    covered: int
    wanted: Sequence[Wanted]
    others: Mapping[int, Sequence[Wanted]]
    expose: Callable[[Sequence[Wanted], int], None]
    lengths: Lengths | None = None
    unasked: bool = False
    held: list[Held] = field(default_factory=list[Held])
    _held_for: tuple[int, ...] = ()

    @property
    def cover(self) -> int | None:
        """Bound per choice that the engine must be given, because the client set none."""
        return self.bound.cover

    def draws(self, counts: TokenCounts, units: Mapping[UnitMeter, int]) -> tuple[Draw, ...]:
        """What an outcome with these counts draws in all: from leases, or from limits.

        At the prices of the model that serves: what was held is enough for the dearest, and a
        budget that lost as much to every request would end long before it is used.
        """
        rates = self.prices.get(self.serving.name, self.rates)
        if self.unasked:
            on = [(of_limit(each.limit.id), each.limit) for each in self._counting]
        else:
            on = [(lease.id, lease.limit) for lease in self._leases]
        drawn: list[Draw] = []
        for whose, limit in on:
            if limit.model_id not in (None, self.serving.id):
                continue  # it counts another model than the one that answered
            match limit.unit:
                case Unit.MONEY:
                    amount = charge(rates, counts, units)
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
            for each in self._counting
            if growing.get(each.limit.unit)
        ]
        now_us = self.clock()
        if wanted:
            held = self.port.take(wanted, now_us)
            try:
                if held is None:
                    held = await self._obtained(wanted, money, now_us)
            except (LimitReached, HoldsUnavailable) as refusal:
                return refusal
            if held is not None:
                self.held.append(held)
        self.covered += more
        return None

    async def _obtained(self, wanted: Sequence[Wanted], money: int, now_us: int) -> Held | None:
        """Set more aside; None where limits cannot be asked and it goes on without, as a request
        that came now would be admitted.

        Raises:
            LimitReached, HoldsUnavailable: it may not go on.
        """
        try:
            return await self.port.obtain(wanted, now_us)
        except LimitsCrowded:
            raise
        except HoldsUnavailable:
            self.expose(wanted, money)
            return None

    async def hold_for_serving(self) -> LimitReached | HoldsUnavailable | None:
        """Hold what limits on the model that is to answer want beside the others; why it cannot
        answer, where they have not that much left."""
        wanted = self.others.get(self.serving.id)
        if wanted is None or self.unasked or self.serving.id in self._held_for:
            return None
        now_us = self.clock()
        held = self.port.take(wanted, now_us)
        try:
            if held is None:
                held = await self.port.obtain(wanted, now_us)
        except (LimitReached, HoldsUnavailable) as refusal:
            return refusal
        self._held_for += (self.serving.id,)
        self.held.append(held)
        return None

    def release(self, draws: Sequence[Draw] = ()) -> None:
        """Give back what is held, less what was drawn; a second time: nothing."""
        drawn = {draw.lease: draw.units for draw in draws}
        for held in self.held:
            self.port.release(held, drawn)
            # A lease that was extended has two parts of one draw.
            for lease, _ in held.parts:
                drawn.pop(lease.id, None)

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

    @property
    def _counting(self) -> Sequence[Wanted]:
        """What it needs of the limits that count the model which answers."""
        serving_id = self.serving.id
        others = self.others.get(serving_id, ())
        return [
            each for each in (*self.wanted, *others) if each.limit.model_id in (None, serving_id)
        ]

    @property
    def _leases(self) -> Iterable[Lease]:
        """One of each limit: that of the window in which it was admitted."""
        if not self._held_for:
            return (lease for lease, _ in self._first)
        first: dict[int, Lease] = {}
        for held in self.held:
            for lease, _ in held.parts:
                first.setdefault(lease.limit.id, lease)
        return first.values()


def _standing(lease: Lease, now_us: int) -> Standing:
    end = lease.window_end_us
    wait_us = None if end is None else max(0, end - now_us)
    return Standing(lease.limit, lease.left + lease.free, wait_us, end)
