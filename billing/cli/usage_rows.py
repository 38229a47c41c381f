"""Usage events as JSON Lines, CSV or Parquet, for `steelyard usage import`.

Decides: how a row is written and which rows are refused; an error names the line. What becomes of
a well-formed row (unknown meter, future, repeated id) is the ledger's verdict, not decided here.

    {"source": "batch", "id": "job-7/output", "meter": "tokens.output", "quantity": 1200,
     "occurred_at": "2026-11-03T09:30:00Z", "model": "sim-small"}

A table has a column for each member; an empty cell is a member that is left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

import msgspec

from billing.errors import InvalidInput
from billing.metering.usage_event import EventKind, UsageReport
from billing.money import QUANTITY_DECIMALS_MAX, QUANTITY_MAX, exact_decimal
from billing.period import parse_instant

LINE_BYTES_MAX = 10_000

Row = bytes | Mapping[str, object]
"""A line of JSON, or the cells of a table's row by column."""

_KINDS = {kind.name.lower(): kind for kind in EventKind}


class _Row(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One line."""

    id: str
    meter: str
    quantity: str | int
    occurred_at: str
    source: str | None = None
    model: str | None = None
    project: str | None = None
    kind: str = "billed"


def read_reports(
    lines: Iterable[bytes], *, source: str | None
) -> Iterator[tuple[int, UsageReport]]:
    """The events of JSON lines with their line numbers; blank lines are skipped.

    Args:
        source: of rows that name none.

    Raises:
        InvalidInput: `field` names line and member, like `line 3: quantity`.
    """
    for number, found in each_report(json_rows(lines), source=source):
        if isinstance(found, InvalidInput):
            raise found
        yield number, found


def each_report(
    rows: Iterable[tuple[int, Row]], *, source: str | None
) -> Iterator[tuple[int, UsageReport | InvalidInput]]:
    """What each row reports, or why it cannot be used."""
    for number, row in rows:
        try:
            yield number, _report(row, number, source)
        except InvalidInput as refused:
            yield number, refused


def json_rows(lines: Iterable[bytes]) -> Iterator[tuple[int, Row]]:
    """The rows of JSON lines with their line numbers; blank lines are skipped."""
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield number, line


def _report(line: Row, number: int, source: str | None) -> UsageReport:
    try:
        members = _members(line) if isinstance(line, bytes) else line
        row = msgspec.convert(members, _Row)
    except msgspec.ValidationError as refused:
        raise _refused(str(refused), number, None, "see `usage import --help` for a row") from None
    named = row.source if row.source is not None else source
    if named is None:
        raise _refused("who reports it?", number, "source", "add the member, or use --source")
    if row.kind not in _KINDS:
        raise _refused("unknown kind of event", number, "kind", f"use {', '.join(_KINDS)}")
    try:
        return UsageReport(
            source=named,
            foreign_id=row.id,
            meter=row.meter,
            quantity=exact_decimal(
                str(row.quantity),
                field="quantity",
                decimals_max=QUANTITY_DECIMALS_MAX,
                limit=QUANTITY_MAX,
            ),
            occurred_at=parse_instant(row.occurred_at, field="occurred_at"),
            model=row.model,
            project=row.project,
            kind=_KINDS[row.kind],
        )
    except InvalidInput as refused:
        raise _refused(refused.message, number, refused.field, refused.remedy) from None


def _members(line: bytes) -> dict[str, Any]:
    """A line as plain members; what `json` would bend or drop silently is refused."""
    if len(line) > LINE_BYTES_MAX:
        raise msgspec.ValidationError("the line is too long")
    try:
        parsed: object = json.loads(
            line, object_pairs_hook=_once, parse_float=_no_float, parse_constant=_no_float
        )
    except msgspec.ValidationError:
        raise
    except (ValueError, RecursionError):
        raise msgspec.ValidationError("not a JSON object") from None
    if not isinstance(parsed, dict):
        raise msgspec.ValidationError("not a JSON object")
    return cast("dict[str, Any]", parsed)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise msgspec.ValidationError("a member occurs twice")
    return members


def _no_float(_: str) -> None:
    raise msgspec.ValidationError(
        "a number with a point or exponent would become a binary float; write it as text"
    )


def _refused(message: str, number: int, member: str | None, remedy: str | None) -> InvalidInput:
    field = f"line {number}: {member}" if member else f"line {number}"
    return InvalidInput(message, field=field, remedy=remedy)
