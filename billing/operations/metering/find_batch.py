"""Find out what became of batches that were intended: a backend runs them, or never did.

A proxy that died, or that lost the backend's answer, leaves a batch intended. Its backend is asked
which batches it has: one of the same file, made since, that nobody has recorded is this one,
because a file is one tenant's. What a backend that answers does not have after an hour never ran;
nothing follows from one that does not answer, or cannot list what it has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial

import httpx
import sqlalchemy as sa

from billing.admission.binding import Binding, ObjectKind, is_object_id
from billing.engines.batch_status import ListedBatch
from billing.errors import Conflict, UpstreamError
from billing.metering.event_id import microseconds
from billing.operations.metering.ask_batch import list_batches
from billing.operations.stored_objects.batches import record_batch, refuse_batch
from billing.planfiles.backend_file import BackendSpec
from billing.store import batch_runs as store
from billing.store.batch_runs import BatchRun
from billing.store.database import Database, Role

LOOKED_FOR_AFTER = timedelta(seconds=30)
"""A proxy that lives has recorded it by then, or will; found meanwhile, it is the same batch."""

GIVEN_UP_AFTER = timedelta(hours=1)
CLOCKS_APART = timedelta(minutes=10)
"""By so much a backend's clock may be behind ours."""

MOST_AT_ONCE = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchFinder:
    """Looks for batches that were intended at the backends of a deployment.

    Attributes:
        backends: by name.
    """

    database: Database
    client: httpx.Client
    backends: Mapping[str, BackendSpec]

    def find(self, *, now: datetime) -> tuple[int, int]:
        """Look for all that it is time to look for; how many run, and how many never did."""
        with self.database.transaction(Role.OPERATOR) as connection:
            intended = store.intended_runs(
                connection, before=now - LOOKED_FOR_AFTER, most=MOST_AT_ONCE
            )
        found = refused = 0
        for batch in intended:
            spec = self.backends.get(batch.backend)
            if spec is None:
                continue
            try:
                listed = self._look(batch, spec)
            except UpstreamError:
                continue
            if listed is not None:
                found += self._record(batch, listed)
            elif now - batch.submitted_at >= GIVEN_UP_AFTER:
                self._write(
                    partial(refuse_batch, backend=batch.backend, request_id=batch.batch_id, now=now)
                )
                refused += 1
        return found, refused

    def _look(self, batch: BatchRun, spec: BackendSpec) -> ListedBatch | None:
        with self.database.transaction(Role.OPERATOR) as connection:
            known = store.named_of_input(
                connection, backend=batch.backend, input_file_id=batch.input_file_id
            )
        since = batch.submitted_at - CLOCKS_APART
        candidates = [
            listed
            for listed in list_batches(self.client, spec, since=since)
            if listed.input_file_id == batch.input_file_id
            and listed.id not in known
            and is_object_id(listed.id)
        ]
        # The oldest of several, which is listed last: others belong to later intentions.
        return candidates[-1] if candidates else None

    def _record(self, batch: BatchRun, listed: ListedBatch) -> bool:
        binding = Binding(
            kind=ObjectKind.BATCH,
            backend=batch.backend,
            object_id=listed.id,
            tenant_id=batch.tenant_id,
            project_id=batch.project_id,
            key_id=batch.key_id,
            model_id=batch.model_id,
            created_at_us=microseconds(batch.submitted_at),
        )
        try:
            self._write(
                partial(
                    record_batch,
                    batch=replace(batch, batch_id=listed.id),
                    bindings=[binding],
                    request_id=batch.batch_id,
                )
            )
        except Conflict:
            return False  # somebody else's id: a proxy refused it, too
        return True

    def _write(self, work: partial[None]) -> None:
        def run(connection: sa.Connection) -> None:
            work(connection)

        self.database.retrying(Role.OPERATOR, run)
