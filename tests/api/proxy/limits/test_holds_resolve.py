"""What becomes of amounts whose request came to nothing, and of a crowd at a limit."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from api.proxy.limit_errors import LimitsCrowded
from billing.admission.amounts import PICO
from billing.admission.lease_book import Held, Wanted
from billing.admission.limit import Unit
from tests.api.proxy.limits.conftest import BookedHolds, LimitedYards, limit_of


async def test_an_answer_that_is_refused_for_its_record_draws_nothing(
    limited: LimitedYards,
) -> None:
    """No event tells of it, so nobody would ever give back what the process counts as used."""
    units = (Unit.MONEY, Unit.TOKENS, Unit.REQUESTS, Unit.SLOTS)
    world = await limited(*(limit_of(10**9 * PICO, unit) for unit in units))
    world.yard.journal.refuses = True
    assert (await world.yard.chat()).status_code == 503
    await world.yard.settled()
    assert set(world.holds.held.values()) == {(0, 0)}


async def test_L6_a_crowd_at_a_limit_is_no_database_that_is_away(
    limited: LimitedYards, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its policy admits this tenant while limits cannot be asked; here they can."""

    async def crowded(holds: BookedHolds, wanted: Sequence[Wanted], now_us: int) -> Held:
        raise LimitsCrowded("too many")

    monkeypatch.setattr(BookedHolds, "obtain", crowded)
    world = await limited(limit_of(0))
    answer = await world.yard.chat()
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert world.yard.engine.served == []
