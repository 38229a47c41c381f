"""`steelyard credit top-up`: policies of automatic top-ups, and how each top-up ended."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated
from uuid import UUID

import typer

from billing.cli.connect import as_operator
from billing.cli.output import JsonFlag, amount, show_document, show_json, show_members, show_table
from billing.cli.when import clock
from billing.errors import InvalidInput
from billing.ledger.account import AccountCode
from billing.ledger.credit_grant import PAID_FROM, TaxedAt
from billing.ledger.top_up import TopUp, TopUpPolicy
from billing.money import LEDGER_DECIMALS, exact_decimal
from billing.operations.credits.top_ups import (
    decline_top_up,
    list_top_ups,
    pay_top_up,
    set_top_up_policy,
    show_top_up_policy,
)
from billing.operations.tenancy.tenants import require_tenant

app = typer.Typer(help="Automatic top-ups: set a policy, show, confirm, decline.")

MS_PER_MINUTE = 60_000
TenantArgument = Annotated[str, typer.Argument(help="Slug of the tenant.")]
CurrencyOption = Annotated[str, typer.Option(help="ISO code of the currency.")]
IdArgument = Annotated[str, typer.Argument(metavar="ID", help="Id of the top-up.")]


@app.command(
    "set",
    epilog="Example: steelyard credit top-up set acme --currency USD --below 20 --amount 100 "
    "--most 300",
)
def set_policy(
    *,
    tenant: TenantArgument,
    currency: CurrencyOption,
    below: Annotated[str, typer.Option(help="Top up once less than this is available.")],
    worth: Annotated[str, typer.Option("--amount", help="Of one top-up, in major units.")],
    most: Annotated[str, typer.Option(help="In any window, at most this much.")],
    times: Annotated[int, typer.Option(min=0, help="In any window, at most so often.")] = 3,
    window: Annotated[int, typer.Option(min=1, help="The window, in minutes.")] = 1440,
    cool_down: Annotated[int, typer.Option(min=0, help="Minutes after a declined one.")] = 60,
    as_json: JsonFlag = False,
) -> None:
    """Set when a tenant's credit is topped up, from now on; --times 0 ends it."""
    policy = TopUpPolicy(
        threshold=_amount(below, "below"),
        amount=_amount(worth, "amount"),
        window_ms=window * MS_PER_MINUTE,
        count_max=times,
        amount_max=_amount(most, "most"),
        cool_down_ms=cool_down * MS_PER_MINUTE,
    )
    with as_operator() as connection:
        set_top_up_policy(
            connection,
            tenant=require_tenant(connection, tenant),
            currency_code=currency,
            policy=policy,
            now=clock(),
        )
    show_document("Top-up policy", _policy_document(policy), as_json=as_json)


@app.command(epilog="Example: steelyard credit top-up show acme --currency USD")
def show(*, tenant: TenantArgument, currency: CurrencyOption, as_json: JsonFlag = False) -> None:
    """Show a tenant's policy and the top-ups that it requested, newest first."""
    with as_operator() as connection:
        owner = require_tenant(connection, tenant)
        policy = show_top_up_policy(connection, tenant=owner, currency_code=currency)
        rows = list_top_ups(connection, tenant=owner, currency_code=currency)
    if as_json:
        show_json({"policy": _policy_document(policy), "top_ups": [_document(row) for row in rows]})
        return
    show_members("Top-up policy", _policy_document(policy).items())
    show_table(
        "Top-ups",
        ("id", "state", "#amount", "requested", "resolved"),
        [
            (row.id, row.state, amount(row.amount), row.requested_at, row.resolved_at)
            for row in rows
        ],
    )


@app.command(epilog="Example: steelyard credit top-up paid 0199a5f0-0000-7000-8000-000000000000")
def paid(
    *,
    top_up: IdArgument,
    taxed: Annotated[TaxedAt, typer.Option(help="When it is taxed.")] = TaxedAt.PURCHASE,
    into: Annotated[AccountCode, typer.Option(help="Where its money is.")] = AccountCode.BANK,
    as_json: JsonFlag = False,
) -> None:
    """Grant a requested top-up whose money was received, once."""
    if into not in PAID_FROM:
        raise InvalidInput(
            "not an account of money", field="into", remedy=f"use {' or '.join(sorted(PAID_FROM))}"
        )
    with as_operator() as connection:
        row = pay_top_up(
            connection, top_up_id=_id(top_up), taxed_at=taxed, paid_from=into, now=clock()
        )
    document = {"grant": str(row.grant.id), "amount": row.grant.amount, "remaining": row.remaining}
    show_document("Granted", document, as_json=as_json)


@app.command(
    epilog="Example: steelyard credit top-up declined 0199a5f0-0000-7000-8000-000000000000"
)
def declined(*, top_up: IdArgument, as_json: JsonFlag = False) -> None:
    """Record that a top-up could not be collected; the cool-down of its policy begins."""
    with as_operator() as connection:
        decline_top_up(connection, top_up_id=_id(top_up), now=clock())
    if as_json:
        show_json({"declined": top_up})
    else:
        show_members("Top-up", [("declined", top_up)])


def _amount(text: str, field: str) -> Decimal:
    return exact_decimal(text, field=field, decimals_max=LEDGER_DECIMALS)


def _id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise InvalidInput(
            "not an id", field="top_up", remedy="see `steelyard credit top-up show`"
        ) from None


def _policy_document(policy: TopUpPolicy) -> dict[str, object]:
    return {
        "threshold": policy.threshold,
        "amount": policy.amount,
        "window_ms": policy.window_ms,
        "count_max": policy.count_max,
        "amount_max": policy.amount_max,
        "cool_down_ms": policy.cool_down_ms,
    }


def _document(row: TopUp) -> dict[str, object]:
    return {
        "id": str(row.id),
        "amount": row.amount,
        "state": row.state.value,
        "requested_at": row.requested_at,
        "resolved_at": row.resolved_at,
    }
