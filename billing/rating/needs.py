"""What plans ask of recorded usage: how finely each meter has to be read before it can be rated.

Decides: which dimensions of a meter, whether its quarter hours, and whether its single events
matter to a price. A meter that is not named here is priced by its sum alone, so that a month of
it is read from the level of days. Reading finer than asked would change no amount and cost time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from billing.catalog.charge import Charge
from billing.catalog.price import Percentage, Span
from billing.catalog.price_plan import PricePlan
from billing.catalog.selector import Selector
from billing.rating.groups import span_of


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterNeeds:
    """What is asked of one meter.

    Attributes:
        dimensions: names, ascending; their values are read together, as each event has them.
        quarters: whether usage is read by quarter hour.
        transactions: whether the values of single events are read, in their order.
        levels: whether the changes of a level are read, since units are prorated by days.
    """

    dimensions: tuple[str, ...] = ()
    quarters: bool = False
    transactions: bool = False
    levels: bool = False

    @property
    def beyond_rollups(self) -> bool:
        """Whether only the events themselves can answer: a rollup holds one dimension at most."""
        return self.transactions or len(self.dimensions) > 1

    def joined(self, other: MeterNeeds) -> MeterNeeds:
        """What serves both."""
        return MeterNeeds(
            dimensions=tuple(sorted({*self.dimensions, *other.dimensions})),
            quarters=self.quarters or other.quarters,
            transactions=self.transactions or other.transactions,
            levels=self.levels or other.levels,
        )


Needs: TypeAlias = Mapping[str, MeterNeeds]
"""By code of the meter; one that is missing is asked for its sum."""

NO_NEEDS = MeterNeeds()


def needs_of(plans: Iterable[PricePlan]) -> Needs:
    """What a set of plans, such as those of a tenant's contracts, asks of each meter."""
    found: dict[str, MeterNeeds] = {}
    for plan in plans:
        for charge in plan.charges:
            selector = charge.selector
            if selector is None:
                continue
            asked = _of_charge(charge, selector).joined(found.get(selector.meter, NO_NEEDS))
            if asked != NO_NEEDS:
                found[selector.meter] = asked
    return found


def _of_charge(charge: Charge, selector: Selector) -> MeterNeeds:
    conditions = (condition.dimension for condition in selector.where)
    return MeterNeeds(
        dimensions=tuple(sorted({*conditions, *charge.split_by})),
        quarters=selector.window is not None or span_of(charge) is not Span.PERIOD,
        # Of the sum of its values, a plain percentage needs no more.
        transactions=isinstance(charge.price, Percentage) and not charge.price.is_plain,
        levels=charge.prorated,
    )
