"""The page of the data plane names a test for every known failure, and each of them exists."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

TESTS = Path(__file__).parents[2]
README = TESTS.parent / "api" / "proxy" / "README.md"
ROWS = {1: 9, 2: 18, 3: 18, 4: 6, 5: 11}
"""Known failures, by section of the page."""

_TEST = re.compile(r"`([a-z0-9_/]+\.py)::(test_\w+)`")
_ROW = re.compile(r"^\| (\d)\.(\d+) \|")


@cache
def functions_of(path: str) -> frozenset[str]:
    tree = ast.parse((TESTS / path).read_text())
    return frozenset(
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )


def rows() -> list[tuple[tuple[int, int], str]]:
    """Number and last cell of each row."""
    found: list[tuple[tuple[int, int], str]] = []
    for line in README.read_text().splitlines():
        if (row := _ROW.match(line)) is not None:
            number = int(row[1]), int(row[2])
            found.append((number, line.rstrip("| ").rsplit("|", 1)[1].strip()))
    return found


def test_every_known_failure_has_its_row():
    wanted = [(section, row) for section, last in ROWS.items() for row in range(1, last + 1)]
    assert [number for number, _ in rows()] == wanted


def test_every_row_names_a_test_that_exists():
    named = _TEST.findall(README.read_text())
    assert len(named) > sum(ROWS.values())
    missing = [
        f"{path}::{name}"
        for path, name in named
        if not (TESTS / path).is_file() or name not in functions_of(path)
    ]
    assert missing == []


def test_no_row_is_open_without_a_reason():
    for number, cell in rows():
        tests, marked, reason = cell.partition("open: ")
        assert _TEST.search(tests) or marked, number
        assert not marked or len(reason.split()) >= 5, number
        # Nothing but tests and what is open stands in the cell, so that no name is misspelt.
        assert _TEST.sub("", tests).strip(" ,;") == "", number
