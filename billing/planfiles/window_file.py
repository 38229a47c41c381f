"""Windows of a plan file: named parts of the local week.

Decides: how a window is written, and how a stored plan writes it down. What a window holds is
decided by the catalog.

    windows:
      peak: {days: [mon, tue, wed, thu, fri], from: "08:00", to: "20:00", closed_on: [2026-12-25]}
      off_peak: {rest_of: peak}
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date
from itertools import groupby
from typing import Any, Literal, TypeAlias, get_args

from pydantic import Field

from billing.catalog.price_plan import PricePlan
from billing.catalog.window import QUARTERS_OF_DAY, Window, weekly
from billing.errors import InvalidPlan
from billing.planfiles.validation import Document

Day: TypeAlias = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]

_DAYS: tuple[Day, ...] = get_args(Day)
_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


class HoursDocument(Document):
    """The same hours on some weekdays, half-open; an end not behind the start is a day later."""

    days: list[Day] = Field(default_factory=lambda: list(_DAYS))
    start: str = Field(default="00:00", alias="from")
    end: str = Field(default="24:00", alias="to")


class WindowDocument(HoursDocument):
    """A part of the week, by the tenant's clock: one stretch of hours, several, or the rest.

    On the dates in `closed_on` nothing is inside, on those in `open_on` everything. `rest_of`
    names the window of which this is all the other time.
    """

    hours: list[HoursDocument] | None = None
    closed_on: list[str] = Field(default_factory=list[str])
    open_on: list[str] = Field(default_factory=list[str])
    rest_of: str | None = None


def read_windows(documents: Mapping[str, WindowDocument]) -> dict[str, Window]:
    """The windows of a plan, by name.

    Raises:
        InvalidPlan: `field` starts with the window's name.
    """
    windows: dict[str, Window] = {}
    for name, document in documents.items():
        if document.rest_of is None:
            windows[name] = _named(name, document)
    for name, document in documents.items():
        if document.rest_of is None:
            continue
        if document.model_fields_set != {"rest_of"}:
            raise InvalidPlan(
                "the rest of another window has no hours of its own",
                field=name,
                remedy="leave out everything but rest_of",
            )
        other = documents.get(document.rest_of)
        if other is None or other.rest_of is not None:
            raise InvalidPlan(
                "no such window", field=f"{name}.rest_of", remedy="name one that has hours"
            )
        try:
            windows[name] = windows[document.rest_of].rest(_require_name(name))
        except InvalidPlan as refused:
            field = refused.field if refused.field == name else f"{name}.rest_of"
            raise InvalidPlan(refused.message, field=field, remedy=refused.remedy) from None
    return windows


def dump_windows(plan: PricePlan) -> dict[str, Any]:
    """The windows that the charges of a plan are for, by name, in one form however written."""
    found = {
        charge.selector.window.name: charge.selector.window
        for charge in plan.charges
        if charge.selector is not None and charge.selector.window is not None
    }
    return {name: _dump(found[name]) for name in sorted(found)}


def unpriced_hours(windows: Iterable[Window]) -> int:
    """How many quarter hours of a plain week, one without exceptions, no window holds."""
    held: frozenset[int] = frozenset[int]().union(*(window.quarters for window in windows))
    return 7 * QUARTERS_OF_DAY - len(held)


def _named(name: str, document: WindowDocument) -> Window:
    _require_name(name)
    stretches: Sequence[HoursDocument] = [document]
    if document.hours is not None:
        if document.model_fields_set & {"days", "start", "end"}:
            raise InvalidPlan(
                "hours are written twice", field=f"{name}.hours", remedy="write them in one place"
            )
        if not document.hours and not document.open_on:
            raise InvalidPlan(
                "a window without time in it", field=f"{name}.hours", remedy="name days and hours"
            )
        stretches = document.hours
    closed = _dates(document.closed_on, field=f"{name}.closed_on")
    opened = _dates(document.open_on, field=f"{name}.open_on")
    quarters: set[int] = set()
    for position, stretch in enumerate(stretches):
        path = name if document.hours is None else f"{name}.hours[{position}]"
        try:
            part = weekly(
                name,
                days=[_DAYS.index(day) for day in stretch.days],
                start=stretch.start,
                end=stretch.end,
            )
        except InvalidPlan as refused:
            raise InvalidPlan(
                refused.message, field=f"{path}.{refused.field}", remedy=refused.remedy
            ) from None
        if quarters & part.quarters:
            raise InvalidPlan(
                "two stretches of a window overlap", field=path, remedy="write each hour once"
            )
        quarters |= part.quarters
    try:
        return Window(name=name, quarters=frozenset(quarters), closed_on=closed, open_on=opened)
    except InvalidPlan as refused:
        field = f"{name}.{refused.field}"
        raise InvalidPlan(refused.message, field=field, remedy=refused.remedy) from None


def _require_name(name: str) -> str:
    if _NAME.fullmatch(name) is None:
        raise InvalidPlan("malformed name", field=name, remedy="write it like off_peak")
    return name


def _dates(texts: Sequence[str], *, field: str) -> frozenset[date]:
    found: set[date] = set()
    for position, text in enumerate(texts):
        try:
            day = date.fromisoformat(text) if _DATE.fullmatch(text) else None
        except ValueError:
            day = None
        if day is None or day in found:
            raise InvalidPlan(
                "not a date, or the same date twice",
                field=f"{field}[{position}]",
                remedy="write each like 2026-12-25",
            )
        found.add(day)
    return frozenset(found)


def _dump(window: Window) -> dict[str, Any]:
    said: dict[str, Any] = {"hours": _stretches(window.quarters)}
    if window.closed_on:
        said["closed_on"] = [day.isoformat() for day in sorted(window.closed_on)]
    if window.open_on:
        said["open_on"] = [day.isoformat() for day in sorted(window.open_on)]
    return said


def _stretches(quarters: frozenset[int]) -> list[dict[str, Any]]:
    """Stretches within days, those of several days joined where they are the same."""
    days: dict[tuple[int, int], list[Day]] = {}
    for position, name in enumerate(_DAYS):
        first = position * QUARTERS_OF_DAY
        inside = [q for q in range(QUARTERS_OF_DAY) if first + q in quarters]
        for start, end in _runs(inside):
            days.setdefault((start, end), []).append(name)
    return [
        {"days": names, "from": _clock(start), "to": _clock(end)}
        for (start, end), names in sorted(days.items())
    ]


def _runs(inside: Sequence[int]) -> Iterator[tuple[int, int]]:
    for _, run in groupby(enumerate(inside), key=lambda pair: pair[1] - pair[0]):
        members = [quarter for _, quarter in run]
        yield members[0], members[-1] + 1


def _clock(quarter: int) -> str:
    return f"{quarter // 4:02}:{quarter % 4 * 15:02}"
