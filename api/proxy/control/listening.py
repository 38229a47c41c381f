"""A connection on which a process hears what the database announces.

Decides: how soon a line that has died without a word is noticed by asking. Does not decide how soon
the kernel notices it, nor what becomes of what is heard.
"""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress
from typing import LiteralString

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg.rows import TupleRow

from billing.store.lines import ATTENTIVE

ANSWER_SECONDS = 2

Line = psycopg.AsyncConnection[TupleRow]


async def listening(conninfo: str, channel: LiteralString) -> Line:
    """Connect and listen.

    Raises:
        psycopg.Error: there is no database, or it does not answer.
    """
    connection = await psycopg.AsyncConnection.connect(
        make_conninfo(conninfo, **ATTENTIVE), autocommit=True
    )
    try:
        await _execute(connection, sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
    except BaseException:
        await connection.close()
        raise
    return connection


async def heard(connection: Line, seconds: int) -> list[str]:
    """What is announced next; nothing after so many seconds, if the server still answers then.

    Raises:
        psycopg.Error: the connection broke, or no answer came in time.
    """
    announced = [
        notice.payload async for notice in connection.notifies(timeout=seconds, stop_after=1)
    ]
    if not announced:
        # The heartbeat: a dead connection raises here instead of staying silent.
        await _execute(connection, sql.SQL("SELECT 1"))
    return announced


async def _execute(connection: Line, statement: sql.SQL | sql.Composed) -> None:
    """Execute a statement of the listening connection.

    Something between here and the server can swallow it while the kernel on the way still
    acknowledges: without a bound the wait would never end, and LISTEN with it.

    Raises:
        psycopg.Error: the connection broke, or no answer came in time.
    """
    loop = asyncio.get_running_loop()
    watchdog = loop.call_later(ANSWER_SECONDS, _hang_up, connection.fileno())
    try:
        await connection.execute(statement)
    finally:
        watchdog.cancel()


def _hang_up(descriptor: int) -> None:
    """Break the line under a connection, so that whoever waits on it fails at once.

    Cancelling the wait instead would ask the silent server to cancel, and wait for that.
    """
    with suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as line:
        line.shutdown(socket.SHUT_RDWR)
