"""Runs commands in this process, against a database of the test's own."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from typer.testing import CliRunner

from billing.cli.app import app
from billing.store.embedded.address import ServerAddress


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What a command left behind."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Standard output as JSON."""
        return json.loads(self.out)

    @property
    def error(self) -> dict[str, Any]:
        """The error on standard error as JSON."""
        return json.loads(self.err)["error"]


Run = Callable[..., Ran]


def run_command(*arguments: str, stdin: str | bytes | None = None) -> Ran:
    # Where tests run side by side, their processes are told of a terminal that there is not.
    runner = CliRunner(env={"COLUMNS": None})
    result = runner.invoke(app, list(arguments), input=stdin, prog_name="steelyard")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Ran(status=result.exit_code, out=result.stdout, err=result.stderr)


@pytest.fixture
def run() -> Run:
    """Run a command; no database is configured."""
    return run_command


@pytest.fixture
def steelyard(postgres: ServerAddress, database_name: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command against the test's database, as an operator would be configured."""
    monkeypatch.setenv("STEELYARD_DATABASE_URL", postgres.app_url(database_name))
    monkeypatch.setenv("STEELYARD_MIGRATE_URL", postgres.owner_url(database_name))
    return run_command
