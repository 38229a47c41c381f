"""`steelyard books`: balances, statements, the trial balance, closing and reversals."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

import typer

from billing.cli.books_exchange import EntityOption, exchange
from billing.cli.connect import as_operator
from billing.cli.documents import Json, period_document
from billing.cli.output import (
    JsonFlag,
    amount,
    show_json,
    show_members,
    show_nothing,
    show_table,
    show_text,
    span,
)
from billing.cli.when import (
    FromOption,
    PeriodOption,
    ToOption,
    chosen_period,
    clock,
    instant,
)
from billing.errors import InvalidInput
from billing.exports.csv_text import instant_text
from billing.operations.ledger.accounting_periods import close_period
from billing.operations.ledger.read_books import (
    Statement,
    closed_periods,
    read_balances,
    read_statement,
    trial_balance,
)
from billing.operations.ledger.reverse_transaction import reverse_transaction
from billing.operations.tenancy.tenants import list_tenants, require_legal_entity, require_tenant
from billing.period import parse_month, zone
from billing.store.books import Balance, ClosedPeriod

app = typer.Typer()
app.command(
    epilog="Example: steelyard books exchange --sold 100.00 USD --bought 92.10 EUR --rate 0.921 "
    "--at 2026-11-20 --key fx-20"
)(exchange)

TenantOption = Annotated[str | None, typer.Option(help="Only this tenant's accounts.")]
BeforeOption = Annotated[
    str | None,
    typer.Option("--before", metavar="DATE", help="Count only what is effective before it."),
]
KnownOption = Annotated[
    str | None,
    typer.Option("--known-at", metavar="DATE", help="Count only what was posted until then."),
]


@app.command("balances", epilog="Example: steelyard books balances --before 2026-12-01")
def show_balances(
    *,
    entity: EntityOption = None,
    tenant: TenantOption = None,
    before: BeforeOption = None,
    known_at: KnownOption = None,
    as_json: JsonFlag = False,
) -> None:
    """What every account holds, now or as of a time, as it was known then. Debits are positive."""
    found, names = _balances(entity, tenant, before, known_at)
    if as_json:
        show_json({"balances": [_balance_document(each, names) for each in found]})
    elif not found:
        show_nothing("Nothing was posted yet.", then="steelyard invoice issue --help")
    else:
        show_table(
            "Balances",
            ("account", "tenant", "currency", "#balance"),
            [
                (
                    each.account.code.value,
                    names.get(each.account.tenant_id),
                    each.account.currency,
                    amount(each.amount),
                )
                for each in found
            ],
        )


@app.command("trial-balance", epilog="Example: steelyard books trial-balance --before 2026-12-01")
def show_trial_balance(
    *,
    entity: EntityOption = None,
    before: BeforeOption = None,
    known_at: KnownOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Debits and credits by account and currency; both columns have one sum per currency."""
    found, _ = _balances(entity, None, before, known_at)
    rows = trial_balance(found)
    if as_json:
        show_json(
            {
                "trial_balance": [
                    {
                        "account": row.code.value,
                        "currency": row.currency,
                        "debit": row.debit,
                        "credit": row.credit,
                    }
                    for row in rows
                ]
            }
        )
        return
    show_table(
        "Trial balance",
        ("account", "currency", "#debit", "#credit"),
        [(row.code.value, row.currency, amount(row.debit), amount(row.credit)) for row in rows],
    )


@app.command(
    epilog="Example: steelyard books statement accounts_receivable --tenant acme --period 2026-11"
)
def statement(
    *,
    account: Annotated[str, typer.Argument(help="Code of the account, such as bank.")],
    entity: EntityOption = None,
    tenant: TenantOption = None,
    currency: Annotated[
        str | None, typer.Option(help="ISO code; that of the legal entity if left out.")
    ] = None,
    period: PeriodOption = None,
    since: FromOption = None,
    until: ToOption = None,
    as_json: JsonFlag = False,
) -> None:
    """One account over a period: opening balance, every posting, closing balance."""
    with as_operator() as connection:
        owner = require_legal_entity(connection, entity)
        found = read_statement(
            connection,
            entity=owner,
            code=account,
            currency=currency or owner.currency,
            period=chosen_period(period=period, since=since, until=until, in_zone=owner.zone),
            tenant=None if tenant is None else require_tenant(connection, tenant),
        )
    if as_json:
        show_json(_statement_document(found))
    else:
        _show_statement(found, owner.zone)


