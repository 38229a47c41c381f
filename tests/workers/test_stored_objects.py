"""Bindings of backends' objects leave when those are over, and none that is still needed."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from billing.admission.binding import Binding, ObjectKind
from billing.errors import Conflict
from billing.metering.event_id import microseconds
from billing.operations.stored_objects.batches import intend_batch, record_batch
from billing.operations.stored_objects.bindings import bind, find, forget
from billing.operations.stored_objects.retire_objects import KEPT_DELETED
from billing.settings import Settings
from billing.store.batch_runs import BatchRun
from billing.store.database import Database, Role, only, query, run
from billing.store.object_retention import Span, gone_totals
from tests.operations.crash_points import dying_everywhere
from workers.stored_objects import retire_objects

DAY = timedelta(days=1)
SETTINGS = Settings()
KEEPS_LESS = Settings(stored_file_days=10, stored_batch_days=10)


class Shelf:
    """Objects of one tenant, bound at `now`; the worker comes by later."""

    def __init__(self, database: Database, now: datetime) -> None:
        self.database = database
        self.now = now

    def binding(self, object_id: str, **changes) -> Binding:
        made = Binding(
            kind=ObjectKind.FILE,
            backend="pool-a",
            object_id=object_id,
            tenant_id=1,
            project_id=1,
            key_id=1,
            model_id=None,
            created_at_us=microseconds(self.now),
        )
        return replace(made, **changes)

    def bound(self, *ids: str, **changes) -> list[Binding]:
        made = [self.binding(object_id, **changes) for object_id in ids]
        with self.database.transaction(Role.OPERATOR) as connection:
            bind(connection, made)
        return made

    def forget(self, binding: Binding, after: timedelta = timedelta(0)) -> None:
        with self.database.transaction(Role.OPERATOR) as connection:
            forget(connection, binding, now=self.now + after)

    def retire(self, after: timedelta, settings: Settings = SETTINGS, **most: int) -> Counter[Span]:
        return retire_objects(self.database, settings, now=self.now + after, **most)

    def found(self, binding: Binding) -> bool:
        with self.database.transaction(Role.OPERATOR) as connection:
            mine = find(
                connection,
                tenant_id=binding.tenant_id,
                kind=binding.kind,
                object_id=binding.object_id,
            )
        return mine is not None

    @property
    def rows(self) -> set[str]:
        with self.database.transaction(Role.OPERATOR) as connection:
            return {row.object_id for row in query(connection, "SELECT * FROM backend_object")}

    @property
    def totals(self) -> list[tuple[str, str, int]]:
        with self.database.transaction(Role.OPERATOR) as connection:
            return list(gone_totals(connection))

    def batch(self, batch_id: str, file_id: str) -> BatchRun:
        return BatchRun(
            batch_id=batch_id,
            backend="pool-a",
            tenant_id=1,
            project_id=1,
            key_id=1,
            model_id=None,
            price_version_id=1,
            endpoint="/v1/embeddings",
            input_file_id=file_id,
            submitted_at=self.now,
        )

    def runs(self, batch_id: str, file_id: str) -> Binding:
        own = self.binding(batch_id, kind=ObjectKind.BATCH)
        with self.database.transaction(Role.OPERATOR) as connection:
            record_batch(connection, self.batch(batch_id, file_id), [own])
        return own

    def change_batch(self, assignments: str) -> None:
        with self.database.transaction(Role.OPERATOR) as connection:
            run(connection, f"UPDATE batch_run SET {assignments}", now=self.now + DAY)


@pytest.fixture
def shelf(database: Database, now: datetime) -> Shelf:
    return Shelf(database, now)


def test_a_response_is_its_tenants_for_30_days_and_its_row_leaves_a_day_later(shelf: Shelf) -> None:
    old, new = (
        *shelf.bound("resp-1", kind=ObjectKind.RESPONSE),
        *shelf.bound(
            "resp-2", kind=ObjectKind.RESPONSE, created_at_us=microseconds(shelf.now + DAY)
        ),
    )
    assert shelf.retire(30 * DAY - timedelta(seconds=1)) == {}
    assert shelf.retire(30 * DAY) == {Span.AGE: 1}
    assert (shelf.found(old), shelf.found(new)) == (False, True)
    assert shelf.rows == {"resp-1", "resp-2"}
    assert shelf.retire(31 * DAY) == {Span.AGE: 1, Span.DELETED: 1}
    assert shelf.rows == {"resp-2"}
    assert shelf.retire(1_000 * DAY, Settings(stored_response_days=0)) == {Span.DELETED: 1}
    assert shelf.totals == [("response", "expired", 2), ("response", "removed", 2)]


def test_a_file_leaves_after_the_end_that_its_backend_told_and_otherwise_stays(
    shelf: Shelf,
) -> None:
    ending, staying = (
        *shelf.bound("file-1", expires_at_us=microseconds(shelf.now + DAY)),
        *shelf.bound("file-2"),
    )
    assert shelf.retire(2 * DAY - timedelta(seconds=1)) == {}
    assert shelf.retire(2 * DAY) == {Span.END: 1}
    assert (shelf.found(ending), shelf.found(staying)) == (False, True)
    assert shelf.retire(900 * DAY) == {Span.DELETED: 1}
    assert shelf.found(staying)
    assert shelf.retire(900 * DAY, KEEPS_LESS) == {Span.AGE: 1}


def test_T1_an_id_can_be_anothers_only_when_nobody_remembers_whose_it_was(shelf: Shelf) -> None:
    (mine,) = shelf.bound("file-1")
    shelf.forget(mine)
    theirs = replace(mine, tenant_id=2)
    assert shelf.retire(KEPT_DELETED - timedelta(seconds=1)) == {}
    with pytest.raises(Conflict):
        shelf.bound("file-1", tenant_id=2)
    assert shelf.retire(KEPT_DELETED) == {Span.DELETED: 1}
    assert not shelf.found(mine)
    shelf.bound("file-1", tenant_id=2)
    assert (shelf.found(theirs), shelf.found(mine)) == (True, False)


def test_T1_nobody_removes_what_is_not_deleted(shelf: Shelf) -> None:
    shelf.bound("file-1", "file-2")
    shelf.forget(shelf.binding("file-2"))
    with shelf.database.transaction(Role.OPERATOR) as connection:
        assert run(connection, "DELETE FROM backend_object") == 1
    assert shelf.rows == {"file-1"}


def test_L5_a_worker_that_dies_between_pages_is_made_up_by_the_next(shelf: Shelf) -> None:
    ids = [f"resp-{number}" for number in range(7)]
    shelf.bound(*ids, kind=ObjectKind.RESPONSE)
    shelf.bound("file-1", "file-2", "file-3", expires_at_us=microseconds(shelf.now + DAY))
    for after in (30 * DAY, 31 * DAY):
        dying_everywhere(shelf.database.engine, lambda: shelf.retire(after, most=2))  # noqa: B023
    assert shelf.rows == set()
    assert shelf.totals == [
        ("file", "expired", 3),
        ("file", "removed", 3),
        ("response", "expired", 7),
        ("response", "removed", 7),
    ]
    assert shelf.retire(40 * DAY, most=2) == {}


@pytest.mark.parametrize("most", [1, 3, 100])
def test_what_stays_does_not_keep_what_follows_from_leaving(shelf: Shelf, most: int) -> None:
    shelf.bound(*(f"file-{number}" for number in range(9)))
    for number in (0, 1, 4):
        shelf.runs(f"batch-{number}", f"file-{number}")
    shelf.change_batch("completed_at = :now, outcome = 'completed'")
    assert shelf.retire(20 * DAY, KEEPS_LESS, most=most) == {Span.AGE: 6}
    left = {f"file-{number}" for number in range(9) if shelf.found(shelf.binding(f"file-{number}"))}
    assert left == {"file-0", "file-1", "file-4"}


def test_a_batch_that_is_intended_keeps_its_requests(shelf: Shelf) -> None:
    (file,) = shelf.bound("file-1")
    with shelf.database.transaction(Role.OPERATOR) as connection:
        batch = shelf.batch("req_1", "file-1")
        intend_batch(connection, batch, credit=None, now=shelf.now)
    assert shelf.retire(20 * DAY, KEEPS_LESS) == {}
    shelf.change_batch("state = 'refused'")
    assert shelf.retire(20 * DAY, KEEPS_LESS) == {Span.AGE: 1}
    assert not shelf.found(file)


def test_a_batch_that_is_not_billed_keeps_itself_its_requests_and_its_results(shelf: Shelf) -> None:
    end = microseconds(shelf.now + DAY)
    requests, output, other = shelf.bound("file-in", "file-out", "file-x", expires_at_us=end)
    batch = shelf.runs("batch-1", "file-in")
    # Until it is known what it has written, it may be any file that came since.
    assert shelf.retire(20 * DAY, KEEPS_LESS) == {}
    shelf.change_batch("completed_at = :now, outcome = 'completed', output_file_id = 'file-out'")
    assert shelf.retire(20 * DAY, KEEPS_LESS) == {Span.AGE: 1}
    assert [shelf.found(each) for each in (batch, requests, output, other)] == [True] * 3 + [False]
    shelf.change_batch("state = 'billed', billed_at = :now")
    assert shelf.retire(20 * DAY, KEEPS_LESS) == {Span.AGE: 3}
    assert not any(map(shelf.found, (batch, requests, output)))


def test_a_file_that_a_batch_still_names_stays_deleted(shelf: Shelf) -> None:
    """Shown again, the batch would bind it anew."""
    (output,) = shelf.bound("file-out")
    batch = shelf.runs("batch-1", "file-in")
    shelf.change_batch(
        "completed_at = :now, outcome = 'completed', output_file_id = 'file-out', "
        "state = 'billed', billed_at = :now"
    )
    shelf.forget(output)
    assert shelf.retire(20 * DAY) == {}
    shelf.bound("file-out")
    assert not shelf.found(output)
    shelf.forget(batch)
    assert shelf.retire(20 * DAY) == {Span.DELETED: 1}
    assert shelf.rows == {"file-out"}
    assert shelf.retire(20 * DAY) == {Span.DELETED: 1}
    assert shelf.rows == set()


def test_a_page_reads_what_it_takes_away_and_not_all_that_there_is(shelf: Shelf) -> None:
    with shelf.database.transaction(Role.OPERATOR) as connection:
        run(
            connection,
            "INSERT INTO backend_object SELECT 'response', 'pool-a', 'resp-' || n, 1, 1, 1, NULL, "
            "CAST(:now AS timestamptz) + n * interval '1 min' FROM generate_series(1, 2000) n",
            now=shelf.now,
        )
    assert shelf.retire(30 * DAY + timedelta(minutes=10), most=4) == {Span.AGE: 10}
    with shelf.database.transaction(Role.OPERATOR) as connection:
        left = only(connection, "SELECT count(*) AS n FROM backend_object WHERE deleted_at IS NULL")
    assert left.n == 1990
