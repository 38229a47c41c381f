"""Settle batches: bill every line that a backend has answered, once.

A batch that is over, however it ended, is read line by line from its result files. A page of lines
is one transaction: its events, their ids in the key table and the place in the file commit
together, so that a worker that dies anywhere bills no line twice and leaves none out (L5). What a
backend does not say is not taken for anything: it is asked again. Results that it no longer has
are lost, and said to be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from itertools import islice

import httpx
import sqlalchemy as sa

from billing.admission.route import Route
from billing.engines.batch_lines import BatchLine, batch_route
from billing.engines.batch_status import BatchStatus, Outcome
from billing.errors import Conflict, NotFound, UpstreamError
from billing.operations.metering.ask_batch import ask_batch, read_results
from billing.operations.metering.book_lines import Models, book_lines
from billing.operations.metering.draw_lines import draw_lines
from billing.operations.stored_objects.batches import release_credit
from billing.planfiles.backend_file import BackendSpec
from billing.store import batch_settlement as store
from billing.store import retention
from billing.store.batch_runs import BatchRun, BatchState
from billing.store.batch_settlement import Ended, ResultFile, Settlement
from billing.store.database import Database, Role, acting_as

PAGE_LINES = 1_000
"""Lines of one transaction."""

LOST_AFTER = timedelta(minutes=10)
"""What a backend says to have no more for so long is lost; a restart of its gateway is shorter."""

NOT_CONFIGURED = "the backend is not configured any more"
NOT_METERED = "no route meters the batch's endpoint"
CLOSED_MONTH = "its month is closed for good"
NO_FILE = "the backend names no file of results"


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSettler:
    """Settles batches of the backends of a deployment.

    Attributes:
        backends: by name.
    """

    database: Database
    client: httpx.Client
    backends: Mapping[str, BackendSpec]

    def settle(self, backend: str, batch_id: str, *, now: datetime) -> Settlement:
        """Go on with a batch as far as its backend lets it; how far that was.

        Raises:
            NotFound: no such batch was submitted.
        """
        found = self._read(backend, batch_id)
        if found.state is not BatchState.OPEN:
            return found
        try:
            self._go_on(found, now=now)
        except NotFound as gone:
            self._write(partial(_note_missing, settlement=found, problem=gone.message, now=now))
        except UpstreamError as error:
            self._write(
                partial(store.note_checked, batch=found.batch, problem=error.message, now=now)
            )
        return self._read(backend, batch_id)

    def _go_on(self, found: Settlement, *, now: datetime) -> None:
        spec, route = self.backends.get(found.batch.backend), batch_route(found.batch.endpoint)
        if spec is None or route is None:
            raise UpstreamError(NOT_CONFIGURED if spec is None else NOT_METERED)
        ended = found.ended
        if ended is None:
            status = ask_batch(self.client, spec, found.batch.batch_id)
            if status.outcome is None:
                self._write(partial(store.note_checked, batch=found.batch, problem=None, now=now))
                return
            ended = _ended(status, status.outcome, found, now=now)
            self._write(partial(store.note_ended, batch=found.batch, ended=ended))
        if self._closed_for_good(ended):
            lost = partial(_finish, state=BatchState.LOST, problem=CLOSED_MONTH)
            self._write(partial(lost, batch=found.batch, now=now))
            return
        for file, file_id in ended.files.items():
            self._count_file(found, spec, route, file, file_id, now=now)
        self._write(partial(_close, settlement=found, now=now))

    def _closed_for_good(self, ended: Ended) -> bool:
        with self.database.transaction(Role.OPERATOR) as connection:
            horizon = retention.horizon(connection)
        return horizon is not None and ended.at < horizon

    def _count_file(
        self,
        found: Settlement,
        spec: BackendSpec,
        route: Route,
        file: ResultFile,
        file_id: str,
        *,
        now: datetime,
    ) -> None:
        models = Models(found.batch, route, spec.models)
        passed = self._read(found.batch.backend, found.batch.batch_id).passed[file]
        lines = read_results(self.client, spec, file_id, route=route, passed=passed)
        with closing(lines):
            while page := list(islice(lines, PAGE_LINES)):
                count = partial(_count_page, settlement=found, file=file, passed=passed, page=page)
                self._write(partial(count, models=models, now=now))
                passed += len(page)

    def _read(self, backend: str, batch_id: str) -> Settlement:
        with self.database.transaction(Role.OPERATOR) as connection:
            return require_batch(connection, backend=backend, batch_id=batch_id)

    def _write(self, work: partial[None]) -> None:
        self.database.retrying(Role.OPERATOR, work)


def require_batch(
    connection: sa.Connection, *, backend: str, batch_id: str, lock: bool = False
) -> Settlement:
    """How far a batch is settled.

    Raises:
        NotFound: no such batch was submitted.
    """
    found = store.settlement(connection, backend=backend, batch_id=batch_id, lock=lock)
    if found is None:
        raise NotFound("no such batch", field="batch_id", remedy="steelyard batch list")
    return found


def reopen_batch(
    connection: sa.Connection, *, backend: str, batch_id: str, now: datetime
) -> Settlement:
    """Try a batch again that was lost, from the line where it was.

    Raises:
        NotFound: no such batch was submitted.
    """
    found = require_batch(connection, backend=backend, batch_id=batch_id, lock=True)
    if found.state is BatchState.LOST:
        store.close_batch(connection, found.batch, BatchState.OPEN, problem=None, now=now)
    return require_batch(connection, backend=backend, batch_id=batch_id)


def _ended(status: BatchStatus, outcome: Outcome, found: Settlement, *, now: datetime) -> Ended:
    """A backend's clock may be wrong: a batch ends after it began, and not in the future."""
    at = min(max(status.ended_at or now, found.batch.submitted_at), now)
    ids = {ResultFile.OUTPUT: status.output_file_id, ResultFile.ERROR: status.error_file_id}
    return Ended(
        at=at,
        outcome=outcome.value,
        files={file: id_ for file, id_ in ids.items() if id_ is not None},
        requests=status.requests,
        answered=status.answered,
    )


