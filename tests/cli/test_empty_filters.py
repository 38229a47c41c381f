"""T2 at the command line: an option that is empty, or names nobody, never widens to all.

The options are read from the commands: a new list, or a new filter of one, is tried unasked.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest
from typer.main import get_group

from billing.cli.app import COMMANDS, SINGLE
from billing.store.database import Database
from tests.cli.conftest import Ran, Run
from tests.cli.test_help import commands
from tests.world import World, make_world

READ = {"list", "show", "requests", "balances", "trial-balance", "statement", "periods", "report"}
"""Verbs that list something; `up` and others are not run by the test."""
FILTERS = {"tenant", "entity", "meter", "model", "project", "key", "currency", "account"}
GIVEN = {
    "tenant": "acme",
    "currency": "USD",
    "account": "accounts_receivable",
    "period": "2026-11",
}
"""What other parameters are given while one is tried."""
NOT_LISTS = {("outcome", "report"), ("margin", "report")}


def parameters(command: tuple[str, ...]) -> list[Any]:
    found: Any = get_group(import_module(f"billing.cli.{command[0].replace('-', '_')}").app)
    for name in () if command[0] in SINGLE else command[1:]:
        found = found.commands[name]
    return found.params


def filters() -> Iterator[tuple[tuple[str, ...], str, tuple[str, ...]]]:
    """(command, option that narrows it, the other arguments that it needs)."""
    for command in commands():
        if command in NOT_LISTS or command[-1] not in READ:
            continue
        known = parameters(command)
        narrowing = [each for each in known if each.name in FILTERS]
        for one in narrowing:
            others: list[str] = []
            for each in known:
                if each is one or each.name not in GIVEN or not each.required:
                    continue
                option = [each.opts[0]] if each.opts[0].startswith("-") else []
                others += [*option, GIVEN[each.name]]
            yield command, one.opts[0], tuple(others)


TRIED = list(filters())


def rows(ran: Ran) -> int:
    """How many rows a document has, in all of its lists."""

    def counted(value: Any) -> int:
        match value:
            case list():
                return sum(1 + counted(each) for each in value if isinstance(each, dict))
            case dict():
                return sum(counted(each) for each in value.values())
            case _:
                return 0

    return counted(ran.document)


@pytest.fixture
def world(database: Database, now) -> World:
    world = make_world(database, now)
    for slug in ("acme", "birch"):
        world.use(world.tenant(slug), {"tokens.input": 5_000_000})
    return world


def test_row_14_every_list_that_can_be_narrowed_is_tried() -> None:
    assert set(COMMANDS) >= {command[0] for command, _, _ in TRIED}
    assert {("contract", "list"), ("usage", "show"), ("books", "balances"), ("key", "list")} <= {
        command for command, _, _ in TRIED
    }


def test_row_14_T2_an_empty_option_lists_nothing(world: World, steelyard: Run) -> None:
    for slug in ("acme", "birch"):
        assert steelyard("invoice", "issue", "--tenant", slug, "--period", "2026-11").status in {
            0,
            1,
        }
    wide: list[str] = []
    for command, option, others in TRIED:
        for empty in ("", "nobody-there", "%"):
            narrowed = [option, empty] if option.startswith("-") else [empty]
            ran = steelyard(*command, *narrowed, *others, "--json")
            if ran.status == 0 and rows(ran):
                wide.append(" ".join((*command, option, repr(empty))))
    assert not wide, "\n".join(wide)
    everybody = steelyard("contract", "list", "--json")
    assert rows(everybody) >= 2
