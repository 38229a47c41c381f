"""Who is refused is told what to do: `openapi/` and the command line promise it of every refusal.

Not of what fails on the inside (a tie-out, the journal, a ledger that refuses a posting), where
nothing that the caller does would help, nor of `/v1`, where errors have the shape of the SDKs.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from billing.errors import (
    ConfigurationError,
    Conflict,
    Forbidden,
    InvalidInput,
    NotFound,
    Unauthenticated,
)

ROOT = Path(__file__).parents[1]
REFUSALS = {
    each.__name__
    for kind in (InvalidInput, NotFound, Conflict, ConfigurationError, Unauthenticated, Forbidden)
    for each in (kind, *kind.__subclasses__())
}
INSIDE = ("api/proxy", "billing/engines", "billing/journal", "billing/payments")


def refusals(path: Path) -> Iterator[ast.Call]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            called = node.exc.func
            if isinstance(called, ast.Name) and called.id in REFUSALS:
                yield node.exc


def test_every_refusal_says_what_to_do() -> None:
    found = 0
    silent: list[str] = []
    for path in sorted((*ROOT.glob("api/**/*.py"), *ROOT.glob("billing/**/*.py"))):
        name = path.relative_to(ROOT).as_posix()
        if name.startswith(INSIDE):
            continue
        for call in refusals(path):
            found += 1
            if not any(member.arg == "remedy" for member in call.keywords):
                silent.append(f"{name}:{call.lineno}")
    assert found > 400
    assert silent == []
