"""What a tenant's running billing period comes to now: rated, invoiced, open, forecast, watched.

Rated as an invoice would be, from what is in the ledger of usage at this moment: nothing is stored
here, so there is nothing that could be out of date.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

import sqlalchemy as sa

from billing.ledger.hold import CREDIT
from billing.money import EXACT, Currency, from_minor
from billing.operations.rating.alerts import ThresholdState, threshold_states, total_spent
from billing.operations.rating.forecast_spend import SpendForecast, forecast_spend
from billing.operations.rating.rate_period import RatedPeriod, rate_period
from billing.period import Period
from billing.rating.line import UnratedQuantity
from billing.store import holds as hold_store
from billing.store import invoices as invoice_store
from billing.store.usage.read import newest_usage_at
from billing.tenancy.tenant import Tenant


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveBalance:
    """A running billing period as it stands.

    Attributes:
        currency: of all amounts; None where no contract is in force in the period, and all
            amounts are zero.
        rated: exact, at the ledger's 12 decimals; `rated_minor` the same rounded line by line.
        invoiced_minor: what issued invoices billed of it, credit not taken off.
        unbilled: rated and not invoiced, exact.
        credit_left: what a new request can hold of prepaid credit; None: it never had any.
        forecast: None without a contract.
        unrated: usage that no charge prices, and that is in no amount here (R5).
        watermark: newest epoch in all of it.
        newest_usage_at: when the newest usage of the period in it occurred.
    """

    tenant: Tenant
    period: Period
    at: datetime
    currency: Currency | None
    rated: Decimal
    rated_minor: int
    invoiced_minor: int
    unbilled: Decimal
    credit_left: Decimal | None
    forecast: SpendForecast | None
    thresholds: tuple[ThresholdState, ...]
    unrated: tuple[UnratedQuantity, ...]
    watermark: int
    newest_usage_at: datetime | None


def rate_running(connection: sa.Connection, *, tenant: Tenant, now: datetime) -> RatedPeriod:
    """A tenant's running billing period, rated up to now, in either role's transaction."""
    return rate_period(
        connection, tenant=tenant, period=tenant.billing_period(now), until=now, explained=False
    )


def live_balance(connection: sa.Connection, *, tenant: Tenant, now: datetime) -> LiveBalance:
    """A tenant's running billing period as it stands, in either role's transaction.

    Raises:
        Conflict: events that a price asks for have left the database.
    """
    rated = rate_running(connection, tenant=tenant, now=now)
    currency = rated.contracts[0].bound.contract.currency if rated.contracts else None
    invoiced_minor = 0
    for contract in rated.contracts:
        settled = invoice_store.settled(
            connection,
            contract_id=contract.bound.contract.id,
            period_start=rated.period.start,
        )
        invoiced_minor += sum(
            minor for key, (_, minor) in settled.items() if not key.startswith("credit.")
        )
    so_far = total_spent(rated)
    credit = currency and hold_store.limit(
        connection, tenant_id=tenant.id, name=CREDIT, currency=currency.code, now=now
    )
    return LiveBalance(
        tenant=tenant,
        period=rated.period,
        at=now,
        currency=currency,
        rated=so_far,
        rated_minor=sum(
            line.amount.minor for contract in rated.contracts for line in contract.rating.lines
        ),
        invoiced_minor=invoiced_minor,
        unbilled=EXACT.subtract(so_far, from_minor(invoiced_minor, currency))
        if currency
        else so_far,
        credit_left=credit.available if credit else None,
        forecast=forecast_spend(connection, rated, now=now),
        thresholds=tuple(threshold_states(connection, rated)),
        unrated=rated.unrated,
        watermark=rated.watermark,
        newest_usage_at=newest_usage_at(connection, tenant_id=tenant.id, period=rated.period),
    )
