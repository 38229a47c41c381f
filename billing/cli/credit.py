"""`steelyard credit`: grant, show, apply, void and expire credit."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated
from uuid import UUID

import typer

from billing.cli import credit_top_ups
from billing.cli.connect import as_operator
from billing.cli.output import (
    JsonFlag,
    amount,
    show_document,
    show_json,
    show_members,
    show_nothing,
    show_table,
    span,
)
from billing.cli.when import (
    FromOption,
    PeriodOption,
    ToOption,
    billing_month,
    chosen_period,
    clock,
    instant,
)
from billing.errors import InvalidInput
from billing.ledger.account import AccountCode
from billing.ledger.credit_grant import CreditScope, GrantKind, Rollover, TaxedAt
from billing.money import LEDGER_DECIMALS, exact_decimal
from billing.operations.credits.apply_credits import apply_credits
from billing.operations.credits.grant_credit import (
    GrantTerms,
    grant_credit,
    void_grant,
)
from billing.operations.credits.lapse_credits import expire_grants, issue_recurring
from billing.operations.credits.read_credits import Statement, read_credit, read_statement
from billing.operations.tenancy.tenants import require_tenant
from billing.settings import read_settings
from billing.store.credits import GrantRow

app = typer.Typer()
app.add_typer(credit_top_ups.app, name="top-up")

GRANT = "steelyard credit grant acme 50.00 --currency USD --source 'welcome' --key welcome-acme"
MS_PER_HOUR = 3_600_000
TenantArgument = Annotated[str, typer.Argument(help="Slug of the tenant.")]


@app.command(epilog=f"Example: {GRANT}")
def grant(
    *,
    tenant: TenantArgument,
    worth: Annotated[str, typer.Argument(metavar="AMOUNT", help="In major units.")],
    currency: Annotated[str, typer.Option(help="ISO code of the currency.")],
    source: Annotated[str, typer.Option(help="What it is given for.")],
    key: Annotated[str, typer.Option(help="Your key: the same key grants once.")],
    paid: Annotated[
        TaxedAt | None, typer.Option(help="The tenant paid for it, and is taxed then.")
    ] = None,
    cost: Annotated[str | None, typer.Option(help="Money paid; the amount if left out.")] = None,
    expires: Annotated[
        str | None, typer.Option(help="A date of the tenant, or an instant.")
    ] = None,
    priority: Annotated[int, typer.Option(help="Lower is used first.")] = 100,
    meter: Annotated[list[str] | None, typer.Option(help="Only for this meter.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="Only for this model.")] = None,
    plan: Annotated[list[str] | None, typer.Option(help="Only for this plan.")] = None,
    monthly: Annotated[bool, typer.Option(help="Again in every billing period.")] = False,
    rollover: Annotated[
        str | None, typer.Option(help="Share of what is left that goes on once, such as 0.5.")
    ] = None,
    rollover_max: Annotated[
        str | None, typer.Option(help="At most this amount goes on; without a share, of all.")
    ] = None,
    commitment: Annotated[bool, typer.Option(help="Its use counts toward commitments.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Grant credit to a tenant."""
    with as_operator() as connection:
        owner = require_tenant(connection, tenant)
        ends = instant(expires, in_zone=owner.zone, field="expires") if expires else None
        terms = GrantTerms(
            currency=currency,
            amount=exact_decimal(worth, field="amount", decimals_max=LEDGER_DECIMALS),
            kind=GrantKind.PAID if paid else GrantKind.PROMOTIONAL,
            taxed_at=paid,
            paid_from=AccountCode.BANK if paid else None,
            cost_basis=None if cost is None else exact_decimal(cost, field="cost"),
            priority=priority,
            expires_at=ends,
            scope=CreditScope(
                meters=frozenset(meter) if meter else None,
                models=frozenset(model) if model else None,
                plans=frozenset(plan) if plan else None,
            ),
            rollover=_rollover(rollover, rollover_max),
            counts_toward_commitment=commitment,
            recurs=monthly,
            source=source,
        )
        row = grant_credit(connection, tenant=owner, terms=terms, idempotency_key=key, now=clock())
    _show_grant(row, as_json=as_json)


@app.command("list", epilog="Example: steelyard credit list acme")
def list_all(*, tenant: TenantArgument, as_json: JsonFlag = False) -> None:
    """Show a tenant's balances, grants and open holds."""
    with as_operator() as connection:
        view = read_credit(connection, tenant=require_tenant(connection, tenant), now=clock())
    if as_json:
        show_json(
            {
                "balances": [
                    {"currency": each.currency, "available": each.available, "held": each.held}
                    for each in view.balances
                ],
                "grants": [grant_document(row) for row in view.grants],
                "holds": [
                    {"id": each.id, "limit": each.limit, "amount": each.amount}
                    for each in view.holds
                ],
            }
        )
        return
    if not view.grants:
        show_nothing("No credit yet.", then=GRANT)
        return
    show_table(
        "Available",
        ("currency", "#available", "#held", "#not yet applied"),
        [
            (each.currency, amount(each.available), amount(each.held), amount(each.spent))
            for each in view.balances
        ],
    )
    show_table(
        "Grants",
        ("id", "kind", "#amount", "#used", "#expired", "#remaining", "expires", "source"),
        [
            (
                row.grant.id,
                row.grant.kind.value,
                amount(row.grant.amount, row.grant.currency),
                amount(row.used),
                amount(row.expired),
                amount(row.remaining),
                row.grant.expires_at,
                row.grant.source,
            )
            for row in view.grants
        ],
    )


