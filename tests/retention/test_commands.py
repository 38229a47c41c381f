"""The commands of archives and journals, on a real database and real folders."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from billing.operations.metering.book_page import Place, book_page
from billing.operations.metering.encode_page import append_records
from billing.store.database import Role
from tests.cli.conftest import Run, run_command
from tests.operations.crash_points import attribution_of, usage_record, void_record, write_journal
from tests.retention.conftest import Closed

WRITTEN_AT = datetime(2026, 11, 20, tzinfo=UTC)


@pytest.fixture
def steelyard(closed: Closed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run a command against the test's database, in February."""
    url = closed.world.database.engine.url.render_as_string(hide_password=False)
    monkeypatch.setenv("STEELYARD_DATABASE_URL", url)
    monkeypatch.setenv("STEELYARD_DATA_DIR", str(tmp_path))
    monkeypatch.setattr("billing.cli.archive.clock", lambda: datetime(2027, 2, 3, tzinfo=UTC))
    return run_command


def test_a_month_goes_and_comes_back_by_command(steelyard: Run) -> None:
    assert "Nothing is archived" in steelyard("archive", "list").out
    created = steelyard("archive", "create", "2026-11", "--json").document
    assert Path(created["url"]).is_file()
    assert steelyard("archive", "drop", "2026-11", "--json").document == {
        "month": "2026-11",
        "events": created["events"],
    }
    listed = steelyard("archive", "list", "--json").document
    assert listed["oldest_kept"] == "2026-12-01T00:00:00Z"
    assert listed["archives"] == [created | {"in_database": False}]
    assert "2026-11" in steelyard("archive", "list").out
    assert steelyard("archive", "verify", "--json").document == {"checked": 1, "findings": []}
    restored = steelyard("archive", "restore", "2026-11", "--json").document
    assert (restored["table"], restored["events"]) == ("restored_usage_202611", created["events"])
    assert steelyard("archive", "restore", "2026-11", "--remove").status == 0


def test_a_damaged_archive_fails_the_command_and_is_named(steelyard: Run) -> None:
    created = steelyard("archive", "create", "2026-11", "--json").document
    path = Path(created["url"])
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    shown = steelyard("archive", "verify")
    assert shown.status == 1
    assert str(path) in shown.out
    (finding,) = steelyard("archive", "verify", "2026-11", "--json").document["findings"]
    assert finding["url"] == str(path)


def test_retention_guards_the_command(steelyard: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEELYARD_RETENTION_MONTHS", "12")
    assert steelyard("archive", "create", "2026-11").status == 0
    refused = steelyard("archive", "drop", "2026-11", "--json")
    assert (refused.status, refused.error["code"]) == (1, "conflict")


def test_a_replay_by_command_books_what_is_missing(
    steelyard: Run, closed: Closed, tmp_path: Path
) -> None:
    whose = attribution_of(closed.world, closed.acme)
    write_journal(
        tmp_path / "journal",
        [*(usage_record(closed.world, whose, n << 20) for n in range(1, 4)),
         void_record(closed.world, whose, 9 << 20)],
    )  # fmt: skip
    check = steelyard("db", "restore-check", "--json")
    assert (check.status, check.document["records_missing"]) == (1, 4)
    assert "steelyard journal replay" in steelyard("db", "restore-check").out
    counts = {"attempts": 1, "refused": 0, "archived": 0, "damaged": []}
    for new, known in ((3, 0), (0, 3)):
        replayed = steelyard("journal", "replay", "--all", "--json").document
        assert replayed == counts | {"new": new, "known": known}
    assert "Nothing is missing" in steelyard("db", "restore-check").out
    since = steelyard("journal", "replay", "--since", "2126-01-01", "--json").document
    assert since == counts | {"new": 0, "known": 0, "attempts": 0}
    assert steelyard("journal", "replay").status == 1


def test_refused_records_are_set_aside_shown_and_hold_up_nothing(
    steelyard: Run, closed: Closed
) -> None:
    world = closed.world
    good = [usage_record(world, attribution_of(world, closed.acme), n << 20) for n in range(1, 9)]
    # Written by a host whose clock stood at 1970: no partition takes the id.
    old = msgspec.structs.replace(good[3], id=bytes(5) + b"\x10" + good[3].id[6:], at_us=16_000)
    page = [*good[:3], old, *good[4:]]
    place = Place(instance="proxy-1", segment=3, offset=96)
    for events, refused in ((7, 1), (0, 1)):
        with world.database.transaction(Role.INGEST) as connection:
            booked = book_page(connection, page, append_records, place=place, now=WRITTEN_AT)
        assert (booked.events, booked.scrap, booked.refused) == (events, 0, refused)
    (row,) = steelyard("journal", "refused", "--json").document["refused"]
    assert row["event_id"].replace("-", "") == old.id.hex()
    assert (row["instance"], row["segment"], row["page_offset"]) == ("proxy-1", 3, 96)
    assert (row["tenant_id"], row["output"]) == (closed.acme.id, old.counts.output)
    assert row["reason"] == "CheckViolation"
    assert old.id.hex()[:8] in steelyard("journal", "refused").out
