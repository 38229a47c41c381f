"""Steps and failed attempts leave with their month, into files that hold them."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from billing.archive.parquet import columns_of, read_events
from billing.errors import Conflict
from billing.journal.records import Attempted, Attribution, Usage, Void
from billing.metering.event_id import microseconds
from billing.operations.metering.encode_page import append_records
from billing.operations.retention.archive_month import archive_month, drop_month
from billing.operations.retention.verify_archives import verify_archives
from billing.period import Period
from billing.store.archive_details import details_of
from billing.store.database import Role, query
from billing.store.usage.read import scrap
from tests.operations.crash_points import attribution_of, usage_record
from tests.retention.conftest import LATER, MONTH, Closed, seal
from tests.world import World

TABLES = {"steps": "usage_step", "attempts": "usage_attempt"}


def of_step(closed: Closed) -> Attribution:
    whose = attribution_of(closed.world, closed.acme)
    return msgspec.structs.replace(whose, run_id="r", step_id="s", agent_id="Grüße")


def detailed(world: World, whose: Attribution, number: int) -> Usage:
    """An event of a step that came after two failed attempts."""
    at_us = microseconds(world.now)
    return msgspec.structs.replace(
        usage_record(world, whose, 9 << 10 | number, output=5),
        attempts=tuple(
            Attempted(n, whose.model_id, "pool-b", at_us, 7_000, "refused_503") for n in range(2)
        ),
    )


def append(closed: Closed, *records: Usage | Void) -> None:
    with closed.world.database.transaction(Role.INGEST) as connection:
        append_records(connection, records)


def rows_of(closed: Closed) -> dict[str, list[tuple[Any, ...]]]:
    with closed.world.database.transaction(Role.OPERATOR) as connection:
        return {
            kind: sorted(tuple(row) for row in query(connection, f"SELECT * FROM {table}"))
            for kind, table in TABLES.items()
        }


def failed_attempts(closed: Closed) -> list[tuple[str, int, int]]:
    start = closed.world.now.replace(hour=0)
    with closed.world.database.transaction(Role.OPERATOR) as connection:
        return scrap(connection, period=Period(start=start, end=start + timedelta(days=1)))


@pytest.fixture
def archived(closed: Closed, tmp_path: Path) -> Closed:
    append(closed, *(detailed(closed.world, of_step(closed), number) for number in range(3)))
    seal(closed.world.database, tmp_path)
    return closed


def files(closed: Closed, archive_id: int) -> dict[str, list[tuple[Any, ...]]]:
    found: dict[str, list[tuple[Any, ...]]] = {}
    with closed.world.database.transaction(Role.OPERATOR) as connection:
        details = details_of(connection, archive_id)
    for detail in details:
        with closed.place.open(detail.url.rpartition("/")[2]) as file:
            columns = columns_of(file)
            found[detail.kind] = sorted(row for rows in read_events(file, columns) for row in rows)
    return found


def test_what_lies_beside_events_leaves_with_them_and_is_in_the_archive(archived: Closed) -> None:
    database, before = archived.world.database, rows_of(archived)
    counted = failed_attempts(archived)
    assert (len(before["steps"]), len(before["attempts"])) == (3, 6)
    assert counted == [("tiny", archived.acme.id, 6)]
    # What December has stays.
    december = World(database=database, now=archived.world.now + timedelta(days=30))
    append(archived, detailed(december, of_step(archived), 7))
    archive = archive_month(database, archived.place, MONTH, now=LATER)
    assert files(archived, archive.id) == before
    drop_month(database, archived.place, MONTH, now=LATER)
    after = rows_of(archived)
    assert (len(after["steps"]), len(after["attempts"])) == (1, 2)
    # The margin of a month that has left still tells how much of its work was scrap.
    assert failed_attempts(archived) == counted
    # What comes later than its month's archive changes nothing, and stops no journal.
    late = detailed(archived.world, of_step(archived), 11)
    void = Void(late.id, late.at_us, late.attribution, "timeout", attempts=late.attempts)
    append(archived, void)
    assert rows_of(archived) == after
    with database.transaction(Role.OPERATOR) as connection:
        assert verify_archives(connection, archived.place) == []


def test_a_month_whose_details_have_grown_is_archived_again(archived: Closed) -> None:
    database = archived.world.database
    first = archive_month(database, archived.place, MONTH, now=LATER)
    late = detailed(archived.world, of_step(archived), 1)
    with database.transaction(Role.INGEST) as connection:
        whose = late.attribution
        at_us = microseconds(archived.world.now)
        third = Attempted(2, whose.model_id, "pool-b", at_us, 9, "timeout")
        append_records(connection, [msgspec.structs.replace(late, attempts=(third,))])
    with pytest.raises(Conflict, match="not archived as it is now"):
        drop_month(database, archived.place, MONTH, now=LATER)
    again = archive_month(database, archived.place, MONTH, now=LATER)
    assert again.ordinal == first.ordinal + 1
    drop_month(database, archived.place, MONTH, now=LATER)


@pytest.mark.parametrize("kind", TABLES)
def test_a_file_beside_an_archive_that_changed_is_found(archived: Closed, kind: str) -> None:
    database = archived.world.database
    archive_month(database, archived.place, MONTH, now=LATER)
    (path,) = archived.folder.glob(f"{kind}-2026-11.*")
    path.write_bytes(path.read_bytes() + b"x")
    with database.transaction(Role.OPERATOR) as connection:
        (found,) = verify_archives(connection, archived.place)
    assert kind in found.what
