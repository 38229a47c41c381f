"""Bindings of backends' objects to tenants, in the database.

Decides: when the database counts as away (a call failed, or did not answer in time; then nothing
is asked for a second), and how many found objects are remembered. A call whose answer came too
late may still have been carried out: an id that is bound and that nobody saw does no harm.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from typing import TypeVar
from uuid import UUID

import sqlalchemy as sa
import structlog
from prometheus_client.core import Metric
from sqlalchemy.exc import SQLAlchemyError

from api.proxy.binding_port import IntendedBatch
from api.proxy.control.answers import answered
from api.proxy.limit_errors import LimitReached, credit_limit
from api.proxy.openai_errors import Unavailable
from api.proxy.telemetry.counted import counter
from billing.admission.binding import Binding, ObjectKind
from billing.errors import Conflict, UpstreamError
from billing.metering.event_id import from_microseconds
from billing.operations.stored_objects import bindings as operations
from billing.operations.stored_objects.batches import (
    CreditShort,
    CreditWanted,
    intend_batch,
    is_awaited,
    record_batch,
    refuse_batch,
)
from billing.store.batch_runs import BatchRun
from billing.store.database import Database, Role

log = structlog.get_logger("steelyard.bindings")

Result = TypeVar("Result")

_Name = tuple[int, ObjectKind, str]
"""Tenant, kind and id."""

CALL_MS = 2_000
ANSWER_MS = 5_000
"""When a connection is replaced on which a statement stands still."""

PAUSE_SECONDS = 1
RECALL_PAUSES = (0.05, 0.2)
"""Seconds before each further try to set credit aside, in which what is leased comes back."""

REMEMBERED = 10_000
REMEMBERED_SECONDS = 3_600
"""Far less than a row stays that is marked as deleted: until it leaves, and its id can become
another tenant's, nobody remembers whose it was."""

SOUGHT_AT_ONCE = 32
"""Look-ups that may wait for one tenant, so that one that tries ids keeps nobody else waiting."""


