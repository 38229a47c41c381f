"""Which charges credit has to cover: what lines earned by day, less what credit paid of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from functools import partial
from itertools import groupby

import sqlalchemy as sa

from billing.catalog.charge import Charge
from billing.catalog.price_plan import LINE_SUFFIXES, PricePlan
from billing.ledger.credit_grant import DayCharge
from billing.ledger.credit_lowering import lowered
from billing.ledger.credit_return import Balance, latest, line_balance
from billing.money import EXACT
from billing.operations.catalog.contracts import bound_plans
from billing.period import Period, local_midnight, zone
from billing.store import credit_lines as store
from billing.store import invoices as invoice_store
from billing.store.credit_lines import Place, PlacedAmount
from billing.tenancy.tenant import Tenant

Line = tuple[int, datetime, str]
"""Contract, begin of the billing period, line key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeriodCharges:
    """The lines of a billing period in one currency, against what credit paid of them.

    Attributes:
        due: what is still to be covered, by line and day.
        overpaid: what credit paid beyond what a line earned.
    """

    due: tuple[DayCharge, ...]
    overpaid: dict[Line, Decimal]


def plans_of(connection: sa.Connection, tenant: Tenant, period: Period) -> dict[int, PricePlan]:
    """The plans that a tenant was ever on, by contract, as agreed for a billing period."""
    bound = bound_plans(connection, tenant_id=tenant.id, at=period.start)
    return {each.contract.id: each.plan for each in bound}


def read_charges(
    connection: sa.Connection,
    *,
    tenant: Tenant,
    plans: dict[int, PricePlan],
    period: Period,
    currency: str,
) -> PeriodCharges:
    """What of a billing period credit has to cover, or covered too much."""
    earned = _by_line(
        store.earned_by_day(
            connection, tenant_id=tenant.id, currency=currency, period=period, zone=tenant.zone
        )
    )
    applied = _by_line(
        store.applied_by_day(connection, tenant_id=tenant.id, currency=currency, period=period)
    )
    charges = {
        (contract, charge.key): charge
        for contract, plan in plans.items()
        for charge in plan.charges
    }
    balances: dict[tuple[int, datetime], dict[str, Balance]] = {}
    for line in sorted(earned.keys() | applied.keys()):
        contract, start, key = line
        balance = line_balance(earned.get(line, {}), applied.get(line, {}))
        balances.setdefault((contract, start), {})[key] = balance
    due: list[DayCharge] = []
    overpaid: dict[Line, Decimal] = {}
    for (contract, start), lines in balances.items():
        plan = plans[contract]
        for key, balance in lowered(lines, partial(lines_lowered, plan, lines)).items():
            line = (contract, start, key)
            if balance.overpaid:
                overpaid[line] = balance.overpaid
            priced_by = charges.get((contract, key))
            due += [
                _charge(tenant, line, day=day, plan=plan.slug, priced_by=priced_by, amount=amount)
                for day, amount in sorted(balance.due.items())
            ]
    return PeriodCharges(due=tuple(due), overpaid=overpaid)


def not_invoiced(
    connection: sa.Connection,
    charges: Iterable[DayCharge],
    *,
    tenant: Tenant,
    period: Period,
    currency: str,
) -> list[DayCharge]:
    """Charges of a billing period as far as no issued invoice billed them: their latest days."""
    earned = _by_line(
        store.earned_by_day(
            connection, tenant_id=tenant.id, currency=currency, period=period, zone=tenant.zone
        )
    )
    kept: list[DayCharge] = []
    for line, group in groupby(sorted(charges, key=_line_of), key=_line_of):
        contract, start, key = line
        billed = invoice_store.settled(connection, contract_id=contract, period_start=start)
        accrued, _ = billed.get(key, (Decimal(0), 0))
        total = Decimal(0)
        for amount in earned[line].values():
            total = EXACT.add(total, amount)
        by_day = {charge.day: charge for charge in group}
        left = latest(
            {day: charge.amount for day, charge in by_day.items()},
            max(Decimal(0), EXACT.subtract(total, accrued)),
        )
        kept += [replace(by_day[day], amount=amount) for day, amount in sorted(left.items())]
    return kept


def lines_lowered(plan: PricePlan, lines: Collection[str], key: str) -> frozenset[str]:
    """Of the lines of a contract's billing period, those of which one below zero takes off.

    A maximum is of its charge, a coupon of the charges that it names; anything else, such as usage
    that was taken back beyond what there was, is of all.
    """
    named = {coupon.key: coupon.charges for coupon in plan.coupons}
    charge = _charge_key(key)
    of = frozenset({charge}) if charge != key else named.get(key)
    return frozenset(line for line in lines if of is None or _charge_key(line) in of)


def place_of(charge: DayCharge) -> Place:
    """Where credit that pays a charge is noted."""
    return Place(
        contract_id=charge.contract_id,
        period_start=charge.period_start,
        line_key=charge.line_key,
        day=charge.day,
    )


def day_period(tenant: Tenant, day: date) -> Period:
    """The instants of a local day of a tenant."""
    in_zone = zone(tenant.zone)
    return Period(
        start=local_midnight(day, in_zone), end=local_midnight(day + timedelta(days=1), in_zone)
    )


def _charge(
    tenant: Tenant,
    line: Line,
    *,
    day: date,
    plan: str,
    priced_by: Charge | None,
    amount: Decimal,
) -> DayCharge:
    contract_id, period_start, line_key = line
    selector = None if priced_by is None else priced_by.selector
    return DayCharge(
        contract_id=contract_id,
        period_start=period_start,
        line_key=line_key,
        day=day,
        during=day_period(tenant, day),
        plan=plan,
        meter=selector.meter if selector else None,
        models=selector.models if selector else None,
        amount=amount,
    )


def _charge_key(line_key: str) -> str:
    """The charge of a line, whose bounds have lines of their own."""
    charge, _, suffix = line_key.rpartition(":")
    return charge if charge and suffix in LINE_SUFFIXES else line_key


def _line_of(charge: DayCharge) -> Line:
    return (charge.contract_id, charge.period_start, charge.line_key)


def _by_line(rows: Iterable[PlacedAmount]) -> dict[Line, dict[date, Decimal]]:
    lines: dict[Line, dict[date, Decimal]] = defaultdict(dict)
    for row in rows:
        place = row.place
        lines[place.contract_id, place.period_start, place.line_key][place.day] = row.amount
    return lines
