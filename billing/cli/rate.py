"""`steelyard rate`: price recorded usage with a plan file, without a database."""

from __future__ import annotations

import io
from decimal import Decimal, localcontext
from typing import Annotated

import typer

from billing.cli.documents import rated_line_document, unrated_document
from billing.cli.failure import REFUSED, refused_in
from billing.cli.output import JsonFlag, amount, show_json, show_nothing, show_table, show_text
from billing.cli.sources import STDIN, read_bytes, text_of
from billing.errors import InvalidInput
from billing.money import EXACT
from billing.planfiles.plan_file import read_plan
from billing.planfiles.usage_file import read_usage
from billing.rating.line import Rating
from billing.rating.pipeline import rate as rate_usage

app = typer.Typer()


@app.command(
    epilog="Example: steelyard rate --plan plan.yaml --usage usage.jsonl --json\n\n"
    'A line of usage: {"model": "sim-small", "input": 900, "output": 1200} '
    'or {"meter": "requests", "quantity": "3"}'
)
def rate(
    *,
    plan: Annotated[str, typer.Option(metavar="FILE", help="Plan as YAML; - is standard input.")],
    usage: Annotated[
        str, typer.Option(metavar="FILE", help="Usage as JSON Lines; - is standard input.")
    ],
    as_json: JsonFlag = False,
) -> None:
    """Rate a billing period's usage: every line with its arithmetic, as an invoice would have it.

    Exits with 1 if some usage has no price.
    """
    if plan == usage == STDIN:
        raise InvalidInput(
            "plan and usage cannot both be standard input", field="usage", remedy="name a file"
        )
    with refused_in(plan):
        price_plan = read_plan(read_bytes(plan, field="plan"))
    with refused_in(usage):
        text = text_of(read_bytes(usage, field="usage"), field="usage")
        quantities = read_usage(io.StringIO(text))
    rating = rate_usage(price_plan, quantities)
    if as_json:
        show_json(
            {
                "plan": price_plan.slug,
                "currency": rating.currency.code,
                "lines": [rated_line_document(line) for line in rating.lines],
                "total": f"{_total(rating):f}",
                "unrated": [unrated_document(row) for row in rating.unrated],
            }
        )
    else:
        _show(rating)
    if rating.unrated:
        raise typer.Exit(REFUSED)


def _show(rating: Rating) -> None:
    if not rating.lines and not rating.unrated:
        show_nothing("Nothing was used and nothing is due.", then="add usage to the file")
        return
    code = rating.currency.code
    show_table(
        f"Rated lines ({code})",
        ("line", "description", "#quantity", "unit", "#exact", "#amount"),
        [
            (
                line.key,
                line.description,
                line.quantity,
                line.unit,
                line.exact,
                amount(line.amount.major()),
            )
            for line in rating.lines
        ],
        footer=("total", "", "", "", "", amount(_total(rating))),
    )
    for line in rating.lines:
        show_text(line.key, style="bold")
        for step in line.explanation:
            show_text(f"  {step.text}")
    if rating.unrated:
        show_table(
            "Usage that no charge prices: it blocks the invoice",
            ("meter", "model", "#quantity"),
            [(row.meter, row.model, row.quantity) for row in rating.unrated],
        )


def _total(rating: Rating) -> Decimal:
    with localcontext(EXACT):
        return sum((line.amount.major() for line in rating.lines), Decimal(0))
