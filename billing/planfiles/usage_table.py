"""Usage events as tables: CSV and Parquet, row by row.

Decides how cells become members of a row: text, whole numbers and exact decimals as text. What a
row means is decided where rows are read; a column of binary floats is refused here, because what
was meant is lost already.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from importlib import import_module
from typing import IO, Any

from billing.errors import InvalidInput

ROWS_AT_ONCE = 5_000
"""Rows of a Parquet file in memory at a time."""


def csv_rows(source: IO[bytes]) -> Iterator[tuple[int, dict[str, object]]]:
    """Rows of a CSV file with a header, by line number; empty cells are left out.

    Raises:
        InvalidInput: not UTF-8, or not CSV.
    """
    text = io.TextIOWrapper(source, encoding="utf-8-sig", newline="")
    try:
        reader = csv.DictReader(text, restkey="cells beyond the header", strict=True)
        for row in reader:
            yield reader.line_num, {name: cell for name, cell in row.items() if cell}
    except (csv.Error, UnicodeDecodeError):
        raise InvalidInput("not a CSV file", remedy="save it as CSV in UTF-8") from None
    finally:
        # The file is read twice; closing it belongs to who opened it.
        text.detach()


def parquet_rows(source: IO[bytes]) -> Iterator[tuple[int, dict[str, object]]]:
    """Rows of a Parquet file, counted from 1; nulls are left out.

    Raises:
        InvalidInput: not Parquet, a column of binary floats, or times that are no microseconds.
    """
    # Loaded here, because other commands need not wait for it; it has no types.
    arrow: Any = import_module("pyarrow")
    parquet: Any = import_module("pyarrow.parquet")
    try:
        table: Any = parquet.ParquetFile(source)
        _refuse_floats(arrow, table.schema_arrow)
        number = 0
        for batch in table.iter_batches(batch_size=ROWS_AT_ONCE):
            for row in _micros(arrow, batch).to_pylist():
                number += 1
                yield number, {name: _text(cell) for name, cell in row.items() if cell is not None}
    except arrow.ArrowException:
        raise InvalidInput(
            "not a Parquet file of usage", remedy="write times in microseconds with a zone"
        ) from None


def _refuse_floats(arrow: Any, schema: Any) -> None:
    for column in schema:
        if arrow.types.is_floating(column.type):
            raise InvalidInput(
                "a column of binary floats",
                field=column.name,
                remedy="write it as decimal128 or as text",
            )


def _micros(arrow: Any, batch: Any) -> Any:
    """A batch with its times in microseconds; a cast that would lose digits fails."""
    columns = [
        column.cast(arrow.timestamp("us", column.type.tz))
        if arrow.types.is_timestamp(column.type)
        else column
        for column in batch.columns
    ]
    return arrow.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _text(cell: object) -> object:
    match cell:
        case Decimal():
            return f"{cell:f}"
        case datetime():
            return cell.isoformat()
        case _:
            return cell
