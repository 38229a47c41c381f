"""Plans of every statement that a database runs, those inside functions and triggers included.

PostgreSQL itself tells them (`auto_explain`), on the connections that ran them, so no list of
statements can go stale. Owner of nothing: a server of the tests lets its superuser switch it on.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
import sqlalchemy as sa
from psycopg import sql
from sqlalchemy import event

_SETTINGS = {
    "session_preload_libraries": "auto_explain",
    "auto_explain.log_min_duration": "0",
    "auto_explain.log_nested_statements": "on",
    "auto_explain.log_analyze": "on",
    "auto_explain.log_timing": "off",
    "auto_explain.log_format": "json",
    "auto_explain.log_level": "notice",
    "auto_explain.log_parameter_max_length": "0",
    # A statement that is planned once for all values is planned as it runs most of the time.
    "client_min_messages": "notice",
}
_LOOKED_AT = ("Actual Rows", "Rows Removed by Filter", "Rows Removed by Index Recheck")
_CONDITIONS = frozenset({"Index Cond", "Recheck Cond", "TID Cond"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """How one statement read one table.

    Attributes:
        kind: `Seq Scan`, `Index Scan` …
        bounded: by a condition on an index, or by a limit above an ordered index.
        rows: that it looked at, in all loops.
    """

    statement: str
    table: str
    kind: str
    bounded: bool
    rows: int


@dataclass(slots=True)
class Watch:
    """What was run while it was on.

    Attributes:
        parents: tables by their partitions.
    """

    parents: dict[str, str]
    scans: list[Scan] = field(default_factory=list[Scan])
    statements: set[str] = field(default_factory=set[str])

    def hear(self, diagnostic: psycopg.errors.Diagnostic) -> None:
        """Take a notice of the server, if it is a plan."""
        _, found, text = (diagnostic.message_primary or "").partition("plan:\n")
        if not found:
            return
        told = json.loads(text, strict=False)
        statement = " ".join(told["Query Text"].split())
        self.statements.add(statement)
        self.scans += _scans(statement, told["Plan"], self.parents, limited=False)


def _scans(
    statement: str, node: dict[str, Any], parents: dict[str, str], *, limited: bool
) -> Iterator[Scan]:
    kind = node["Node Type"]
    name = node.get("Relation Name")
    if name in parents and kind != "ModifyTable":
        looked_at = sum(node.get(each, 0) for each in _LOOKED_AT)
        yield Scan(
            statement=statement,
            table=parents[name],
            kind=kind,
            bounded=not _CONDITIONS.isdisjoint(node) or (limited and "Index" in kind),
            rows=round(looked_at * node["Actual Loops"]),
        )
    if kind in {"Sort", "Aggregate", "Hash", "Hash Join"}:
        limited = False  # it reads all that there is before it gives a row
    for below in node.get("Plans", []):
        yield from _scans(statement, below, parents, limited=limited or kind == "Limit")


@contextmanager
def watched(owner_conninfo: str, database: str, **settings: str) -> Generator[Watch]:
    """Watch what connections run that this process opens inside the block.

    Args:
        owner_conninfo: of the server's superuser, to that database.
        settings: further settings of the planner, for all of them.
    """
    told = {**_SETTINGS, **settings}
    with psycopg.connect(owner_conninfo, autocommit=True) as owner:
        watch = Watch(_parents(owner))
        for name, value in told.items():
            owner.execute(_alter(database, name, sql.SQL("SET {} = {}"), value))

    def connected(connection: Any, _: object) -> None:
        connection.add_notice_handler(watch.hear)

    event.listen(sa.Engine, "connect", connected)
    try:
        yield watch
    finally:
        event.remove(sa.Engine, "connect", connected)
        with psycopg.connect(owner_conninfo, autocommit=True) as owner:
            owner.execute(sql.SQL("ALTER DATABASE {} RESET ALL").format(sql.Identifier(database)))


def _alter(database: str, name: str, form: sql.SQL, value: str) -> sql.Composed:
    place = sql.SQL(".").join(sql.Identifier(part) for part in name.split("."))
    change = form.format(place, sql.Literal(value))
    return sql.SQL("ALTER DATABASE {} ").format(sql.Identifier(database)) + change


def _parents(owner: psycopg.Connection[Any]) -> dict[str, str]:
    rows = owner.execute(
        "SELECT c.relname, coalesce(p.relname, c.relname) FROM pg_class c "
        "LEFT JOIN pg_inherits i ON i.inhrelid = c.oid LEFT JOIN pg_class p ON p.oid = i.inhparent "
        "WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')"
    )
    return dict(rows.fetchall())
