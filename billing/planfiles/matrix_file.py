"""Matrices of a plan file: prices by model, token class and dimensions, one charge per cell.

Decides: how a matrix is written and which charges it stands for. Usage outside its cells has no
price, except where the matrix says `others`.

    - type: matrix
      key: tokens
      description: Tokens
      per: 1000000
      by: [model, class, tier]
      prices:
        sim-small:
          input: {standard: "0.10", batch: "0.05"}
          output: {standard: "0.40", batch: "0.20"}
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TypeAlias, cast

from pydantic_core import PydanticCustomError

from billing.catalog.charge import Charge
from billing.catalog.price import PerUnit
from billing.catalog.pricing_unit import PricingUnit
from billing.catalog.selector import Condition, Selector
from billing.catalog.window import Window
from billing.errors import InvalidInput, InvalidPlan
from billing.metering.token_class import TokenClass
from billing.planfiles.decimal_text import read_amount
from billing.planfiles.plan_document import MatrixDocument
from billing.planfiles.yaml_source import YamlPath, YamlSource

MODEL = "model"
CLASS = "class"
OTHERS = "others"
_PRICES = "prices"

_CLASSES = {token_class.value: token_class.meter for token_class in TokenClass}
_UNSAFE = re.compile(r"[^A-Za-z0-9._:/@+-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a matrix stands in its file, and in which currency its prices are read.

    Attributes:
        currencies: of the plan, first the one that is read.
        alone: whether its plan is judged alone, so that output and input are sold here together.
    """

    source: YamlSource
    path: YamlPath
    currencies: tuple[str, ...]
    alone: bool

    def refuse(self, message: str, below: Sequence[str], remedy: str | None) -> InvalidPlan:
        """The error for a value below the matrix."""
        return self.source.refuse(message, path=(*self.path, *below), remedy=remedy)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cell:
    """A price and where it stands.

    Attributes:
        path: names in the tree of prices, outermost first.
        values: for each axis the values that are meant, or, where the name is `others`, those of
            its siblings.
    """

    path: tuple[str, ...]
    values: tuple[frozenset[str], ...]
    price: Decimal

    @property
    def below(self) -> tuple[str, ...]:
        return (_PRICES, *self.path)


_Named: TypeAlias = Mapping[str, tuple[str, frozenset[str]]]


def expand_matrix(
    document: MatrixDocument, window: Window | None, unit: PricingUnit | None, place: Place
) -> Iterator[tuple[YamlPath, Charge]]:
    """Where each cell stands, and its charge, keyed `<key>/<values>`.

    Raises:
        InvalidPlan: names the cell.
    """
    _require_axes(document, place)
    cells = list(_cells(document.prices, document.by, (), (), place))
    if place.alone:
        _require_classes(document, cells, place)
    for cell in cells:
        named = dict(zip(document.by, zip(cell.path, cell.values, strict=True), strict=True))
        yield (
            (*place.path, *cell.below),
            replace(_charge(document, cell, named, window, place), pricing_unit=unit),
        )


def _charge(
    document: MatrixDocument, cell: _Cell, named: _Named, window: Window | None, place: Place
) -> Charge:
    meter = _meter(document, cell, named, place)
    try:
        return Charge(
            key="/".join((document.key, *(_key_part(name) for name in cell.path))),
            description=f"{document.description}: {', '.join(cell.path)}",
            selector=Selector(
                meter=meter,
                models=named[MODEL][1] if MODEL in named else None,
                where=tuple(
                    Condition(dimension=axis, values=values, others=name == OTHERS)
                    for axis, (name, values) in sorted(named.items())
                    if axis not in {MODEL, CLASS}
                ),
                window=window,
            ),
            price=PerUnit(price=cell.price),
            per=document.per,
        )
    except InvalidInput as refused:
        below = ("per",) if refused.field == "per" else cell.below
        raise place.refuse(refused.message, below, refused.remedy) from None


