"""The root command: which commands exist, how errors leave the program, how it logs.

Decides nothing about billing. Modules of commands are imported when a command of theirs is named,
so that `steelyard rate` waits for no database driver and `--help` is quick.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.exceptions import TyperException
from typer.main import get_group

from billing.cli.failure import report, report_bug, wants_traceback
from billing.cli.logs import LogFormat, configure_logs
from billing.cli.output import is_json
from billing.errors import SteelyardError
from billing.exit_status import BUG, exit_status

COMMANDS: Mapping[str, str] = {
    "up": "Run everything on this machine: database, proxy, API, ledger writer, worker.",
    "demo": "A month of a small AI factory in under a minute, every tie-out checked.",
    "db": "Migrate and inspect the database.",
    "journal": "The proxies' journals: book them again, show what was refused.",
    "archive": "Closed months of usage as files.",
    "entity": "Legal entities: who issues the invoices.",
    "tenant": "Tenants: who is billed.",
    "key": "API keys of tenants, operators and finance.",
    "plan": "Price plans: check, apply, show.",
    "meter": "Meters: what is counted, and how events are read.",
    "contract": "Bind tenants to price plans.",
    "usage": "What tenants used; import, check, find what has no price.",
    "rate": "Price recorded usage with a plan file, without a database.",
    "backtest": "Rate recorded usage under another plan: who would have paid what.",
    "invoice": "Draft, issue, explain and settle invoices.",
    "credit": "Credit of tenants: grant, list, apply, void, expire.",
    "batch": "Batches that backends run: list them, bill one now.",
    "limit": "Limits of tenants: set, list, end.",
    "alert": "Thresholds on spend: set, list, end; what was reached.",
    "outcome": "Outcomes: report, confirm, list.",
    "ledger": "Seal both ledgers, verify them, make bundles for tenants.",
    "verify-bundle": "Verify a month of sealed usage from a file, without a database.",
    "books": "Balances, statements, exchanges of currency; close periods, reverse.",
    "margin": "What serving cost and what it earned.",
    "leakage": "What engines counted beside what the ledger has.",
    "export": "Invoices and the journal for finance.",
    "version": "Print the version.",
}
"""Commands and groups of commands, as `--help` lists them. `billing.cli.<name>` holds `app`."""

SINGLE = frozenset({"up", "demo", "rate", "backtest", "leakage", "verify-bundle", "version"})
"""Those whose `app` holds one command of the same name; the others are groups."""


class _Deferred(TyperCommand):
    """A command or a group whose module is imported when it is named on the command line."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any
    ) -> Any:
        assert self.name is not None
        module = f"billing.cli.{self.name.replace('-', '_')}"
        group = get_group(import_module(module).app)
        group.help, group.no_args_is_help = self.help, True
        named = group.commands[self.name] if self.name in SINGLE else group
        return named.make_context(info_name, args, parent=parent, **extra)


class _Root(TyperGroup):
    """All commands; the one place where an error becomes an exit status."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for name, help_text in COMMANDS.items():
            self.add_command(_Deferred(name, help=help_text))

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002  # the base's signature
        return list(COMMANDS)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except SteelyardError as error:
            report(error, as_json=is_json(ctx))
            raise typer.Exit(exit_status(error)) from None
        except (TyperException, typer.Exit, typer.Abort, BrokenPipeError):
            raise
        except Exception as bug:  # the last handler: a user sees no traceback
            if wants_traceback():
                raise
            report_bug(bug, as_json=is_json(ctx))
            raise typer.Exit(BUG) from None


app = typer.Typer(
    cls=_Root,
    help="Meter, rate, invoice and settle what an AI factory produces.",
    epilog="Example: steelyard rate --plan plan.yaml --usage usage.jsonl",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback()
def root(
    *,
    log_format: Annotated[
        LogFormat, typer.Option(help="How log lines on standard error are written.")
    ] = LogFormat.CONSOLE,
) -> None:
    """Take the options of every command."""
    configure_logs(log_format)
