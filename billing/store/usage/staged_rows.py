"""A batch of usage events as the bytes that COPY sends, and the sums that rollups add.

Decides: how a row looks on the wire, which of several rows with one id counts (the first), and
what a set of rows adds to the rollups. Done here and not on the server because encoding runs
while the server is busy with the batch before; row by row through the driver halves the speed.
Does not decide: which rows are new to the ledger (`append.py`).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, localcontext
from functools import lru_cache
from typing import Final, NamedTuple

from billing.errors import AmountOutOfRange
from billing.metering.reported_id import reported_key
from billing.money import EXACT

BUCKET_US: Final = 15 * 60 * 1_000_000
"""Microseconds of a rollup's bucket."""

COLUMNS: Final = (
    "id, occurred_at, tenant_id, project_id, key_id, model_id, backend_id, price_version_id, "
    "meter_set_id, raw_shape_id, kind, cause, estimated, ttft_us, duration_us, quantities, "
    "raw_counts, run_id"
)
REPORT_COLUMNS: Final = "ordinal, source, foreign_key, foreign_id, body_hash"
"""Follow in a batch of reported events."""

_POSTGRES_EPOCH_US: Final = 946_684_800_000_000  # 2000-01-01, where its instants count from
_SIGNATURE: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER: Final = b"\xff\xff"
_NULLS: Final = b"\xff\xff\xff\xff" * 5

# Each field is its length and its bytes, all big-endian.
_HEAD: Final = struct.Struct("!hi16siq")  # how many fields, id, occurred_at
_ORIGIN: Final = struct.Struct(f"!{'ii' * 8}ih")
_COURSE: Final = struct.Struct("!ihi?iqiq")  # cause, estimated, ttft, duration
_ARRAY: Final = struct.Struct("!iiiIii")  # length, dimensions, no nulls, element type, size, from
_EMPTY_ARRAY: Final = struct.pack("!iiiI", 12, 0, 0, 1700)
_LENGTH: Final = struct.Struct("!i")
_REPORT: Final = struct.Struct("!iiiii16s")  # ordinal, source, foreign key
_NO_TEXT: Final = struct.Struct("!ii")  # no text, length of the body's hash
_NUMERIC_OID: Final = 1700
_NUMERIC: Final = struct.Struct("!ihhHh")  # length, digits, weight, sign, decimals shown
_ONE_GROUP: Final = struct.Struct("!ihhHhh")
_TWO_GROUPS: Final = struct.Struct("!ihhHhhh")
_GROUP: Final = 10_000
_TWO_GROUPS_END: Final = _GROUP * _GROUP
_FIELDS: Final = 18
_FIELDS_REPORTED: Final = 23

Quantity = int | Decimal


_NOTHING: Final[tuple[Quantity, int]] = (0, 0)  # a quantity, and of how many events


class Origin(NamedTuple):
    """Whose event it is, what it ran on and why it exists; row ids, 0 means none."""

    tenant_id: int
    project_id: int
    key_id: int
    model_id: int
    backend_id: int
    price_version_id: int
    meter_set_id: int
    raw_shape_id: int
    kind: int
    run_id: str = ""


class EncodedOrigin(NamedTuple):
    """An origin with its bytes: many events of a page share one.

    Attributes:
        ids: the row ids and the kind, as fields.
        run: the run id, as a field.
    """

    origin: Origin
    ids: bytes
    run: bytes


class Report(NamedTuple):
    """The reporter's identity of an event."""

    ordinal: int
    source: str
    foreign_id: str
    body_hash: bytes


class Sum(NamedTuple):
    """What rows add to a bucket: per meter of the set, by its position from 1.

    Attributes:
        quarter: number of the bucket, in quarter hours since 1970.
    """

    tenant_id: int
    quarter: int
    model_id: int
    price_version_id: int
    project_id: int
    key_id: int
    kind: int
    meter_set_id: int
    run_id: str
    position: int
    quantity: Decimal
    events: int


