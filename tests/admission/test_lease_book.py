"""A process never holds and draws more than it was granted, whatever its requests do."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from billing.admission.lease_book import Held, LeaseBook, Wanted
from billing.admission.limit import Limit, Unit, Window

LIMITS = [
    Limit(
        id=number,
        name=f"limit-{number}",
        unit=Unit.TOKENS,
        window=Window.NONE,
        hard=True,
        shadow=False,
        capacity=1000,
    )
    for number in (1, 2)
]
amounts = st.integers(1, 50)


class Books(RuleBasedStateMachine):
    """Against plain sums: granted, given back, and what every request holds and drew."""

    def __init__(self) -> None:
        super().__init__()
        self.book = LeaseBook()
        self.granted = {limit.id: 0 for limit in LIMITS}
        self.drawn = {limit.id: 0 for limit in LIMITS}
        self.running: list[tuple[Held, dict[int, int]]] = []

    def free(self, limit_id: int) -> int:
        held = sum(amounts[limit_id] for _, amounts in self.running)
        return self.granted[limit_id] - self.drawn[limit_id] - held

    @rule(limit=st.sampled_from(LIMITS), more=amounts)
    def grant(self, limit: Limit, more: int) -> None:
        self.granted[limit.id] += more
        self.book.grant(
            limit,
            lease_id=limit.id,
            granted=self.granted[limit.id],
            window_end_us=None,
            left=0,
            now_us=0,
        )

    @rule(one=amounts, two=amounts)
    def take(self, one: int, two: int) -> None:
        asked = {1: one, 2: two}
        held = self.book.take([Wanted(limit=limit, amount=asked[limit.id]) for limit in LIMITS], 0)
        known = all(limit.id in self.book.leases for limit in LIMITS)
        fits = known and all(self.free(limit_id) >= asked[limit_id] for limit_id in asked)
        assert (held is not None) == fits
        if held is not None:
            self.running.append((held, asked))

    @rule(data=st.data(), twice=st.booleans())
    def release(self, data: st.DataObject, *, twice: bool) -> None:
        if not self.running:
            return
        held, asked = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        draws = {limit_id: data.draw(st.integers(0, most)) for limit_id, most in asked.items()}
        self.book.release(held, draws)
        if twice:
            self.book.release(held, draws)
        for limit_id, drawn in draws.items():
            self.drawn[limit_id] += drawn

    @rule(limit=st.sampled_from(LIMITS))
    def give_back(self, limit: Limit) -> None:
        free = self.free(limit.id)
        smaller = self.book.give_back([limit.id])
        assert bool(smaller) == (free > 0)
        self.granted[limit.id] -= free

    @invariant()
    def never_more_than_granted(self) -> None:
        for limit in LIMITS:
            assert self.book.free_of(limit.id) == self.free(limit.id) >= 0


TestBooks = Books.TestCase
