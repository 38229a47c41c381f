"""Arrays that are written here arrive in PostgreSQL as the values that they were made of."""

from __future__ import annotations

from datetime import UTC, datetime

import sqlalchemy as sa

from billing.store.arrays import plain_array, text_array
from billing.store.database import Database

TEXTS = ["", " ", "NULL", "null", '"', "\\", '\\"', "{a,b}", "a,b", "'", "\n\t", "ä€😀", "x" * 300]


def test_every_text_arrives_as_it_was(database: Database) -> None:
    with database.engine.connect() as connection:
        for texts in (TEXTS, TEXTS[::-1], *([text] for text in TEXTS), []):
            found = connection.execute(
                sa.text("SELECT CAST(:texts AS text[])"), {"texts": text_array(texts)}
            ).scalar_one()
            assert found == texts


def test_numbers_instants_and_nothing_arrive_as_they_were(database: Database) -> None:
    instants = [datetime(2026, 11, 1, tzinfo=UTC), None, datetime(1, 1, 1, 0, 0, 0, 1, UTC)]
    with database.engine.connect() as connection:
        for values, kind in (
            ([1, None, -(2**31)], "integer[]"),
            (instants, "timestamptz[]"),
            ([], "integer[]"),
        ):
            found = connection.execute(
                sa.text(f"SELECT CAST(:values AS {kind})"), {"values": plain_array(values)}
            ).scalar_one()
            assert found == values
