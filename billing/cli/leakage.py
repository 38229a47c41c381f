"""`steelyard leakage`: what engines counted beside what the ledger has."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

import typer

from billing.cli.connect import as_operator
from billing.cli.documents import period_document
from billing.cli.output import JsonFlag, show_json, show_note, show_nothing, show_table, span
from billing.cli.when import FromOption, PeriodOption, ToOption, ZoneOption, chosen_period, clock
from billing.metering.leakage import Reconciled, leakage
from billing.operations.leakage.read_leakage import (
    LeakageReport,
    leakage_percent,
    read_leakage,
)
from billing.period import Period

app = typer.Typer()

DAY = timedelta(days=1)


@app.command("leakage", epilog="Example: steelyard leakage --period 2026-11")
def show(
    *,
    period: PeriodOption = None,
    since: FromOption = None,
    until: ToOption = None,
    zone: ZoneOption = "UTC",
    as_json: JsonFlag = False,
) -> None:
    """Show, by hour, what engines counted and what was booked; the last day's by default.

    Attempts that bill nothing explain some of what is missing: nobody knows their tokens.
    """
    now = clock()
    chosen = chosen_period(
        period=period,
        since=since,
        until=until,
        in_zone=zone,
        otherwise=Period(start=now - DAY, end=now),
    )
    with as_operator(snapshot=True) as connection:
        report = read_leakage(connection, period=chosen)
    if as_json:
        show_json(
            {
                "period": period_document(chosen),
                "leakage_percent": leakage_percent(report.overall),
                "hours": [_document(row) for row in report.rows],
            }
        )
    elif not report.rows:
        show_nothing(
            "No hour of these was reconciled.",
            then="steelyard up, with engines that tell their counters at metrics_url",
        )
    else:
        _show(report, chosen, zone)


def _show(report: LeakageReport, period: Period, zone: str) -> None:
    show_table(
        f"Leakage, {span(period, zone)}",
        (
            "hour", "backend", "#engine prompt", "#engine output", "#ledger prompt",
            "#ledger output", "#attempts not billed", "#restarts", "#leakage %", "reasons",
            "complete",
        ),
        [
            (
                row.hour, row.backend, row.engine_prompt, row.engine_generation, row.ledger_prompt,
                row.ledger_generation, row.scrap_attempts, row.restarts,
                leakage_percent(leakage([row])), _told(row.reasons), row.complete,
            )
            for row in report.rows
        ],
    )  # fmt: skip
    overall = leakage_percent(report.overall)
    if overall is None:
        show_note("No hour is complete yet, so there is no figure over all of them.")
    else:
        show_note(f"Leakage of the complete hours together: {overall} %.")


def _told(reasons: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} {requests}" for reason, requests in reasons.items())


def _document(row: Reconciled) -> dict[str, object]:
    return {
        "hour": row.hour,
        "backend": row.backend,
        "engine_prompt_tokens": row.engine_prompt,
        "engine_output_tokens": row.engine_generation,
        "ledger_prompt_tokens": row.ledger_prompt,
        "ledger_output_tokens": row.ledger_generation,
        "leaked_tokens": row.leaked,
        "attempts_not_billed": row.scrap_attempts,
        "reasons": dict(row.reasons),
        "restarts": row.restarts,
        "leakage_percent": leakage_percent(leakage([row])),
        "journals_behind": row.journals_behind,
        "complete": row.complete,
    }
