"""Every command explains itself: an example, options, and `--json`."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module

import pytest
import typer
from typer.core import TyperGroup
from typer.main import get_group

from billing.cli.app import COMMANDS, SINGLE

DOCUMENTS = {("ledger", "bundle"), ("ledger", "verifier")}
"""What these print is a file's content in one form only: JSON, and Python."""


def commands() -> Iterator[tuple[str, ...]]:
    for name in COMMANDS:
        module_app: typer.Typer = import_module(f"billing.cli.{name.replace('-', '_')}").app
        for command, found in get_group(module_app).commands.items():
            if isinstance(found, TyperGroup):
                yield from ((name, command, inner) for inner in found.commands)
            else:
                yield (name,) if name in SINGLE else (name, command)


def test_no_command_went_missing():
    wanted = {"up", "db", "tenant", "key", "plan", "contract", "usage", "rate", "invoice", "margin"}
    assert wanted | {"export", "demo"} <= set(COMMANDS)


def test_the_root_lists_every_command(run):
    shown = run("--help").out
    assert all(name in shown for name in COMMANDS)


@pytest.mark.parametrize("command", list(commands()), ids=" ".join)
def test_help_shows_an_example_and_json(run, command):
    helped = run(*command, "--help")
    assert helped.status == 0
    # Examples wrap where the terminal ends.
    shown = " ".join(helped.out.split())
    assert "Example: " in shown
    assert f"steelyard {' '.join(command)}" in shown.partition("Example: ")[2]
    assert ("--json" in shown) == (command not in DOCUMENTS)


@pytest.mark.parametrize("group", sorted(set(COMMANDS) - SINGLE))
def test_a_group_alone_shows_its_commands(run, group):
    shown = run(group)
    assert "Usage: steelyard" in shown.out
    assert COMMANDS[group].split(".")[0] in " ".join(shown.out.split())


def test_an_unknown_command_is_a_usage_error(run):
    refused = run("plan", "chekc")
    assert refused.status == 2
    assert "check" in refused.err
    assert run("no-such-thing").status == 2


def test_version(run):
    assert run("version", "--json").document["version"].count(".") == 2
    assert run("version").out.startswith("steelyard ")
