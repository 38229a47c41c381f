"""Read the books: balances, trial balance, statements of accounts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, localcontext

import sqlalchemy as sa

from billing.errors import InvalidInput, NotFound
from billing.ledger.account import Account, AccountCode
from billing.money import EXACT
from billing.period import Period
from billing.store import books as store
from billing.store import ledger as ledger_store
from billing.store.books import Balance, ClosedPeriod, StatementLine
from billing.tenancy.tenant import LegalEntity, Tenant


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """An account over a period: opening plus lines is closing."""

    account: Account
    period: Period
    opening: Decimal
    lines: tuple[StatementLine, ...]
    closing: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialBalanceRow:
    """All accounts of one code and currency; one of the two sides is zero."""

    code: AccountCode
    currency: str
    debit: Decimal
    credit: Decimal


def read_balances(
    connection: sa.Connection,
    *,
    entity: LegalEntity,
    tenant: Tenant | None = None,
    before: datetime | None = None,
    known_at: datetime | None = None,
    now: datetime,
) -> list[Balance]:
    """Balances of a legal entity's accounts, of one tenant only if one is named.

    Args:
        before: what is effective before it counts; None: everything.
        known_at: what was posted until then counts; None: everything posted until now.
    """
    tenant_id = None if tenant is None else tenant.id
    if before is None and known_at is None:
        return store.balances(connection, legal_entity_id=entity.id, tenant_id=tenant_id)
    return store.balances_as_of(
        connection,
        legal_entity_id=entity.id,
        before=before or now,
        known_at=known_at or now,
        tenant_id=tenant_id,
    )


def trial_balance(balances: list[Balance]) -> list[TrialBalanceRow]:
    """Balances summed by code and currency; debits equal credits in every currency."""
    sums: dict[tuple[AccountCode, str], Decimal] = {}
    with localcontext(EXACT):
        for each in balances:
            key = (each.account.code, each.account.currency)
            sums[key] = sums.get(key, Decimal(0)) + each.amount
    return [
        TrialBalanceRow(
            code=code,
            currency=currency,
            debit=max(total, Decimal(0)),
            credit=max(EXACT.minus(total), Decimal(0)),  # of zero, not a zero below zero
        )
        for (code, currency), total in sorted(sums.items())
    ]


def read_statement(
    connection: sa.Connection,
    *,
    entity: LegalEntity,
    code: str,
    currency: str,
    period: Period,
    tenant: Tenant | None = None,
) -> Statement:
    """An account's opening balance, its postings in a period, and its closing balance.

    Raises:
        InvalidInput: no such code, or a tenant is named where none belongs, or the reverse.
        NotFound: nothing was ever posted on the account.
    """
    account = _named_account(entity, code, currency, tenant)
    account_id = ledger_store.account_id(connection, account)
    if account_id is None:
        raise NotFound(
            "nothing was posted on this account",
            field="account",
            remedy="list the balances, and name one of their accounts and currencies",
        )
    opening = store.opening_balance(
        connection, account_id, legal_entity_id=entity.id, before=period.start
    )
    lines = tuple(store.statement_lines(connection, account_id, period=period))
    with localcontext(EXACT):
        closing = sum((line.amount for line in lines), opening)
    return Statement(account=account, period=period, opening=opening, lines=lines, closing=closing)


def closed_periods(connection: sa.Connection, *, entity: LegalEntity) -> list[ClosedPeriod]:
    """The accounting periods of a legal entity that are closed, oldest first."""
    return store.closed_periods(connection, entity.id)


def _named_account(entity: LegalEntity, text: str, currency: str, tenant: Tenant | None) -> Account:
    try:
        code = AccountCode(text)
    except ValueError:
        raise InvalidInput(
            "unknown account", field="account", remedy=f"use one of {', '.join(AccountCode)}"
        ) from None
    if code.per_tenant != (tenant is not None):
        remedy = "name a tenant" if code.per_tenant else "leave the tenant out"
        raise InvalidInput("whose account?", field="tenant", remedy=remedy)
    return Account(
        legal_entity_id=entity.id,
        code=code,
        tenant_id=None if tenant is None else tenant.id,
        currency=currency,
    )
