"""The books of a legal entity: balances, the trial balance, statements, closed periods.

Closing and reversing are the operator's; they are routes of their own below.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

import msgspec
from litestar import Controller, get, post
from litestar.params import FromPath, JSONBody, QueryParameter

from api.auth import BOOK_READERS, OPERATOR_ONLY, SECURITY
from api.bodies import StrictJson
from api.deployment import DeploymentInUse
from api.fields import (
    FromQuery,
    Month,
    MonthQuery,
    Slug,
    SlugQuery,
    Text,
    ToQuery,
    asked_instant,
    book_period,
    ledger_text,
)
from billing.ledger.account import AccountCode
from billing.operations.ledger.accounting_periods import close_period
from billing.operations.ledger.read_books import (
    closed_periods,
    read_balances,
    read_statement,
    trial_balance,
)
from billing.operations.ledger.reverse_transaction import reverse_transaction
from billing.operations.tenancy.tenants import list_tenants, require_legal_entity, require_tenant
from billing.period import parse_month, zone
from billing.store.books import ClosedPeriod

BeforeQuery = Annotated[
    str | None,
    QueryParameter(max_length=40, description="Counts what is effective before this instant."),
]
KnownQuery = Annotated[
    str | None,
    QueryParameter(max_length=40, description="Counts what was posted until this instant."),
]
CurrencyQuery = Annotated[str | None, QueryParameter(pattern=r"^[A-Z]{3}$")]


class AccountBalance(msgspec.Struct, frozen=True, kw_only=True):
    """What an account holds, in major units at 12 decimals; debits are positive."""

    account: AccountCode
    tenant: str | None
    currency: str
    balance: str
    postings: int


class TrialBalanceRow(msgspec.Struct, frozen=True, kw_only=True):
    """All accounts of one code and currency; debits equal credits over all rows of a currency."""

    account: AccountCode
    currency: str
    debit: str
    credit: str


class StatementLine(msgspec.Struct, frozen=True, kw_only=True):
    """One posting; `originated_at` is when it happened, where its own period was closed by then."""

    transaction: UUID
    kind: str
    reference: str
    effective_at: datetime
    originated_at: datetime | None
    posted_at: datetime
    amount: str


class AccountStatement(msgspec.Struct, frozen=True, kw_only=True):
    """An account over a period: opening plus lines is closing."""

    account: AccountCode
    currency: str
    period_start: datetime
    period_end: datetime
    opening: str
    lines: list[StatementLine]
    closing: str


class AccountingPeriod(msgspec.Struct, frozen=True, kw_only=True):
    """A closed month of the books; `digest` is of every balance at its end."""

    period_start: datetime
    period_end: datetime
    closed_at: datetime
    closed_by: str
    digest: str


class PeriodToClose(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A month of the books, which never opens again, and who answers for it."""

    period: Month
    closed_by: Text
    legal_entity: Slug | None = None


class Reversal(msgspec.Struct, frozen=True, kw_only=True):
    """The transaction that undoes another one."""

    transaction: UUID
    reverses: UUID
    effective_at: datetime


