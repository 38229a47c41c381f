"""A seam that kills an operation between two of its statements, and journals to be killed over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import event

from billing.journal.journal import Journal
from billing.journal.records import Attribution, Checkpoint, Counts, Intent, Record, Usage, Void
from billing.metering.event_id import microseconds, milliseconds, uuid7
from billing.operations.catalog.contracts import list_contracts, price_version_at
from billing.store import tenancy
from billing.store.catalog import ensure_models
from billing.store.database import Role
from billing.tenancy.tenant import Tenant
from tests.world import World

Result = TypeVar("Result")


class Crash(BaseException):
    """The process is gone: nothing in the product may catch this and go on."""


@dataclass(slots=True)
class Statements:
    """How many statements went to the server."""

    sent: int = 0


@contextmanager
def crash_before(engine: sa.Engine, number: int | None) -> Generator[Statements]:
    """Crash before statement `number` (from 1), or at no statement but count them if None.

    The commit counts as a statement: crashing before it is crashing after the last one.
    """
    statements = Statements()

    def step(*_: Any) -> None:
        statements.sent += 1
        if statements.sent == number:
            raise Crash

    event.listen(engine, "before_cursor_execute", step)
    event.listen(engine, "commit", step)
    try:
        yield statements
    finally:
        event.remove(engine, "before_cursor_execute", step)
        event.remove(engine, "commit", step)


def dying_everywhere(engine: sa.Engine, work: Callable[[], Result]) -> Result:
    """Do `work` again and again, dying before its first statement, its second, … until it ends."""
    for number in count(1):
        with suppress(Crash), crash_before(engine, number):
            return work()
    raise AssertionError("unreachable")


def attribution_of(world: World, tenant: Tenant, *, backend: str = "pool-a") -> Attribution:
    """Whose operations a proxy would write down for a tenant now."""
    with world.database.transaction(Role.INGEST) as connection:
        contracts = list_contracts(connection, tenant_id=tenant.id)
        return Attribution(
            tenant_id=tenant.id,
            project_id=tenancy.projects(connection, tenant.id)["default"],
            key_id=1,
            model_id=ensure_models(connection, ["tiny"])["tiny"],
            price_version_id=price_version_at(
                connection, contracts, tenant_id=tenant.id, instant=world.now
            ),
            backend=backend,
            route="/v1/chat/completions",
            stream=True,
            served_model="tiny",
        )


def operation_id(world: World, number: int) -> bytes:
    return uuid7(milliseconds(world.now), number).bytes


def usage_record(world: World, whose: Attribution, number: int, *, output: int = 3) -> Usage:
    return Usage(
        id=operation_id(world, number),
        at_us=microseconds(world.now) + output,
        attribution=whose,
        counts=Counts(input=10, cached_input=2, output=output),
        raw={"prompt_tokens": 12, "completion_tokens": output},
        cause="completed",
        estimated=False,
        ttft_us=1_000,
        duration_us=2_000,
    )


def void_record(world: World, whose: Attribution, number: int) -> Void:
    return Void(operation_id(world, number), microseconds(world.now), whose, "client_left")


def intent_record(world: World, whose: Attribution, number: int) -> Intent:
    return Intent(operation_id(world, number), microseconds(world.now), whose)


def checkpoint_record(world: World, number: int, *, output: int) -> Checkpoint:
    at_us = microseconds(world.now) + 1_000
    return Checkpoint(operation_id(world, number), at_us, Counts(input=10, output=output))


def write_journal(
    directory: Path,
    records: Sequence[Record],
    *,
    segment_bytes: int = 64 << 20,
    at_once: int = 1,
) -> Path:
    """A journal whose owner ended in order; its folder. Waits for `at_once` records together."""

    async def write() -> Path:
        journal = await Journal.open(directory, segment_bytes=segment_bytes)
        for start in range(0, len(records), at_once):
            batch = records[start : start + at_once]
            await asyncio.gather(*(journal.append(record) for record in batch))
        await journal.close()
        return journal.directory

    return asyncio.run(write())
