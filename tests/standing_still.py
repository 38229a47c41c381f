"""Processes of the server that stand still at a chosen statement: they acknowledge, no more."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event


def go_on(pids: list[int]) -> None:
    """Let what stands still go on; those that have gone need it no more."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    pids.clear()


@contextmanager
def standing_still(*pids: int) -> Generator[None]:
    """Have processes stand still inside a block."""
    stopped = list(pids)
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        go_on(stopped)


@contextmanager
def stopped_at(engine: sa.Engine, number: int) -> Generator[list[int]]:
    """Stop the server's process that has answered statement `number` (from 1) of this engine.

    Whatever comes next has no answer: a statement, a COPY, the commit. Yields the list of who
    stands still, which `go_on` empties; at the end all go on.
    """
    sent, stopped = 0, list[int]()

    def step(connection: sa.Connection, *_: Any) -> None:
        nonlocal sent
        sent += 1
        if sent == number:
            line = connection.connection.driver_connection
            assert line is not None
            stopped.append(line.info.backend_pid)
            os.kill(stopped[0], signal.SIGSTOP)

    event.listen(engine, "after_cursor_execute", step)
    try:
        yield stopped
    finally:
        event.remove(engine, "after_cursor_execute", step)
        go_on(stopped)
