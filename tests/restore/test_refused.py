"""A record that the ledger did not take is set aside by a replay, too, and decided about once."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import msgspec
import psycopg
import pytest

from billing.errors import Conflict, InvalidInput, NotFound
from billing.journal.records import Usage
from billing.operations.restore.replay_journal import replay_journals
from billing.operations.restore.resolve_refused import book_refused, dismiss_refused
from billing.operations.retention.archive_month import archive_month, drop_month
from billing.store.database import Database, Role, query
from billing.store.embedded.address import ServerAddress
from billing.store.refused import refused
from billing.store.usage.append import ensure_partitions
from tests.operations.crash_points import attribution_of, usage_record, write_journal
from tests.retention.conftest import LATER, MONTH, Closed, closed
from tests.world import World, make_world

__all__ = ["closed"]


@pytest.fixture
def world(database: Database, now: datetime) -> World:
    return make_world(database, now)


@pytest.fixture
def owner(postgres: ServerAddress, database_name: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(postgres.owner_conninfo(database_name), autocommit=True) as connection:
        yield connection


def of_1970(record: Usage) -> Usage:
    """The same, by a host whose clock stood at 1970: no partition takes the id."""
    return msgspec.structs.replace(record, id=bytes(5) + b"\x10" + record.id[6:], at_us=16_000)


@pytest.fixture
def set_aside(world: World, tmp_path: Path) -> UUID:
    """The id of a record that a replay could not book, beside two that it could."""
    whose = attribution_of(world, world.tenant())
    good = [usage_record(world, whose, n) for n in range(1, 4)]
    odd = of_1970(good[1])
    write_journal(tmp_path, [good[0], odd, good[2]])
    for new, known in ((2, 0), (0, 2)):
        replay = replay_journals(world.database, tmp_path, since=None, now=world.now)
        assert (replay.new, replay.known, replay.refused) == (new, known, 1)
    return UUID(bytes=odd.id)


def open_ids(world: World) -> list[UUID]:
    with world.database.transaction(Role.OPERATOR) as connection:
        return [row.event_id for row in refused(connection, limit=10)]


def events(world: World, event_id: UUID) -> int:
    with world.database.transaction(Role.OPERATOR) as connection:
        return len(query(connection, "SELECT FROM usage_event WHERE id = :id", id=event_id))


def test_a_refused_record_is_booked_once_its_cause_is_mended(
    world: World, set_aside: UUID, owner: psycopg.Connection
) -> None:
    assert open_ids(world) == [set_aside]

    def book(reason: str) -> list[tuple[str, str]]:
        with world.database.transaction(Role.OPERATOR) as connection:
            made = book_refused(connection, set_aside, reason=reason, actor="ada", now=world.now)
        return [(each.outcome, each.reason) for each in made]

    with pytest.raises(Conflict, match="CheckViolation"):
        book("the clock was wrong")
    assert (open_ids(world), events(world, set_aside)) == ([set_aside], 0)
    with world.database.transaction(Role.MAINTAINER) as connection:
        ensure_partitions(connection, now=datetime(1970, 1, 1, tzinfo=UTC), months=1)
    for reason in ("the partition was made", "again"):
        assert book(reason) == [("booked", "the partition was made")]
        assert (open_ids(world), events(world, set_aside)) == ([], 1)
    with (
        pytest.raises(Conflict, match="otherwise"),
        world.database.transaction(Role.OPERATOR) as connection,
    ):
        dismiss_refused(connection, set_aside, reason="late", actor="bob", now=world.now)
    rows = owner.execute("SELECT outcome, resolved_by FROM refused_resolution").fetchall()
    assert rows == [("booked", "ada")]


def test_a_dismissed_record_stays_out_for_good_with_its_reason(
    world: World, set_aside: UUID
) -> None:
    for reason in ("a test", "again"):
        with world.database.transaction(Role.OPERATOR) as connection:
            (made,) = dismiss_refused(
                connection, set_aside, reason=reason, actor="ada", now=world.now
            )
        assert (made.outcome, made.reason) == ("dismissed", "a test")
    assert (open_ids(world), events(world, set_aside)) == ([], 0)
    with (
        pytest.raises(Conflict),
        world.database.transaction(Role.OPERATOR) as connection,
    ):
        book_refused(connection, set_aside, reason="late", actor="bob", now=world.now)
    with world.database.transaction(Role.OPERATOR) as connection:
        with pytest.raises(InvalidInput):
            dismiss_refused(connection, set_aside, reason="", actor="ada", now=world.now)
        with pytest.raises(NotFound):
            dismiss_refused(connection, UUID(int=1), reason="x", actor="ada", now=world.now)


def test_events_of_a_month_that_has_left_are_not_set_aside(closed: Closed, tmp_path: Path) -> None:
    world = closed.world
    whose = attribution_of(world, closed.acme)
    write_journal(tmp_path / "journal", [usage_record(world, whose, n) for n in range(1, 4)])
    for again in (False, True):
        if again:
            archive_month(world.database, closed.place, MONTH, now=LATER)
            drop_month(world.database, closed.place, MONTH, now=LATER)
        replay = replay_journals(world.database, tmp_path / "journal", since=None, now=LATER)
        assert (replay.known, replay.archived) == ((0, 3) if again else (3, 0))
        assert replay.refused == 0
    assert open_ids(world) == []