@app.command(epilog="Example: steelyard books periods")
def periods(*, entity: EntityOption = None, as_json: JsonFlag = False) -> None:
    """List the accounting periods that are closed, oldest first."""
    with as_operator() as connection:
        owner = require_legal_entity(connection, entity)
        closed = closed_periods(connection, entity=owner)
    if as_json:
        show_json({"periods": [_closed_document(each, owner.slug) for each in closed]})
    elif not closed:
        show_nothing("No period is closed yet.", then="steelyard books close --period YYYY-MM")
    else:
        show_table(
            "Closed periods",
            ("period", "closed", "by", "digest"),
            [
                (span(each.period, owner.zone), each.closed_at, each.closed_by, each.digest.hex())
                for each in closed
            ],
        )


@app.command(epilog="Example: steelyard books close --period 2026-11 --by 'A. Controller' --yes")
def close(
    *,
    period: Annotated[str, typer.Option(metavar="YYYY-MM", help="A month of the books.")],
    by: Annotated[str, typer.Option(metavar="NAME", help="Who answers for it.")],
    entity: EntityOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it: a closed period never opens.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Close an accounting period: nothing posts into it again; what is late goes to the next."""
    if not yes:
        raise InvalidInput("a closed period never opens again", field="yes", remedy="add --yes")
    with as_operator() as connection:
        owner = require_legal_entity(connection, entity)
        closed = close_period(
            connection,
            entity=owner,
            period=parse_month(period, zone(owner.zone)),
            closed_by=by,
            now=clock(),
        )
    document = _closed_document(closed, owner.slug)
    if as_json:
        show_json(document)
    else:
        show_members("Closed", {**document, "period": span(closed.period, owner.zone)}.items())


@app.command(epilog="Example: steelyard books reverse 019a8f0e-5c1b-7000-8000-000000000001")
def reverse(
    *,
    transaction: Annotated[UUID, typer.Argument(help="Id of the transaction, as exports show it.")],
    as_json: JsonFlag = False,
) -> None:
    """Undo a transaction by a mirrored one, once."""
    with as_operator() as connection:
        undone = reverse_transaction(connection, transaction, now=clock())
    if as_json:
        show_json(
            {
                "transaction": str(undone.id),
                "reverses": str(undone.reverses),
                "effective_at": instant_text(undone.effective_at),
            }
        )
    else:
        show_text(f"Reversed by transaction {undone.id}.")


def _closed_document(closed: ClosedPeriod, entity: str) -> Json:
    return {
        "legal_entity": entity,
        "period": period_document(closed.period),
        "closed_at": instant_text(closed.closed_at),
        "closed_by": closed.closed_by,
        "digest": closed.digest.hex(),
    }


def _balances(
    entity: str | None, tenant: str | None, before: str | None, known_at: str | None
) -> tuple[list[Balance], dict[int | None, str]]:
    with as_operator() as connection:
        owner = require_legal_entity(connection, entity)
        found = read_balances(
            connection,
            entity=owner,
            tenant=None if tenant is None else require_tenant(connection, tenant),
            before=_asked(before, owner.zone, field="before"),
            known_at=_asked(known_at, owner.zone, field="known_at"),
            now=clock(),
        )
        names: dict[int | None, str] = {each.id: each.slug for each in list_tenants(connection)}
    return found, names


def _asked(text: str | None, in_zone: str, *, field: str) -> datetime | None:
    return None if text is None else instant(text, in_zone=in_zone, field=field)


def _balance_document(balance: Balance, names: dict[int | None, str]) -> Json:
    return {
        "account": balance.account.code.value,
        "tenant": names.get(balance.account.tenant_id),
        "currency": balance.account.currency,
        "balance": balance.amount,
        "postings": balance.version,
    }


def _statement_document(found: Statement) -> Json:
    return {
        "account": found.account.code.value,
        "currency": found.account.currency,
        "period": period_document(found.period),
        "opening": found.opening,
        "lines": [
            {
                "transaction": str(line.transaction_id),
                "kind": line.kind,
                "reference": line.reference,
                "effective_at": line.effective_at,
                "originated_at": line.originated_at,
                "posted_at": line.posted_at,
                "amount": line.amount,
            }
            for line in found.lines
        ],
        "closing": found.closing,
    }


def _show_statement(found: Statement, zone_name: str) -> None:
    account = found.account
    show_table(
        f"{account.code.value} ({account.currency}), {span(found.period, zone_name)}",
        ("effective", "kind", "reference", "#amount"),
        [
            ("", "opening", "", amount(found.opening)),
            *(
                (line.effective_at, line.kind, line.reference, amount(line.amount))
                for line in found.lines
            ),
        ],
        footer=("", "closing", "", amount(found.closing)),
    )