class Bindings:
    """The bindings as one process sees them.

    Attributes:
        calls: by what was asked and what became of it.
    """

    def __init__(self, database: Database, *, now: Callable[[], datetime]) -> None:
        self._database = database
        self._now = now
        # Threads of their own: calls that hang must not keep look-ups of keys from theirs.
        self._threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="bindings")
        # With the monotonic ns until which each is remembered.
        self._found: OrderedDict[_Name, tuple[Binding, int]] = OrderedDict()
        self._sought: Counter[int] = Counter()
        self._pausing_until = 0  # monotonic ns
        self.calls: Counter[tuple[str, str]] = Counter()

    @property
    def healthy(self) -> bool:
        """False just after the database could not be asked."""
        return time.monotonic_ns() >= self._pausing_until

    async def bind(self, bindings: Sequence[Binding]) -> None:
        """Return once the objects are durably their tenants'.

        Raises:
            Unavailable: the database cannot be asked.
            UpstreamError: a backend issued an id that cannot be this tenant's.
        """
        fresh = [binding for binding in bindings if not self._is_known(binding)]
        if fresh:
            await self._ask("bind", lambda connection: operations.bind(connection, fresh))
        for binding in fresh:
            self._remember(binding)

    async def intend(self, batch: IntendedBatch) -> None:
        """Return once it is durable that a batch may run, and what it can cost is set aside.

        Raises:
            LimitReached: the tenant's credit has not that much left.
            Unavailable: the database cannot be asked.
        """
        submitted, credit = _run_of(batch), None
        if submitted.hold_id is not None and batch.credit is not None:
            credit = CreditWanted(limit_id=batch.credit, amount=batch.most)

        def intend(connection: sa.Connection) -> CreditShort | None:
            return intend_batch(connection, submitted, credit=credit, now=self._now())

        short = await self._ask("intend", intend)
        for pause_seconds in RECALL_PAUSES:
            if short is None:
                return
            await asyncio.sleep(pause_seconds)
            short = await self._ask("intend", intend)
        if short is not None:
            raise LimitReached(
                credit_limit(batch.credit or 0, short.currency),
                used=short.used,
                capacity=short.capacity,
                resets_us=None,
                now_us=batch.binding.created_at_us,
            )

    async def record(
        self, batch: IntendedBatch, batch_id: str, bindings: Sequence[Binding]
    ) -> None:
        """As `bind`, also of the batch under its backend's id, and have it billed when it has run.

        Raises:
            Unavailable: the database cannot be asked.
            UpstreamError: a backend issued an id that cannot be this tenant's.
        """
        request_id = batch.binding.object_id
        own, submitted = (
            replace(batch.binding, object_id=batch_id),
            replace(_run_of(batch), batch_id=batch_id),
        )
        all_of_it = [own, *bindings]
        await self._ask(
            "record",
            lambda connection: record_batch(
                connection, submitted, all_of_it, request_id=request_id
            ),
        )
        for binding in all_of_it:
            self._remember(binding)

    async def give_up(self, batch: IntendedBatch) -> None:
        """The backend does not run it: nothing is set aside for it any more.

        Raises:
            Unavailable: the database cannot be asked.
        """
        own, now = batch.binding, self._now()
        await self._ask(
            "give_up",
            lambda connection: refuse_batch(
                connection, backend=own.backend, request_id=own.object_id, now=now
            ),
        )

    async def find(self, *, tenant_id: int, kind: ObjectKind, object_id: str) -> Binding | None:
        """An object of a tenant; None for an unknown one and anybody else's.

        Raises:
            Unavailable: it is not remembered, and the database cannot be asked, or too many
                look-ups wait for this tenant.
        """
        name = tenant_id, kind, object_id
        known = self._known(name)
        if known is not None:
            self._found.move_to_end(name)
            return known
        if self._sought[tenant_id] >= SOUGHT_AT_ONCE:
            self.calls["find", "crowded"] += 1
            raise _unavailable()
        self._sought[tenant_id] += 1
        try:
            found = await self._ask(
                "find",
                lambda connection: operations.find(
                    connection, tenant_id=tenant_id, kind=kind, object_id=object_id
                ),
            )
        finally:
            self._sought[tenant_id] -= 1
            if not self._sought[tenant_id]:
                del self._sought[tenant_id]
        if found is not None:
            self._remember(found)
        return found

    async def page(
        self,
        *,
        tenant_id: int,
        kind: ObjectKind,
        after: str | None,
        limit: int,
        oldest_first: bool,
    ) -> tuple[Sequence[Binding], bool]:
        """Objects of a tenant behind `after`, by age, and whether others follow.

        Raises:
            Unavailable: the database cannot be asked.
        """
        page = await self._ask(
            "page",
            lambda connection: operations.page(
                connection,
                tenant_id=tenant_id,
                kind=kind,
                after=after,
                limit=limit,
                oldest_first=oldest_first,
            ),
        )
        return page.objects, page.more

    async def is_awaited(self, binding: Binding) -> bool:
        """Whether a file may hold results of a batch that are not billed yet.

        Raises:
            Unavailable: the database cannot be asked.
        """
        return await self._ask("awaited", lambda connection: is_awaited(connection, binding))

    async def forget(self, binding: Binding) -> None:
        """The backend has deleted it.

        Raises:
            Unavailable: the database cannot be asked.
        """
        self._found.pop(_name(binding), None)
        now = self._now()
        await self._ask(
            "forget", lambda connection: operations.forget(connection, binding, now=now)
        )

    def collect(self) -> Iterator[Metric]:
        """As metrics."""
        yield counter(
            "steelyard_proxy_binding_calls",
            "Calls about objects that backends keep, by what was asked and what became of it.",
            ("call", "outcome"),
            self.calls,
        )

    def close(self) -> None:
        """Wait for nothing more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _ask(self, what: str, work: Callable[[sa.Connection], Result]) -> Result:
        if not self.healthy:
            raise _unavailable()
        running = self._threads.submit(
            self._database.retrying, Role.OPERATOR, work, answer_ms=ANSWER_MS
        )
        try:
            answer = await answered(running, CALL_MS)
        except (TimeoutError, SQLAlchemyError) as error:
            log.warning("bindings cannot be asked", reason=type(error).__name__)
            self.calls[what, "failed"] += 1
            self._pausing_until = time.monotonic_ns() + PAUSE_SECONDS * 1_000_000_000
            raise _unavailable() from None
        except Conflict:
            log.warning("a backend issued an id that is somebody else's", call=what)
            self.calls[what, "refused"] += 1
            raise UpstreamError("The inference backend's answer cannot be used.") from None
        self.calls[what, "answered"] += 1
        return answer

    def _is_known(self, binding: Binding) -> bool:
        known = self._known(_name(binding))
        return known is not None and known.backend == binding.backend

    def _known(self, name: _Name) -> Binding | None:
        binding, until = self._found.get(name, (None, 0))
        if binding is not None and time.monotonic_ns() >= until:
            del self._found[name]
            return None
        return binding

    def _remember(self, binding: Binding) -> None:
        until = time.monotonic_ns() + REMEMBERED_SECONDS * 1_000_000_000
        self._found[_name(binding)] = binding, until
        self._found.move_to_end(_name(binding))
        if len(self._found) > REMEMBERED:
            self._found.popitem(last=False)


def _run_of(batch: IntendedBatch) -> BatchRun:
    own = batch.binding
    return BatchRun(
        batch_id=own.object_id,
        backend=own.backend,
        tenant_id=own.tenant_id,
        project_id=own.project_id,
        key_id=own.key_id,
        model_id=own.model_id,
        price_version_id=batch.price_version_id,
        endpoint=batch.endpoint,
        input_file_id=batch.input_file_id,
        submitted_at=from_microseconds(own.created_at_us),
        hold_id=UUID(bytes=batch.operation_id) if batch.credit and batch.most else None,
    )


def _name(binding: Binding) -> _Name:
    return binding.tenant_id, binding.kind, binding.object_id


def _unavailable() -> Unavailable:
    return Unavailable("Stored objects cannot be reached at the moment; please retry.")
