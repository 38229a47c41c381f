"""The table of invariants names everything, and only what exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TABLE = Path(__file__).with_name("README.md").read_text("utf-8")
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TABLE)


def test_the_table_names_every_invariant_and_says_of_each_what_checks_it() -> None:
    rows = [row.strip("|").split("|") for row in TABLE.splitlines() if row.startswith("| ")]
    numbers = [row[0].strip() for row in rows if row[0].strip() != "#"]
    assert numbers == [*map(str, range(1, 27)), *(f"L{each}" for each in range(1, 9))]
    for row in rows:
        assert len(row) == 3, row
        assert row[2].strip() == "Checked by" or re.search("::|as [0-9]|later: ", row[2]), row


def test_every_name_in_the_table_exists() -> None:
    assert len(NAMED) > 40
    for file, name in NAMED:
        tree = ast.parse(ROOT.joinpath(file).read_text("utf-8"))
        defined = {
            node.name
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        }
        assert name in defined, (file, name)