@app.command(epilog="Example: steelyard credit void 0199a5f0-0000-7000-8000-000000000000")
def void(
    *,
    grant: Annotated[str, typer.Argument(help="Id of the grant.")],
    as_json: JsonFlag = False,
) -> None:
    """Take back what remains of a grant; a monthly one is not granted again."""
    try:
        grant_id = UUID(grant)
    except ValueError:
        raise InvalidInput(
            "not an id", field="grant", remedy="see `steelyard credit list`"
        ) from None
    with as_operator() as connection:
        row = void_grant(connection, grant_id=grant_id, now=clock())
    _show_grant(row, as_json=as_json)


@app.command(epilog="Example: steelyard credit apply acme --period 2026-11")
def apply(
    *,
    tenant: TenantArgument,
    period: Annotated[str, typer.Option(metavar="YYYY-MM", help="Billing period.")],
    as_json: JsonFlag = False,
) -> None:
    """Pay what a billing period has accrued with credit."""
    with as_operator() as connection:
        owner = require_tenant(connection, tenant)
        drawn = apply_credits(
            connection, tenant=owner, period=billing_month(period, owner), now=clock()
        )
    paid = {
        code: sum((each.amount for each in one.applications), Decimal(0))
        for code, one in drawn.items()
    }
    if as_json:
        show_json({"applied": paid})
    elif not paid:
        show_nothing("No credit yet.", then=GRANT)
    else:
        show_members("Applied now", [(code, amount(total)) for code, total in paid.items()])


@app.command(epilog="Example: steelyard credit statement acme --currency USD --period 2026-11")
def statement(
    *,
    tenant: TenantArgument,
    currency: Annotated[str, typer.Option(help="ISO code of the currency.")],
    period: PeriodOption = None,
    since: FromOption = None,
    until: ToOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Every movement of a tenant's credit; without a period, of the current billing period."""
    now: datetime = clock()
    with as_operator() as connection:
        owner = require_tenant(connection, tenant)
        found = read_statement(
            connection,
            tenant=owner,
            currency_code=currency,
            period=chosen_period(
                period=period,
                since=since,
                until=until,
                in_zone=owner.zone,
                tenant=owner,
                otherwise=owner.billing_period(now),
            ),
        )
    if as_json:
        show_json(_statement_document(found))
    else:
        _show_statement(found, owner.zone)


@app.command(epilog="Example: steelyard credit expire")
def expire(as_json: JsonFlag = False) -> None:
    """Expire grants past their end and its grace, and grant again what recurs."""
    now: datetime = clock()
    grace_ms = read_settings().credit_grace_hours * MS_PER_HOUR
    with as_operator() as connection:
        issued = issue_recurring(connection, now=now)
    # A transaction of its own: it locks credit of its own choice.
    with as_operator() as connection:
        expired = expire_grants(connection, now=now, grace_ms=grace_ms)
    document = {"expired": len(expired), "granted_again": len(issued)}
    show_document("Credit", document, as_json=as_json)


def grant_document(row: GrantRow) -> dict[str, object]:
    """A grant for machines."""
    grant = row.grant
    return {
        "id": grant.id,
        "kind": grant.kind.value,
        "currency": grant.currency,
        "amount": grant.amount,
        "used": row.used,
        "expired": row.expired,
        "remaining": row.remaining,
        "priority": grant.priority,
        "starts_at": grant.starts_at,
        "expires_at": grant.expires_at,
        "source": grant.source,
    }


def _rollover(share: str | None, most: str | None) -> Rollover | None:
    if share is None and most is None:
        return None
    return Rollover(
        fraction=Decimal(1) if share is None else exact_decimal(share, field="rollover"),
        maximum=None
        if most is None
        else exact_decimal(most, field="rollover_max", decimals_max=LEDGER_DECIMALS),
    )


def _show_grant(row: GrantRow, *, as_json: bool) -> None:
    show_document("Grant", grant_document(row), as_json=as_json)


def _statement_document(found: Statement) -> dict[str, object]:
    return {
        "currency": found.currency,
        "opening": found.opening,
        "movements": [
            {
                "grant": str(row.grant_id),
                "kind": row.kind,
                "amount": row.amount,
                "recorded_at": row.recorded_at,
                "line": row.line_key,
                "day": None if row.day is None else row.day.isoformat(),
                "invoice": None if row.invoice_id is None else str(row.invoice_id),
                "source": row.source,
            }
            for row in found.movements
        ],
        "closing": found.closing,
    }


def _show_statement(found: Statement, zone_name: str) -> None:
    show_table(
        f"Credit ({found.currency}), {span(found.period, zone_name)}",
        ("recorded", "kind", "line", "day", "source", "#amount"),
        [
            ("", "opening", "", "", "", amount(found.opening)),
            *(
                (
                    row.recorded_at,
                    row.kind,
                    row.line_key,
                    None if row.day is None else row.day.isoformat(),
                    row.source,
                    amount(row.amount),
                )
                for row in found.movements
            ),
        ],
        footer=("", "closing", "", "", "", amount(found.closing)),
    )
