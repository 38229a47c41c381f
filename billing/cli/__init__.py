"""The command line `steelyard`: each command reads its options and calls one operation."""

from __future__ import annotations


def main() -> None:
    """Run the command that `sys.argv` names and exit with its status."""
    # Imported here: child processes import this package too and need no command line.
    from billing.cli.app import app

    app(prog_name="steelyard")
