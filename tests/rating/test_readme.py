"""The page of rating tells the order that the program runs, and names tests that exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

from billing.rating.rounding import round_line
from billing.rating.together import rate_together
from billing.rating.weigh import CHARGE_STEPS, GROUP_STEPS
from billing.rating.whole import BOUNDS

TESTS = Path(__file__).parents[1]
README = TESTS.parent / "billing" / "rating" / "README.md"
COMPLAINTS = 31

_TEST = re.compile(r"`([a-z0-9_/]+\.py)::(test_\w+)`")
_STEP = re.compile(r"^\| `([A-Za-z_.]+)` \| `(\w+)` \|")


@cache
def functions_of(path: str) -> frozenset[str]:
    tree = ast.parse((TESTS / path).read_text())
    return frozenset(
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )


def test_the_order_on_the_page_is_the_one_that_runs():
    written = [
        found.groups() for line in README.read_text().splitlines() if (found := _STEP.match(line))
    ]
    assert written == [
        *(("weigh.GROUP_STEPS", step.__name__) for step in GROUP_STEPS),
        *(("weigh.CHARGE_STEPS", step.__name__) for step in CHARGE_STEPS),
        ("rounding", round_line.__name__),
        *(("whole.BOUNDS", step.__name__) for step in BOUNDS),
        ("together", rate_together.__name__),
    ]


def test_every_complaint_has_its_row_and_nothing_but_tests_in_it():
    rows = [line for line in README.read_text().splitlines() if re.match(r"^\| \d+ \|", line)]
    assert [int(row.split("|")[1]) for row in rows] == list(range(1, COMPLAINTS + 1))
    for row in rows:
        tests = row.rstrip("| ").rsplit("|", 1)[1]
        assert _TEST.search(tests), row
        # Nothing else stands in the cell, so that no name is misspelt.
        assert _TEST.sub("", tests).strip(" ,") == "", row


def test_every_test_on_the_page_exists():
    named = _TEST.findall(README.read_text())
    assert len(named) > COMPLAINTS
    missing = [
        f"{path}::{name}"
        for path, name in named
        if not (TESTS / path).is_file() or name not in functions_of(path)
    ]
    assert missing == []
