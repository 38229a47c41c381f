"""`steelyard books exchange`: money of one currency given for money of another."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated

import typer

from billing.cli.connect import as_operator
from billing.cli.output import JsonFlag, show_json, show_text
from billing.cli.when import clock, instant
from billing.errors import InvalidInput
from billing.exports.csv_text import instant_text
from billing.ledger.cash_template import RATE_DECIMALS
from billing.money import Money, currency, exact_decimal, from_minor, to_minor
from billing.operations.ledger.exchange_currency import exchange_currency
from billing.operations.tenancy.tenants import require_legal_entity

MoneyOption = tuple[str, str]
EntityOption = Annotated[
    str | None,
    typer.Option("--entity", help="Legal entity; may be left out where there is only one."),
]


def _money(given: MoneyOption, *, field: str) -> Money:
    text, code = given
    of = currency(code, field=field)
    exact = exact_decimal(text, field=field)
    minor = to_minor(exact, of)
    if from_minor(minor, of) != exact:
        raise InvalidInput(
            "this currency has fewer decimals",
            field=field,
            remedy="leave the digits out that it has not",
        )
    return Money(minor=minor, currency=of)


def exchange(
    *,
    sold: Annotated[MoneyOption, typer.Option(metavar="AMOUNT CODE", help="Money given.")],
    bought: Annotated[MoneyOption, typer.Option(metavar="AMOUNT CODE", help="Money received.")],
    rate: Annotated[str, typer.Option(help="Units of the bought currency for one sold.")],
    at: Annotated[str, typer.Option(metavar="DATE", help="When it happened.")],
    key: Annotated[str, typer.Option(help="Names this exchange: it is posted once.")],
    account: Annotated[str, typer.Option(help="bank or stripe_clearing.")] = "bank",
    entity: EntityOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Record money of one currency given for money of another."""
    with as_operator() as connection:
        owner = require_legal_entity(connection, entity)
        posted, is_new = exchange_currency(
            connection,
            entity=owner,
            account=account,
            sold=_money(sold, field="sold"),
            bought=_money(bought, field="bought"),
            rate=Decimal(exact_decimal(rate, field="rate", decimals_max=RATE_DECIMALS)),
            key=key,
            at=instant(at, in_zone=owner.zone, field="at"),
            now=clock(),
        )
    if as_json:
        show_json(
            {
                "posted": is_new,
                "effective_at": instant_text(posted.effective_at),
                "rate": str(posted.fx_rate),
            }
        )
    else:
        show_text("Posted." if is_new else "Posted before; nothing changed.")
