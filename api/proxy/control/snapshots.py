"""Keeps the snapshot of keys, terms and models current.

Decides when a new snapshot is taken: on a notification of the database, at every quarter of an
hour (contracts begin and end there), every ten seconds in any case, and every second while the
listening connection is broken or silent. While the database is away, the last snapshot lives on,
so that known keys keep working. Where what it says cannot be used, such as a limit that cannot be
kept, the last snapshot lives on but for its keys: a limit is never dropped, and a key that was
revoked ends all the same. The request path sees none of this: it reads `snapshot`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Self

import psycopg
import structlog
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from api.proxy.control.discovery import Discovery, Reread
from api.proxy.control.listening import heard, listening
from api.proxy.control.served_models import served_models
from api.proxy.control.snapshot_counts import SnapshotCounts
from billing.admission.snapshot import Snapshot
from billing.errors import SteelyardError
from billing.metering.event_id import microseconds
from billing.operations.admission.take_snapshot import take_keys, take_snapshot
from billing.planfiles.backend_file import BackendSpec
from billing.store.database import Database, Role
from billing.store.tenancy import live_key

log = structlog.get_logger("steelyard.control")

CHANNEL = "steelyard_control"
REFRESH_SECONDS = 10
SILENCE_SECONDS = 1
QUARTER_SECONDS = 900
ANSWER_MS = 10_000
"""How long a statement may take: a server process that stands still would keep revocations away."""

Now = Callable[[], datetime]


class Control:
    """Holds the newest snapshot and replaces it. Use `start` and `stop`."""

    def __init__(
        self,
        database: Database,
        conninfo: str,
        backends: Sequence[BackendSpec],
        now: Now,
        *,
        reread: Reread | None = None,
    ) -> None:
        self._database = database
        self._conninfo = conninfo
        self._discovery = Discovery(backends, reread)
        self._now = now
        self._refreshing = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []
        self._heard_at = 0.0  # loop time of the last sign of life on the listening connection
        self.counts = SnapshotCounts()
        self.snapshot = Snapshot(version=0, keys={}, terms={}, models={})

    @classmethod
    async def start(
        cls,
        database: Database,
        conninfo: str,
        backends: Sequence[BackendSpec],
        *,
        now: Now,
        reread: Reread | None = None,
    ) -> Self:
        """Take the first snapshot, whenever the database has it, and begin to keep it current.

        Args:
            conninfo: for the listening connection, which is not one of the pool's.
            backends: as configured; those without models are asked what they serve.
            reread: gives the backends again when their configuration has changed.
        """
        control = cls(database, conninfo, backends, now, reread=reread)
        await control._discovery.ask()
        while control.snapshot.version == 0:
            try:
                await control._refresh()
            except OperationalError:
                # It answered before, so it will again; a process that ended would do no better.
                log.warning("the database went away; no key is known yet")
                await asyncio.sleep(SILENCE_SECONDS)
        control._tasks = [
            asyncio.create_task(control._listen()),
            asyncio.create_task(control._refresh_in_time()),
            asyncio.create_task(control._discovery.keep_asking(control._refresh)),
        ]
        return control

    async def stop(self) -> None:
        """Stop keeping the snapshot current."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task

    async def look_up(self, key_digest: bytes) -> None:
        """Ask the database for one unknown key; a full refresh follows only if it exists."""

        def exists() -> bool:
            with self._database.transaction(Role.OPERATOR, answer_ms=ANSWER_MS) as connection:
                return live_key(connection, key_digest, now=self._now()) is not None

        try:
            found = await asyncio.to_thread(exists)
        except SQLAlchemyError:
            log.warning("key look-up failed: the database is away")
            return
        if found and key_digest not in self.snapshot.keys:
            await self._refresh()

    async def _refresh(self) -> None:
        async with self._refreshing:
            version = self.snapshot.version + 1
            try:
                self.snapshot = await asyncio.to_thread(self._take, version)
            except SQLAlchemyError as error:
                self._note_refusal("database_away", error)
            except SteelyardError as error:
                self._note_refusal(error.code, error)
                self.counts.unusable = True
                log.error("snapshot cannot be used", field=error.field, reason=str(error))  # noqa: TRY400  # no traceback: it is the operator's to mend
                await self._refresh_keys(version)
            except Exception as error:  # noqa: BLE001  # the tasks that ask would end by it
                self._note_refusal("defect", error)
                self.counts.unusable = True
                log.error("snapshot cannot be taken", reason=type(error).__name__)  # noqa: TRY400  # a message could carry values
                await self._refresh_keys(version)
            else:
                self.counts.unusable = False

    def _take(self, version: int) -> Snapshot:
        models = served_models(self._discovery.backends)
        with self._database.transaction(Role.OPERATOR, answer_ms=ANSWER_MS) as connection:
            return take_snapshot(
                connection,
                models=models,
                version=version,
                now=self._now(),
                all_said=self._discovery.all_said,
            )

    def _note_refusal(self, reason: str, error: Exception) -> None:
        """The last snapshot lives on; before the first one nothing can be served.

        Raised later it would end the task that asked, and with it every renewal: a key revoked
        after that would work for ever.
        """
        if self.snapshot.version == 0:
            raise error
        self.counts.refused[reason] += 1
        log.warning("snapshot not renewed", reason=reason)

    async def _refresh_keys(self, version: int) -> None:
        """Take the keys alone."""

        def take() -> Snapshot:
            now = self._now()
            with self._database.transaction(Role.OPERATOR, answer_ms=ANSWER_MS) as connection:
                keys = take_keys(connection, now=now)
            return replace(self.snapshot, version=version, keys=keys, taken_at_us=microseconds(now))

        with suppress(SQLAlchemyError):
            self.snapshot = await asyncio.to_thread(take)

    async def _refresh_in_time(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            began, quarter = loop.time(), self._quarter()
            waiting = True
            while waiting:
                await asyncio.sleep(SILENCE_SECONDS)
                # A connection that neither speaks nor fails would keep revocations from us.
                deaf = loop.time() - self._heard_at > 2 * SILENCE_SECONDS
                due = loop.time() - began >= REFRESH_SECONDS or self._quarter() != quarter
                waiting = not deaf and not due
            await self._refresh()

    def _quarter(self) -> int:
        return int(self._now().timestamp()) // QUARTER_SECONDS

    async def _listen(self) -> None:
        while True:
            try:
                await self._listen_once()
            except psycopg.Error:
                log.warning("listening connection lost; polling")
            await asyncio.sleep(SILENCE_SECONDS)
            await self._refresh()

    async def _listen_once(self) -> None:
        loop = asyncio.get_running_loop()
        async with await listening(self._conninfo, CHANNEL) as connection:
            self._heard_at = loop.time()
            # What changed between the last snapshot and LISTEN was announced to nobody.
            await self._refresh()
            while True:
                if await heard(connection, SILENCE_SECONDS):
                    await self._refresh()
                self._heard_at = loop.time()


def utc_now() -> datetime:
    """The time now."""
    return datetime.now(UTC)
