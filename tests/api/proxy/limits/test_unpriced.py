"""What becomes of requests without a price is the plan's choice."""

from __future__ import annotations

import pytest

from billing.admission.terms import AdmissionPolicy, Unpriced
from tests.api.proxy.limits.conftest import LimitedYards, limit_of


@pytest.mark.parametrize(("unpriced", "status"), [(Unpriced.REFUSE, 403), (Unpriced.FREE, 200)])
async def test_refuse_and_free_are_the_plans_choice(
    limited: LimitedYards, unpriced: Unpriced, status: int
) -> None:
    world = await limited(limit_of(5), policy=AdmissionPolicy(unpriced=unpriced))
    assert (await world.yard.chat(model="unpriced")).status_code == status
    await world.yard.settled()
    # Free of charge or not, it is metered, and a limit on requests counts it.
    assert len(world.yard.journal.usages) == (status == 200)
    assert world.holds.held == {"budget": (0, status == 200)}
