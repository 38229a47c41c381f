"""Money of one currency given for money of another, on one of the operator's own accounts."""

from __future__ import annotations

import re
from datetime import datetime
from decimal import Decimal

import sqlalchemy as sa

from billing.errors import InvalidInput
from billing.ledger.account import AccountCode
from billing.ledger.cash_template import Exchange, fx_exchanged
from billing.ledger.posting import Transaction
from billing.money import Money
from billing.operations.minting import mint_id
from billing.store import ledger as store
from billing.tenancy.tenant import LegalEntity

HOLDING = (AccountCode.BANK, AccountCode.STRIPE_CLEARING)
"""Accounts that hold money of several currencies."""

_KEY = re.compile(r"[A-Za-z0-9_.:-]{1,128}", re.ASCII)


def exchange_currency(
    connection: sa.Connection,
    *,
    entity: LegalEntity,
    account: str,
    sold: Money,
    bought: Money,
    rate: Decimal,
    key: str,
    at: datetime,
    now: datetime,
) -> tuple[Transaction, bool]:
    """Post an exchange as two pairs through the FX accounts: each currency sums to zero by itself.

    Args:
        rate: units of the bought currency for one of the sold one.
        key: names this exchange for ever; the same one again is posted once.

    Returns:
        the transaction, and whether it was posted now.

    Raises:
        InvalidInput: an account that holds no money, a rate that the amounts do not follow from,
            an instant that has not come.
        IdempotencyConflict: the key was used for another exchange.
    """
    code = next((each for each in HOLDING if each.value == account), None)
    if code is None:
        raise InvalidInput(
            "this account holds no money",
            field="account",
            remedy=f"one of {', '.join(each.value for each in HOLDING)}",
        )
    if not _KEY.fullmatch(key):
        raise InvalidInput(
            "a key has 1 to 128 letters, digits, dots, dashes, colons or underscores",
            field="key",
            remedy="use a reference of the exchange, like fx-20",
        )
    if at > now:
        raise InvalidInput("an exchange has happened", field="at", remedy="give its own time")
    exchange = Exchange(legal_entity_id=entity.id, code=code, sold=sold, bought=bought, rate=rate)
    posted = Transaction(
        id=mint_id(now),
        legal_entity_id=entity.id,
        tenant_id=None,
        kind="fx_exchanged",
        idempotency_key=f"exchange/{key}",
        effective_at=at,
        postings=fx_exchanged(exchange),
        fx_rate=rate,
    )
    return posted, store.post(connection, posted, now=now)
