"""Which backend of a model gets a request, and which one is left alone for a while.

Decides: the least loaded of those that work, by weight; that a backend which keeps failing rests,
longer every time, until one request (or its health path) finds out that it works again; and that
the last one that a model has is never given up. Counts are of this process. Pure but for what
it remembers: the time is passed in, in monotonic µs. Does not decide what is a failure, nor
whether a request is sent again (`attempts.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from billing.admission.backend import Backend, ServedModel

FAILURES_IN_A_ROW = 3
FIRST_REST_US = 1_000_000
LONGEST_REST_US = 60_000_000


@dataclass(slots=True, eq=False)
class _Member:
    """What is remembered of a backend.

    Attributes:
        last: number of the newest request that it got.
        rests_until_us: 0 while it takes part. Once the time has passed, one request tries it.
        trying: requests that were sent to it while it rested.
    """

    in_flight: int = 0
    last: int = 0
    failures: int = 0
    rests_until_us: int = 0
    rest_us: int = 0
    trying: int = 0

    def rests(self, now_us: int) -> bool:
        """Whether it is left alone now."""
        return bool(self.rests_until_us) and (now_us < self.rests_until_us or self.trying > 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolState:
    """A backend as this process sees it."""

    backend: str
    in_flight: int
    resting: bool


class Seat:
    """A request's place at a backend, from its dispatch until it is done there."""

    __slots__ = ("_left", "_member", "_tries")

    def __init__(self, member: _Member) -> None:
        self._member = member
        self._left = False
        self._tries = bool(member.rests_until_us)
        member.in_flight += 1
        member.trying += self._tries

    def answered(self) -> None:
        """It answered: it works."""
        member = self._member
        member.failures = member.rests_until_us = member.rest_us = 0

    def failed(self, now_us: int, *, rest_us: int = 0) -> None:
        """It did not answer.

        Args:
            rest_us: the time for which it asked to be left alone; 0: it did not ask.
        """
        member = self._member
        if now_us < member.rests_until_us:
            return  # what was sent before it rested says nothing new
        member.failures += 1
        if rest_us:
            member.rests_until_us = now_us + min(rest_us, LONGEST_REST_US)
        elif member.failures >= FAILURES_IN_A_ROW or self._tries:
            member.rest_us = min(max(2 * member.rest_us, FIRST_REST_US), LONGEST_REST_US)
            member.rests_until_us = now_us + member.rest_us

    def leave(self) -> None:
        """It is done there, whatever became of it. The one place where load is taken off."""
        if not self._left:
            self._left = True
            self._member.in_flight -= 1
            self._member.trying -= self._tries


class Pools:
    """The backends of all models, for one event loop."""

    def __init__(self) -> None:
        self._members: dict[str, _Member] = {}
        self._begun = 0

    def choose(
        self, model: ServedModel, *, without: Collection[str], now_us: int
    ) -> Backend | None:
        """The backend that is to get the next request; None if there is none that could take it.

        Args:
            without: names of those that have failed it already.
        """
        best: tuple[Backend, _Member] | None = None
        resting: tuple[Backend, _Member] | None = None
        full = False
        for backend in model.backends:
            if backend.draining or backend.name in without:
                continue
            member = self._member(backend.name)
            if backend.max_in_flight is not None and member.in_flight >= backend.max_in_flight:
                full = full or not member.rests(now_us)
            elif member.rests(now_us):
                if resting is None or member.rests_until_us < resting[1].rests_until_us:
                    resting = backend, member
            elif best is None or _less_loaded(backend, member, *best):
                best = backend, member
        if best is not None:
            return best[0]
        # One that works and is full is waited for; only if none works is one tried that rests.
        return None if resting is None or full else resting[0]

    def begin(self, backend: Backend) -> Seat:
        """Count a request that is sent to a backend."""
        member = self._member(backend.name)
        self._begun += 1
        member.last = self._begun
        return Seat(member)

    def resting(self, name: str) -> bool:
        """Whether a backend has failed and has not answered since."""
        member = self._members.get(name)
        return member is not None and bool(member.rests_until_us)

    def wake(self, name: str, now_us: int) -> None:
        """A backend says that it works: the next request finds out."""
        member = self._member(name)
        if member.rests_until_us:
            member.rests_until_us = min(member.rests_until_us, now_us)

    def in_flight(self, name: str) -> int:
        """Requests that a backend has now."""
        member = self._members.get(name)
        return 0 if member is None else member.in_flight

    def states(self) -> Iterable[PoolState]:
        """All backends that were ever chosen from."""
        for name, member in self._members.items():
            yield PoolState(
                backend=name, in_flight=member.in_flight, resting=bool(member.rests_until_us)
            )

    def _member(self, name: str) -> _Member:
        member = self._members.get(name)
        if member is None:
            member = self._members[name] = _Member()
        return member


def _less_loaded(one: Backend, its: _Member, other: Backend, others: _Member) -> bool:
    """Whether one request more weighs less on the first; between equals, they take turns."""
    load = (its.in_flight + 1) * other.weight
    other_load = (others.in_flight + 1) * one.weight
    return load < other_load or (load == other_load and its.last < others.last)