def _count_page(
    connection: sa.Connection,
    *,
    settlement: Settlement,
    file: ResultFile,
    passed: int,
    page: Sequence[BatchLine],
    models: Models,
    now: datetime,
) -> None:
    batch = settlement.batch
    current = _locked(connection, settlement)
    if current.state is not BatchState.OPEN or current.passed[file] != passed:
        raise Conflict(
            "another process settles this batch",
            field="batch_id",
            remedy="ask for it again in a minute",
        )
    assert current.ended is not None
    ended_at = current.ended.at
    with acting_as(connection, Role.INGEST):
        booked = book_lines(connection, batch, page, models=models, occurred_at=ended_at, now=now)
    draw_lines(connection, batch, booked.billed, at=ended_at, now=now)
    store.add_lines(connection, batch, file, booked.counted)


def _close(connection: sa.Connection, *, settlement: Settlement, now: datetime) -> None:
    current = _locked(connection, settlement)
    if current.state is BatchState.OPEN:
        state, problem = _verdict(current)
        _finish(connection, current.batch, state, problem=problem, now=now)


def _finish(
    connection: sa.Connection,
    batch: BatchRun,
    state: BatchState,
    *,
    problem: str | None,
    now: datetime,
) -> None:
    """End a settlement, and with it what the batch holds of its tenant's credit."""
    store.close_batch(connection, batch, state, problem=problem, now=now)
    release_credit(connection, batch, now=now)


def _note_missing(
    connection: sa.Connection, *, settlement: Settlement, problem: str, now: datetime
) -> None:
    current = _locked(connection, settlement)
    if current.state is not BatchState.OPEN:
        return
    since = store.note_missing(connection, current.batch, problem=problem, now=now)
    if now - since >= LOST_AFTER:
        _finish(connection, current.batch, BatchState.LOST, problem=problem, now=now)


def _locked(connection: sa.Connection, settlement: Settlement) -> Settlement:
    batch = settlement.batch
    return require_batch(connection, backend=batch.backend, batch_id=batch.batch_id, lock=True)


def _verdict(current: Settlement) -> tuple[BatchState, str | None]:
    """What becomes of a batch whose files are read to their end, and what does not add up."""
    ended, counted = current.ended, current.counted
    assert ended is not None
    completed = ended.outcome == Outcome.COMPLETED
    if ResultFile.OUTPUT not in ended.files:
        answered = ended.answered
        # A backend that says nothing may have answered: only one that says none has not.
        if answered or (answered is None and completed and ResultFile.ERROR not in ended.files):
            return BatchState.LOST, NO_FILE
    if ended.answered is not None and ended.answered > counted.events:
        return BatchState.BILLED, f"{ended.answered} were answered, {counted.events} are billed"
    if completed and ended.requests not in {None, counted.lines}:
        return BatchState.BILLED, f"{ended.requests} requests came back as {counted.lines} lines"
    if counted.unreadable:
        return BatchState.BILLED, f"{counted.unreadable} lines cannot be read or came twice"
    return BatchState.BILLED, None
