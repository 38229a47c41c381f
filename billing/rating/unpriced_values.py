"""Whether every request has a price, whatever the dimensions of its tokens.

Decides: which charges would leave tokens of a model that they sell without a price, because none
is for some band of context or some service tier, or because the output of a model has a price and
its input has none. A client chooses band and tier with each request: such usage would wait in the
unrated queue and block the invoice (R5). What is not sold at all, the proxy refuses before it is
dispatched. Whether the charges are those of one plan or of several contracts is the caller's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from billing.catalog.charge import Charge
from billing.catalog.selector import Condition, Selector
from billing.metering.request_event import is_token_meter
from billing.metering.token_class import TokenClass
from billing.rating.meter_fit import DeclaredMeter

_Values = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """A class of token that is sold and can come without a price.

    Attributes:
        positions: of the charges that sell it, among those that were looked at.
        about: the meter.
    """

    positions: tuple[int, ...]
    about: str
    message: str
    remedy: str


@dataclass(frozen=True, slots=True)
class _Entry:
    """A charge of one meter, by its position in the plan."""

    position: int
    selector: Selector


def unpriced_values(
    charges: Sequence[Charge], declared: Mapping[str, DeclaredMeter]
) -> Iterator[Gap]:
    """For each meter and model the first values without a price."""
    for code, entries in _by_meter(charges).items():
        meter = declared.get(code)
        if meter is not None and any(entry.selector.where for entry in entries):
            yield from _of_meter(meter, entries)


def unpriced_inputs(charges: Sequence[Charge]) -> Iterator[Gap]:
    """Models whose output has a price and whose input has none."""
    by_meter = _by_meter(charges)
    inputs = _by_model(by_meter.get(TokenClass.INPUT.meter, ()))
    for model, sold in _by_model(by_meter.get(TokenClass.OUTPUT.meter, ())).items():
        if model not in inputs and None not in inputs:
            yield Gap(
                positions=tuple(entry.position for entry in sold),
                about=TokenClass.INPUT.meter,
                message=f"{TokenClass.INPUT.meter} of {_whose(model)} has no price, "
                "and its output has one",
                remedy="give input a price too",
            )


def is_priced_whole(charges: Sequence[Charge], meter: DeclaredMeter, model: str) -> bool:
    """Whether every value of a meter's dimensions has a price for a model."""
    sold = [
        charge.selector.where
        for charge in charges
        if charge.selector is not None and charge.selector.selects(meter.meter.code, model)
    ]
    return _missing(meter, sold) is None


def _by_meter(charges: Sequence[Charge]) -> dict[str, list[_Entry]]:
    found: dict[str, list[_Entry]] = {}
    for position, charge in enumerate(charges):
        selector = charge.selector
        if selector is not None and is_token_meter(selector.meter):
            found.setdefault(selector.meter, []).append(_Entry(position, selector))
    return found


def _by_model(entries: Sequence[_Entry]) -> dict[str | None, list[_Entry]]:
    """What sells each model that is named; what sells all others under None."""
    of_any = [entry for entry in entries if entry.selector.models is None]
    found: dict[str | None, list[_Entry]] = {None: of_any} if of_any else {}
    for entry in entries:
        for model in sorted(entry.selector.models or ()):
            found.setdefault(model, [*of_any]).append(entry)
    return found


def _of_meter(meter: DeclaredMeter, entries: Sequence[_Entry]) -> Iterator[Gap]:
    for model, sold in _by_model(entries).items():
        missing = _missing(meter, [entry.selector.where for entry in sold])
        if missing is not None:
            where = " and ".join(f"{name} is {value}" for name, value in missing)
            yield Gap(
                positions=tuple(entry.position for entry in sold),
                about=meter.meter.code,
                message=f"{meter.meter.code} of {_whose(model)} has no price where {where}",
                remedy="add a charge for it, or one for others",
            )


def _whose(model: str | None) -> str:
    return "other models" if model is None else model


def _missing(meter: DeclaredMeter, conditions: Sequence[Sequence[Condition]]) -> _Values | None:
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