# Id, ordinal, bytes, origin, quarter hour, quantities. Plain, because one is made per event.
_Row = tuple[bytes, int, bytes, Origin, int, Sequence[Quantity]]


@dataclass(slots=True)
class StagedRows:
    """Rows to append, in the order of their ids once it is asked for.

    Attributes:
        reported: rows of this batch may carry a `Report`.
        properties: by id, (path, text) of what an event carries for dimensions of its meters.
        sources: (tenant, source) of the reports, numbered from 1 as they came.
    """

    reported: bool = False
    properties: dict[bytes, tuple[tuple[str, str], ...]] = field(
        default_factory=dict[bytes, tuple[tuple[str, str], ...]]
    )
    sources: dict[tuple[int, str], int] = field(default_factory=dict[tuple[int, str], int])
    _rows: list[_Row] = field(default_factory=list[_Row])
    _sorted: bool = True

    def add(  # noqa: PLR0917  # once per event: names cost a tenth of the writer's speed
        self,
        id: bytes,
        at_us: int,
        origin: EncodedOrigin,
        course: bytes,
        quantities: Sequence[Quantity],
        raw_counts: bytes,
        report: Report | None = None,
    ) -> None:
        """Add one event.

        Args:
            at_us: microseconds since 1970.
            origin: what `encoded_origin` made.
            course: what `course_bytes` made.
            quantities: one per meter of the meter set, in its order.
            raw_counts: what `pack_counts` made.

        Raises:
            AmountOutOfRange: a quantity is not a number.
        """
        members = b"".join(
            [
                _SMALL[quantity]
                if type(quantity) is int and 0 <= quantity < _SMALL_END
                else _numeric_bytes(quantity)
                for quantity in quantities
            ]
        )
        fields = _FIELDS_REPORTED if self.reported else _FIELDS
        content = b"".join(
            (
                _HEAD.pack(fields, 16, id, 8, at_us - _POSTGRES_EPOCH_US),
                origin.ids,
                course,
                _ARRAY.pack(20 + len(members), 1, 0, _NUMERIC_OID, len(quantities), 1)
                if quantities
                else _EMPTY_ARRAY,
                members,
                _LENGTH.pack(len(raw_counts)),
                raw_counts,
                origin.run,
            )
        )
        if self.reported:
            content += _NULLS if report is None else self._report_bytes(origin.origin, report)
        rows = self._rows
        rows.append((id, len(rows), content, origin.origin, at_us // BUCKET_US, quantities))
        self._sorted = False

    def _report_bytes(self, origin: Origin, report: Report) -> bytes:
        key, text = reported_key(report.foreign_id)
        number = self.sources.setdefault((origin.tenant_id, report.source), len(self.sources) + 1)
        head = _REPORT.pack(4, report.ordinal, 4, number, 16, key)
        body_hash = report.body_hash
        if text is None:
            return head + _NO_TEXT.pack(-1, len(body_hash)) + body_hash
        kept = text.encode()
        return b"".join(
            (head, _LENGTH.pack(len(kept)), kept, _LENGTH.pack(len(body_hash)), body_hash)
        )

    def __len__(self) -> int:
        return len(self._rows)

    def settle(self) -> None:
        """Bring the rows into the order of their ids and leave one of each id, the first."""
        if self._sorted:
            return
        rows = self._rows
        rows.sort(key=_id_and_ordinal)
        self._rows = [
            row
            for row, before in zip(rows, [None, *rows], strict=False)
            if before is None or before[0] != row[0]
        ]
        self._sorted = True

    def content(self) -> bytes:
        """The whole of what COPY sends, in binary format."""
        self.settle()
        return b"".join([_SIGNATURE, *[content for _, _, content, _, _, _ in self._rows], _TRAILER])

    def counted(self) -> Iterator[tuple[bytes, Origin, int, Sequence[Quantity]]]:
        """Id, origin, quarter hour since 1970 and quantities of every row."""
        self.settle()
        for id_, _, _, origin, quarter, quantities in self._rows:
            yield id_, origin, quarter, quantities

    def sums(self, accepted: Callable[[bytes], bool] | None = None) -> list[Sum]:
        """What the rows add to the rollups, in order of the buckets; zero quantities nothing.

        Args:
            accepted: takes the ids of the rows that count; all do if None.
        """
        self.settle()
        rows: Iterable[_Row] = self._rows
        if accepted is not None:
            rows = [row for row in rows if accepted(row[0])]
        with localcontext(EXACT):
            return _sums(rows)


def course_bytes(
    cause: int, estimated: bool, ttft_us: int, duration_us: int
) -> bytes:  # once per event: unnamed
    """How an event came about, as `StagedRows.add` takes it."""
    return _COURSE.pack(2, cause, 1, estimated, 8, ttft_us, 8, duration_us)


def _id_and_ordinal(row: _Row) -> tuple[bytes, int]:
    return row[:2]


def _sums(rows: Iterable[_Row]) -> list[Sum]:
    totals: dict[tuple[Origin, int], list[Quantity]] = {}
    for _, _, _, origin, quarter, quantities in rows:
        bucket = (origin, quarter)
        total = totals.get(bucket)
        if total is None:
            total = totals[bucket] = [*_NOTHING] * len(quantities)
        place = 0
        for quantity in quantities:
            if quantity:
                total[place] += quantity
                total[place + 1] += 1
            place += 2
    return [
        Sum(
            tenant_id=origin.tenant_id,
            quarter=quarter,
            model_id=origin.model_id,
            price_version_id=origin.price_version_id,
            project_id=origin.project_id,
            key_id=origin.key_id,
            kind=origin.kind,
            meter_set_id=origin.meter_set_id,
            run_id=origin.run_id,
            position=place // 2 + 1,
            quantity=Decimal(total[place]),
            events=int(total[place + 1]),
        )
        for (origin, quarter), total in totals.items()
        for place in range(0, len(total), 2)
        if total[place + 1]
    ]


@lru_cache(maxsize=1 << 14)
def encoded_origin(origin: Origin) -> EncodedOrigin:
    """An origin as `StagedRows.add` takes it."""
    *ids, kind, run_id = origin
    run = run_id.encode()
    return EncodedOrigin(
        origin,
        _ORIGIN.pack(*(part for row_id in ids for part in (4, row_id)), 2, kind),
        _LENGTH.pack(len(run)) + run,
    )


def _numeric_bytes(quantity: Quantity) -> bytes:
    """A quantity with its length: groups of four decimal digits, as PostgreSQL keeps them."""
    if type(quantity) is int and 0 <= quantity < _TWO_GROUPS_END:  # nearly all, without a Decimal
        high, low = divmod(quantity, _GROUP)
        if high and low:
            return _TWO_GROUPS.pack(12, 2, 1, 0, 0, high, low)
        if quantity:
            return _ONE_GROUP.pack(10, 1, 1 if high else 0, 0, 0, high or low)
    sign, digits, exponent = Decimal(quantity).as_tuple()
    if not isinstance(exponent, int):
        raise AmountOutOfRange(
            "a quantity is not a number", field="quantity", remedy="use a finite number"
        )
    decimals = max(0, -exponent)
    groups_behind = -(-decimals // 4)
    rest = int("".join(map(str, digits))) * 10 ** (groups_behind * 4 - decimals + max(0, exponent))
    groups: list[int] = []
    while rest:
        rest, group = divmod(rest, _GROUP)
        groups.append(group)
    groups.reverse()
    weight = len(groups) - groups_behind - 1 if groups else 0
    while groups and not groups[-1]:
        groups.pop()
    return _NUMERIC.pack(
        8 + 2 * len(groups), len(groups), weight, 0x4000 if sign and groups else 0, decimals
    ) + struct.pack(f"!{len(groups)}h", *groups)


# Counts of tokens are mostly below ten thousand; a list is read faster than anything is made.
_SMALL_END: Final = _GROUP
_SMALL: Final = [_numeric_bytes(quantity) for quantity in range(_SMALL_END)]