class BooksController(Controller):
    """Read the books."""

    path = "/books"
    tags = ("Finance",)
    guards = (BOOK_READERS,)
    security = SECURITY

    @get(
        "/balances",
        operation_id="list_balances",
        summary="List what every account holds, now or as of a time, as it was known then",
        sync_to_thread=True,
    )
    def balances(
        self,
        deployment: DeploymentInUse,
        legal_entity: SlugQuery = None,
        tenant: SlugQuery = None,
        before: BeforeQuery = None,
        known_at: KnownQuery = None,
    ) -> list[AccountBalance]:
        with deployment.as_operator(snapshot=True) as transaction:
            found = read_balances(
                transaction,
                entity=require_legal_entity(transaction, legal_entity),
                tenant=None if tenant is None else require_tenant(transaction, tenant),
                before=None if before is None else asked_instant(before, field="before"),
                known_at=None if known_at is None else asked_instant(known_at, field="known_at"),
                now=deployment.now(),
            )
            slugs = {each.id: each.slug for each in list_tenants(transaction)}
        return [
            AccountBalance(
                account=each.account.code,
                tenant=None if each.account.tenant_id is None else slugs[each.account.tenant_id],
                currency=each.account.currency,
                balance=ledger_text(each.amount),
                postings=each.version,
            )
            for each in found
        ]

    @get(
        "/trial-balance",
        operation_id="show_trial_balance",
        summary="Show the trial balance, now or as of a time",
        sync_to_thread=True,
    )
    def trial(
        self,
        deployment: DeploymentInUse,
        legal_entity: SlugQuery = None,
        before: BeforeQuery = None,
    ) -> list[TrialBalanceRow]:
        with deployment.as_operator(snapshot=True) as transaction:
            found = read_balances(
                transaction,
                entity=require_legal_entity(transaction, legal_entity),
                before=None if before is None else asked_instant(before, field="before"),
                now=deployment.now(),
            )
        return [
            TrialBalanceRow(
                account=row.code,
                currency=row.currency,
                debit=ledger_text(row.debit),
                credit=ledger_text(row.credit),
            )
            for row in trial_balance(found)
        ]

    @get(
        "/statement",
        operation_id="show_account_statement",
        summary="Show every posting on an account; without a period, of the current month",
        sync_to_thread=True,
    )
    def statement(
        self,
        deployment: DeploymentInUse,
        *,
        account: Annotated[str, QueryParameter(max_length=64)],
        legal_entity: SlugQuery = None,
        tenant: SlugQuery = None,
        currency: CurrencyQuery = None,
        period: MonthQuery = None,
        from_: FromQuery = None,
        to_: ToQuery = None,
    ) -> AccountStatement:
        asked = book_period(period, from_, to_, now=deployment.now())
        with deployment.as_operator(snapshot=True) as transaction:
            entity = require_legal_entity(transaction, legal_entity)
            found = read_statement(
                transaction,
                entity=entity,
                code=account,
                currency=currency or entity.currency,
                period=asked,
                tenant=None if tenant is None else require_tenant(transaction, tenant),
            )
        return AccountStatement(
            account=found.account.code,
            currency=found.account.currency,
            period_start=found.period.start,
            period_end=found.period.end,
            opening=ledger_text(found.opening),
            lines=[
                StatementLine(
                    transaction=line.transaction_id,
                    kind=line.kind,
                    reference=line.reference,
                    effective_at=line.effective_at,
                    originated_at=line.originated_at,
                    posted_at=line.posted_at,
                    amount=ledger_text(line.amount),
                )
                for line in found.lines
            ],
            closing=ledger_text(found.closing),
        )

    @get(
        "/periods",
        operation_id="list_closed_periods",
        summary="List closed accounting periods, oldest first",
        sync_to_thread=True,
    )
    def periods(
        self, deployment: DeploymentInUse, legal_entity: SlugQuery = None
    ) -> list[AccountingPeriod]:
        with deployment.as_operator() as transaction:
            entity = require_legal_entity(transaction, legal_entity)
            return [_period(each) for each in closed_periods(transaction, entity=entity)]


class BookkeepingController(Controller):
    """Close periods and reverse transactions."""

    path = "/operator/books"
    tags = ("Operator: books",)
    guards = (OPERATOR_ONLY,)
    security = SECURITY
    dto = StrictJson
    return_dto = None

    @post(
        "/periods/close",
        operation_id="operator_close_period",
        summary="Close the next month of the books for good",
        status_code=200,
        sync_to_thread=True,
    )
    def close(self, deployment: DeploymentInUse, data: JSONBody[PeriodToClose]) -> AccountingPeriod:
        with deployment.as_operator() as transaction:
            entity = require_legal_entity(transaction, data.legal_entity)
            closed = close_period(
                transaction,
                entity=entity,
                period=parse_month(data.period, zone(entity.zone)),
                closed_by=data.closed_by,
                now=deployment.now(),
            )
        return _period(closed)

    @post(
        "/transactions/{transaction_id:uuid}/reverse",
        operation_id="operator_reverse_transaction",
        summary="Undo a transaction by a mirrored one, once",
        status_code=200,
        sync_to_thread=True,
    )
    def reverse(self, deployment: DeploymentInUse, transaction_id: FromPath[UUID]) -> Reversal:
        with deployment.as_operator() as transaction:
            undone = reverse_transaction(transaction, transaction_id, now=deployment.now())
        assert undone.reverses is not None
        return Reversal(
            transaction=undone.id, reverses=undone.reverses, effective_at=undone.effective_at
        )


def _period(closed: ClosedPeriod) -> AccountingPeriod:
    return AccountingPeriod(
        period_start=closed.period.start,
        period_end=closed.period.end,
        closed_at=closed.closed_at,
        closed_by=closed.closed_by,
        digest=closed.digest.hex(),
    )
