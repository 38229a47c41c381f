"""How an error leaves the program: one line, and what to do about it.

Does not decide with which exit status: `billing/exit_status.py` does.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from billing.errors import InvalidPlan, SteelyardError


def report(error: SteelyardError, *, as_json: bool) -> None:
    """Write an error to standard error: for people, or as one JSON object for machines."""
    line = error.line if isinstance(error, InvalidPlan) else None
    files: list[str] = getattr(error, "__notes__", [])
    if as_json:
        members = {
            "code": error.code,
            "field": error.field,
            "message": error.message,
            "remedy": error.remedy,
            "line": line,
            "file": files[0] if files else None,
        }
        print(json.dumps({"error": members}), file=sys.stderr)
        return
    parts = [*files[:1], f"line {line}" if line else None, error.field, error.message]
    _say(": ".join(part for part in parts if part), error.remedy)


def report_bug(bug: Exception, *, as_json: bool) -> None:
    """Write a bug to standard error, without its message: that could repeat a secret."""
    members = {
        "code": "internal_error",
        "field": None,
        "message": f"a bug in steelyard ({type(bug).__name__})",
        "remedy": "run it again with STEELYARD_DEBUG=1 and report the traceback",
        "line": None,
        "file": None,
    }
    if as_json:
        print(json.dumps({"error": members}), file=sys.stderr)
    else:
        _say(str(members["message"]), members["remedy"])


def wants_traceback() -> bool:
    """Whether the environment asks for tracebacks of bugs."""
    return os.environ.get("STEELYARD_DEBUG") == "1"


@contextmanager
def refused_in(path: Path | str) -> Generator[None]:
    """Name the file in errors about its content."""
    try:
        yield
    except SteelyardError as error:
        error.add_note(str(path))
        raise


def _say(text: str, remedy: str | None) -> None:
    console = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
    console.print("error:", style="bold red", end=" ")
    console.print(text)
    if remedy:
        console.print(f"  try: {remedy}")
