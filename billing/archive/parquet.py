"""A month of usage events as a Parquet file: columns as the table has them, zstd, fixed order.

Decides: decimals and identifiers are kept exactly (numbers with decimals as text, ids as 16
bytes, instants in microseconds UTC), and the same rows give the same bytes. The columns are
those that the table has when it is archived; the file says which, with their PostgreSQL types.
Does not decide which rows belong into it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import IO, Any, Final, cast
from uuid import UUID

import pyarrow as pa  # pyright: ignore[reportMissingTypeStubs]  # it comes without types
import pyarrow.parquet as pq  # pyright: ignore[reportMissingTypeStubs]  # it comes without types

from billing.errors import SteelyardError

FORMAT: Final = "1"
_COLUMNS: Final = b"steelyard.columns"
_FORMAT: Final = b"steelyard.format"

_pa: Any = cast("Any", pa)
_pq: Any = cast("Any", pq)

Row = tuple[Any, ...]

_TYPES: Final[Mapping[str, Any]] = {
    "uuid": _pa.binary(16),
    "timestamp with time zone": _pa.timestamp("us", tz="UTC"),
    "smallint": _pa.int16(),
    "integer": _pa.int32(),
    "bigint": _pa.int64(),
    "boolean": _pa.bool_(),
    "text": _pa.string(),
    "bytea": _pa.binary(),
    "numeric": _pa.string(),
    "numeric[]": _pa.list_(_pa.string()),
    "bigint[]": _pa.list_(_pa.int64()),
    "integer[]": _pa.list_(_pa.int32()),
    "text[]": _pa.list_(_pa.string()),
}


class DamagedArchive(SteelyardError):
    """An archive's file is not one, or holds other rows than it was written with."""

    code = "damaged_archive"


def write_events(path: Path, columns: Mapping[str, str], batches: Iterator[Sequence[Row]]) -> None:
    """Write rows to a new file; memory is bounded by one batch, which is one row group.

    Args:
        columns: PostgreSQL type by name, in the order of a row's values.
    """
    schema = _pa.schema(
        [_pa.field(name, _TYPES[kind]) for name, kind in columns.items()],
        metadata={_FORMAT: FORMAT, _COLUMNS: json.dumps(dict(columns))},
    )
    kinds = list(columns.values())
    with _pq.ParquetWriter(str(path), schema, compression="zstd", version="2.6") as writer:
        for rows in batches:
            values = list(zip(*rows, strict=True))
            arrays = [
                _pa.array(_stored(kind, column), type=_TYPES[kind])
                for kind, column in zip(kinds, values, strict=True)
            ]
            writer.write_table(_pa.Table.from_arrays(arrays, schema=schema))


def columns_of(file: IO[bytes]) -> dict[str, str]:
    """PostgreSQL type by column name, as the file was written.

    Raises:
        DamagedArchive: not an archive of this format.
    """
    try:
        metadata: Mapping[bytes, bytes] = _pq.ParquetFile(file).schema_arrow.metadata or {}
    except (OSError, _pa.ArrowException):
        raise damaged() from None
    if metadata.get(_FORMAT) != FORMAT.encode():
        raise damaged()
    return json.loads(metadata[_COLUMNS])


def read_events(file: IO[bytes], columns: Mapping[str, str]) -> Iterator[list[Row]]:
    """The rows of an archive, one row group at a time.

    Raises:
        DamagedArchive: bytes cannot be read back.
    """
    try:
        source = _pq.ParquetFile(file)
        for group in range(source.num_row_groups):
            table = source.read_row_group(group, columns=list(columns))
            values = [_read(kind, table.column(name).to_pylist()) for name, kind in columns.items()]
            yield list(zip(*values, strict=True))
    except (OSError, _pa.ArrowException):
        raise damaged() from None


def damaged() -> DamagedArchive:
    """The error of a file that cannot be read as an archive."""
    return DamagedArchive(
        "the file cannot be read as an archive", remedy="restore it from a copy of the archive"
    )


def _stored(kind: str, values: Sequence[Any]) -> Sequence[Any]:
    match kind:
        case "uuid":
            return [None if value is None else value.bytes for value in values]
        case "numeric":
            return [None if value is None else f"{value:f}" for value in values]
        case "numeric[]":
            return [[f"{number:f}" for number in value] for value in values]
        case _:
            return values


def _read(kind: str, values: list[Any]) -> list[Any]:
    match kind:
        case "uuid":
            return [None if value is None else UUID(bytes=value) for value in values]
        case "timestamp with time zone":
            return [None if value is None else _instant(value) for value in values]
        case "numeric":
            return [None if value is None else Decimal(value) for value in values]
        case "numeric[]":
            return [[Decimal(number) for number in value] for value in values]
        case _:
            return values


def _instant(value: datetime) -> datetime:
    return value.astimezone(UTC)
