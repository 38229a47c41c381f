"""Whether every request has a price, whatever the dimensions of its tokens.

Decides: which plans would leave tokens of a model that they sell without a price, because no
charge is for some band of context or some service tier. A client chooses both with each request:
such usage would wait in the unrated queue and block the invoice (R5). What a plan does not sell at
all, the proxy refuses before it is dispatched.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from billing.catalog.charge import Charge
from billing.catalog.selector import Condition, Selector
from billing.metering.request_event import is_token_meter
from billing.rating.meter_fit import DeclaredMeter, Misfit


@dataclass(frozen=True, slots=True)
class _Entry:
    """A charge of one meter, by its position in the plan."""

    position: int
    selector: Selector


def unpriced_values(
    charges: Sequence[Charge], declared: Mapping[str, DeclaredMeter]
) -> Iterator[tuple[int, Misfit]]:
    """For each meter and model the first values without a price, with a charge that sells it."""
    by_meter: dict[str, list[_Entry]] = {}
    for position, charge in enumerate(charges):
        selector = charge.selector
        if selector is not None and is_token_meter(selector.meter):
            by_meter.setdefault(selector.meter, []).append(_Entry(position, selector))
    for code, entries in by_meter.items():
        meter = declared.get(code)
        if meter is not None and any(entry.selector.where for entry in entries):
            yield from _of_meter(meter, entries)


def _of_meter(meter: DeclaredMeter, entries: Sequence[_Entry]) -> Iterator[tuple[int, Misfit]]:
    of_any = [entry for entry in entries if entry.selector.models is None]
    by_model: dict[str | None, list[_Entry]] = {None: of_any} if of_any else {}
    for entry in entries:
        for model in sorted(entry.selector.models or ()):
            by_model.setdefault(model, [*of_any]).append(entry)
    for model, sold in by_model.items():
        missing = _missing(meter, [entry.selector.where for entry in sold])
        if missing is not None:
            where = " and ".join(f"{name} is {value}" for name, value in missing)
            whose = "other models" if model is None else model
            yield (
                sold[0].position,
                Misfit(
                    member="where",
                    message=f"{meter.meter.code} of {whose} has no price where {where}",
                    remedy="add a charge for it, or one for others",
                ),
            )


def _missing(
    meter: DeclaredMeter, conditions: Sequence[Sequence[Condition]]
) -> tuple[tuple[str, str], ...] | None:
    """The first values that meet none of the conditions; None if there are none."""
    names = sorted({each.dimension for group in conditions for each in group})
    axes = [sorted(meter.values_of(name)) for name in names]
    for values in product(*axes):
        found = dict(zip(names, values, strict=True))
        if not any(
            all(each.meets(found[each.dimension]) for each in group) for group in conditions
        ):
            return tuple(found.items())
    return None
