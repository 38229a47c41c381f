"""Steps of agents' runs in the records of a journal.

Decides: that an event has one only where its request named a step or an agent; a run alone is
kept with the event itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from billing.journal.records import Usage
from billing.metering.event_id import from_microseconds
from billing.store.usage.steps import StepRow


def step_rows(usages: Iterable[Usage]) -> list[StepRow]:
    """The steps of usage events, as the ledger keeps them."""
    return [
        StepRow(
            event_id=UUID(bytes=usage.id),
            at=from_microseconds(usage.at_us),
            tenant_id=whose.tenant_id,
            run_id=whose.run_id,
            step_id=whose.step_id,
            agent_id=whose.agent_id,
        )
        for usage in usages
        if (whose := usage.attribution).step_id or whose.agent_id
    ]
