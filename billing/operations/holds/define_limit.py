"""Limits as operators define them: make or change one, show them, end one.

Decides: what a definition has to say. Does not decide what is left of a limit: leases and holds
do, under its row.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

import sqlalchemy as sa

from billing.admission.limit import Limit, Unit, Window
from billing.errors import InvalidInput, NotFound
from billing.ledger.hold import CREDIT
from billing.metering.event_id import from_microseconds, microseconds
from billing.money import LEDGER_DECIMALS, LEDGER_LIMIT, currency, decimals_of
from billing.operations.catalog.contracts import bound_plans
from billing.operations.holds.limits import set_limit
from billing.store import catalog
from billing.store import limits as store
from billing.store.limits import LimitRow
from billing.tenancy.tenant import Tenant, require_slug


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitTerms:
    """What a limit says.

    Attributes:
        capacity: of one window over all processes; money in major units of `currency`, all others
            whole numbers.
        currency: ISO code where it counts money, else None.
        project, key, model: slug, public part and name of whose requests it counts; None: of all.
        hard: at its end requests are refused; a soft limit only tells.
        shadow: it is counted and refuses nothing, so that it can be tried out.

    Raises:
        InvalidInput: a capacity, currency or window that the unit cannot have.
    """

    unit: Unit
    window: Window = Window.NONE
    capacity: Decimal
    currency: str | None = None
    project: str | None = None
    key: str | None = None
    model: str | None = None
    hard: bool = True
    shadow: bool = False

    def __post_init__(self) -> None:
        decimals = LEDGER_DECIMALS if self.unit is Unit.MONEY else 0
        if not self.capacity.is_finite() or not 0 <= self.capacity < LEDGER_LIMIT:
            raise InvalidInput(
                "negative or out of range", field="capacity", remedy="use zero or more"
            )
        if decimals_of(self.capacity) > decimals:
            raise InvalidInput(
                f"more than {decimals} decimals",
                field="capacity",
                remedy="only money has fractions" if not decimals else "shorten it",
            )
        if (self.unit is Unit.MONEY) != (self.currency is not None):
            raise InvalidInput(
                "a limit on money has a currency, and no other limit has one",
                field="currency",
                remedy="name the currency of the tenant's plan for money, else leave it out",
            )
        if self.unit is Unit.SLOTS and self.window is not Window.NONE:
            raise InvalidInput(
                "requests in flight are not counted per window",
                field="window",
                remedy="leave the window out",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitView:
    """A limit as it stands, and when its present window ends; None where it has no window."""

    row: LimitRow
    resets_at: datetime | None


def define_limit(
    connection: sa.Connection, *, tenant: Tenant, name: str, terms: LimitTerms, now: datetime
) -> LimitView:
    """Make a limit, or change the one of this name; what it has counted stays counted (L3).

    Raises:
        InvalidInput: a name that cannot be used, a change of unit, currency or scope, or a
            currency in which the tenant is not charged.
        NotFound: no such project, key or model.
    """
    _require_name(name)
    known = _named(connection, tenant, name, now)
    if known is not None and _identity(known) != _identity(terms):
        raise InvalidInput(
            "a limit keeps its unit, window, currency, project, key and model",
            field="name",
            remedy="end this limit, and give the new one another name",
        )
    _require_currency(connection, tenant, terms, now)
    set_limit(
        connection,
        tenant=tenant,
        name=name,
        unit=terms.unit,
        span=terms.window,
        capacity=terms.capacity,
        currency_code=terms.currency,
        project=terms.project,
        key=terms.key,
        model=terms.model,
        hard=terms.hard,
        shadow=terms.shadow,
        now=now,
    )
    return require_named_limit(connection, tenant=tenant, name=name, now=now)


def list_limits(connection: sa.Connection, *, tenant: Tenant, now: datetime) -> list[LimitView]:
    """A tenant's limits that count, by name."""
    found = store.limits(connection, tenant_id=tenant.id, now=now)
    return [_view(row, tenant, now) for row in found if row.ended_at is None]


def require_named_limit(
    connection: sa.Connection, *, tenant: Tenant, name: str, now: datetime
) -> LimitView:
    """One limit as it stands, ended or not.

    Raises:
        NotFound: the tenant has none of this name.
    """
    found = _named(connection, tenant, name, now)
    if found is None:
        raise NotFound("no such limit", field="name", remedy="list the tenant's limits")
    return _view(found, tenant, now)


def end_limit(connection: sa.Connection, *, tenant: Tenant, name: str, now: datetime) -> LimitView:
    """Let a limit count nothing from now on; ending it again changes nothing (L3).

    Raises:
        NotFound: the tenant has none of this name.
    """
    found = require_named_limit(connection, tenant=tenant, name=name, now=now)
    store.end_limit(connection, found.row.id, now=now)
    return require_named_limit(connection, tenant=tenant, name=name, now=now)


def _require_name(name: str) -> None:
    if require_slug(name, field="name") == CREDIT:
        raise InvalidInput("this name is the tenant's credit", field="name", remedy="grant credit")


def _require_currency(
    connection: sa.Connection, tenant: Tenant, terms: LimitTerms, now: datetime
) -> None:
    """A charge counts on a limit as it is: one in another currency would be counted wrongly."""
    if terms.currency is None:
        return
    currency(terms.currency)
    catalog.lock_contracts(connection, tenant.id)
    charged = {
        bound.plan.currency.code
        for bound in bound_plans(connection, tenant_id=tenant.id)
        if bound.contract.valid_until is None or bound.contract.valid_until > now
    }
    if charged - {terms.currency}:
        raise InvalidInput(
            "the tenant has a contract in another currency",
            field="currency",
            remedy=f"use {', '.join(sorted(charged))}",
        )


def _named(connection: sa.Connection, tenant: Tenant, name: str, now: datetime) -> LimitRow | None:
    found = store.limits(connection, tenant_id=tenant.id, now=now)
    return next((row for row in found if row.name == name), None)


def _view(row: LimitRow, tenant: Tenant, now: datetime) -> LimitView:
    limit = Limit(
        id=row.id,
        name=row.name,
        unit=row.unit,
        window=row.window,
        hard=row.hard,
        shadow=row.shadow,
        capacity=0,  # the window depends on none of it
        zone=tenant.zone,
    )
    window = limit.window_at(microseconds(now))
    return LimitView(row=row, resets_at=None if window is None else from_microseconds(window[1]))


def _identity(limit: LimitRow | LimitTerms) -> tuple[object, ...]:
    return (
        limit.unit,
        limit.window,
        limit.currency,
        limit.project,
        limit.key,
        limit.model,
    )