def _require_axes(document: MatrixDocument, place: Place) -> None:
    if not document.by or len(set(document.by)) < len(document.by):
        raise place.refuse(
            "no axes, or one twice", ("by",), "list model, class and dimensions, each once"
        )
    if (CLASS in document.by) is not (document.meter is None):
        raise place.refuse(
            "a matrix counts one meter, or one for each token class",
            ("by",),
            "name a meter, or class in by",
        )
    if document.meters and CLASS not in document.by:
        raise place.refuse("meters are by class", ("meters",), "name class in by")


def _cells(
    tree: object,
    axes: Sequence[str],
    path: tuple[str, ...],
    values: tuple[frozenset[str], ...],
    place: Place,
) -> Iterator[_Cell]:
    if not axes:
        try:
            price = read_amount(tree, place.currencies)
        except PydanticCustomError as refused:
            remedy = (refused.context or {}).get("remedy")
            raise place.refuse(refused.message(), (_PRICES, *path), remedy) from None
        yield _Cell(path=path, values=values, price=price)
        return
    if not isinstance(tree, dict) or not tree:
        raise place.refuse(
            f"no prices by {axes[0]}", (_PRICES, *path), f"write a price for each {axes[0]}"
        )
    named = cast("dict[str, object]", tree)
    listed = _listed(named, axes[0], path, place)
    for name, below in named.items():
        meant = frozenset[str]().union(*listed.values()) if name == OTHERS else listed[name]
        yield from _cells(below, axes[1:], (*path, name), (*values, meant), place)


def _listed(
    tree: Mapping[str, object], axis: str, path: tuple[str, ...], place: Place
) -> dict[str, frozenset[str]]:
    """The values that each name stands for; a value twice could never reach its second cell."""
    seen: set[str] = set()
    listed: dict[str, frozenset[str]] = {}
    for name in tree:
        below = (_PRICES, *path, name)
        if name == OTHERS:
            if axis in {MODEL, CLASS}:
                raise place.refuse(
                    f"a price for every other {axis}",
                    below,
                    "name each: a new one would be sold before anybody thought of its price",
                )
            continue
        values = [value.strip() for value in name.split(",")]
        for value in values:
            if not value or value in seen:
                raise place.refuse(
                    "a cell that is never reached: its value is empty or was priced before",
                    below,
                    "list every value once",
                )
            seen.add(value)
        listed[name] = frozenset(values)
    return listed


def _require_classes(document: MatrixDocument, cells: Sequence[_Cell], place: Place) -> None:
    """Refuse what sells output where its input has no price: requests of it could not be billed."""
    if CLASS not in document.by:
        return
    axis = document.by.index(CLASS)
    inputs = [cell for cell in cells if TokenClass.INPUT.value in cell.values[axis]]
    for cell in cells:
        if TokenClass.OUTPUT.value not in cell.values[axis]:
            continue
        if not any(_covers(each, cell, skip=axis) for each in inputs):
            missing = [*cell.path[:axis], TokenClass.INPUT.value, *cell.path[axis + 1 :]]
            raise place.refuse(
                "output is sold here and input is not",
                cell.below,
                f"give {' / '.join(missing)} a price too",
            )


def _covers(wider: _Cell, cell: _Cell, *, skip: int) -> bool:
    return all(
        position == skip or _covers_axis(wider, cell, position)
        for position in range(len(cell.path))
    )


def _covers_axis(wider: _Cell, cell: _Cell, position: int) -> bool:
    outside, inside = wider.path[position] == OTHERS, cell.path[position] == OTHERS
    these, those = wider.values[position], cell.values[position]
    if outside:
        return these <= those if inside else these.isdisjoint(those)
    return not inside and those <= these


def _meter(document: MatrixDocument, cell: _Cell, named: _Named, place: Place) -> str:
    if document.meter is not None:
        return document.meter
    name, classes = named[CLASS]
    meters = document.meters or _CLASSES
    if len(classes) > 1 or name not in meters:
        raise place.refuse("not a token class", cell.below, f"use one of {', '.join(meters)}")
    return meters[name]


def _key_part(name: str) -> str:
    """A value as part of a key: bands are written with characters that keys do not have."""
    worded = name.replace(">=", "from-").replace("<", "below-").replace(",", "+")
    return _UNSAFE.sub("", worded)
