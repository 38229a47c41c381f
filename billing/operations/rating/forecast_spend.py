"""Forecast what a tenant's running billing period will cost, by the plan's own arithmetic.

Decides: which days behind are looked at and which time is ahead of each contract; the projection
is `billing.rating.forecast`'s, the prices are the pipeline's, closed as at the end of the period.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction

import sqlalchemy as sa

from billing.errors import NotFound
from billing.metering.meter import Aggregation, State
from billing.money import Currency, to_minor
from billing.operations.rating.rate_period import RatedContract, RatedPeriod, share_of
from billing.period import BUCKET, Period, bucket_of, local_days, local_midnight, zone
from billing.rating.forecast import HISTORY_DAYS, Bound, Horizon, Method, growth, stretched
from billing.rating.line import LineKind, RatedLine
from billing.rating.pipeline import Slice, rate
from billing.rating.quantity import MeteredQuantity
from billing.store import meters as meter_store
from billing.store.usage import levels
from billing.store.usage.levels import Question
from billing.tenancy.tenant import Tenant

_MICROSECOND = timedelta(microseconds=1)

Series = tuple[str, str | None]
"""A meter and a model."""

DailySums = Mapping[Series, Mapping[date, Decimal]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpendForecast:
    """What a billing period is expected to come to, in minor units.

    Attributes:
        so_far_minor: what it comes to now, rounded line by line.
        low_minor, likely_minor, high_minor: at its end, by rising amount.
        method: how the days that are left were estimated.
        complete_days: that this rests on.
        watermark: newest epoch in it.
    """

    period: Period
    currency: Currency
    so_far_minor: int
    low_minor: int
    likely_minor: int
    high_minor: int
    method: Method
    complete_days: int
    watermark: int


def forecast_spend(
    connection: sa.Connection, rated: RatedPeriod, *, now: datetime
) -> SpendForecast | None:
    """Forecast a rated period that runs; None without a contract in it, or once it is over."""
    if not rated.contracts or now >= rated.period.end:
        return None
    by_day = _daily_sums(connection, rated.tenant, now=now)
    complete = _complete_days(rated.tenant, by_day, now=now)
    over_time, standing = _not_additive(connection)
    totals = dict.fromkeys(Bound, 0)
    horizons: list[Horizon] = []
    for contract in rated.contracts:
        horizon = _horizon(contract, rated, complete, now=now)
        horizons.append(horizon)
        for bound in Bound:
            factors = _Factors(
                by_day=by_day,
                horizon=horizon,
                bound=bound,
                since=_covered(contract, rated).start.astimezone(zone(rated.tenant.zone)).date(),
                over_time=over_time,
                standing=standing,
            )
            totals[bound] += _projected(contract, rated, factors, now=now)
    low, likely, high = sorted(totals[bound] for bound in Bound)
    return SpendForecast(
        period=rated.period,
        currency=rated.contracts[0].bound.contract.currency,
        so_far_minor=sum(
            line.amount.minor for contract in rated.contracts for line in contract.rating.lines
        ),
        low_minor=low,
        likely_minor=likely,
        high_minor=high,
        method=horizons[0].method,
        complete_days=len(complete),
        watermark=rated.watermark,
    )


def require_forecast(
    connection: sa.Connection, rated: RatedPeriod, *, now: datetime
) -> SpendForecast:
    """`forecast_spend` of a period that must have one.

    Raises:
        NotFound: no contract is in force in it.
    """
    if (found := forecast_spend(connection, rated, now=now)) is None:
        raise NotFound(
            "no contract is in force in the running billing period",
            field="tenant",
            remedy="bind the tenant to a plan first",
        )
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Factors:
    """By how much the quantities of one contract grow.

    Attributes:
        since: first local day of the contract in the period.
        over_time: meters that grow with time alone.
        standing: meters whose quantity is that of one moment or set, and stays.
    """

    by_day: DailySums
    horizon: Horizon
    bound: Bound
    since: date
    over_time: frozenset[str]
    standing: frozenset[str]

    def of(self, meter: str, model: str | None) -> Fraction:
        """Of one series."""
        if meter in self.over_time:
            return Fraction(1) / self.horizon.elapsed
        days = self.by_day.get((meter, model), {})
        used = sum((amount for day, amount in days.items() if day >= self.since), Decimal(0))
        if meter in self.standing or used <= 0:
            return Fraction(1)
        return growth(used, days, self.horizon, self.bound)


def _projected(
    contract: RatedContract, rated: RatedPeriod, factors: _Factors, *, now: datetime
) -> int:
    """Minor units of a contract at the end, minimums and commitments included.

    Usage whose price goes by the clock, by single events or by changes of a level has no larger
    form of the same shape: what it came to is stretched instead, and so is what the windows up to
    now left unused.
    """
    shaped = {each.meter for each in contract.quantities if _is_shaped(each)}
    grown = [
        each if each.meter in shaped else stretched(each, factors.of(each.meter, each.model))
        for each in contract.quantities
    ]
    covered = _covered(contract, rated)
    lines = _lines(contract, rated, grown, covered)
    unused: dict[str, Decimal] = {}
    if any(line.kind is LineKind.SHORTFALL for line in lines):
        begun = min(bucket_of(max(now, covered.start)) + BUCKET, covered.end)
        by_now = _lines(contract, rated, grown, Period(start=covered.start, end=begun))
        unused = {line.key: line.exact for line in by_now if line.kind is LineKind.SHORTFALL}
    return sum(
        _unused(line, unused.get(line.key, Decimal(0)), factors)
        if line.kind is LineKind.SHORTFALL
        else _amount(line, shaped, factors)
        for line in lines
    )


def _lines(
    contract: RatedContract, rated: RatedPeriod, used: list[MeteredQuantity], covered: Period
) -> tuple[RatedLine, ...]:
    of = Slice(
        share=share_of(contract.bound, rated.period),
        covered=covered,
        zone=zone(contract.bound.contract.zone),
    )
    return rate(contract.bound.plan, used, of=of).lines


def _unused(line: RatedLine, by_now: Decimal, factors: _Factors) -> int:
    """What windows leave unused goes on as it began; never more than if nothing more is used."""
    likely = to_minor(Fraction(by_now) / factors.horizon.elapsed, line.amount.currency)
    return min(line.amount.minor, likely)


def _amount(line: RatedLine, shaped: set[str], factors: _Factors) -> int:
    if line.meter is None or line.meter not in shaped:
        return line.amount.minor
    grown = [
        (weight, factors.of(line.meter, model)) for model, weight in line.by_model if weight > 0
    ]
    whole = sum((Fraction(weight) for weight, _ in grown), Fraction(0))
    weighed = sum((Fraction(weight) * each for weight, each in grown), Fraction(0))
    return to_minor(Fraction(line.exact) * weighed / Fraction(whole), line.amount.currency)


def _is_shaped(quantity: MeteredQuantity) -> bool:
    return bool(quantity.at or quantity.transactions or quantity.changes)


def _covered(contract: RatedContract, rated: RatedPeriod) -> Period:
    covered = contract.bound.contract.segment(rated.period)
    assert covered is not None
    return covered


def _horizon(
    contract: RatedContract, rated: RatedPeriod, complete: tuple[date, ...], *, now: datetime
) -> Horizon:
    covered = _covered(contract, rated)
    passed = min(max(now, covered.start), covered.end) - covered.start
    elapsed = Fraction(passed // _MICROSECOND, (covered.end - covered.start) // _MICROSECOND)
    # Nothing has passed: what was used until now is all that is known.
    return Horizon(
        complete=complete,
        ahead=tuple(_days_ahead(covered, rated.tenant, now=now)),
        elapsed=elapsed or Fraction(1),
    )


def _days_ahead(covered: Period, tenant: Tenant, *, now: datetime) -> list[tuple[date, Fraction]]:
    start = max(now, covered.start)
    if start >= covered.end:
        return []
    in_zone = zone(tenant.zone)
    ahead: list[tuple[date, Fraction]] = []
    for day in local_days(Period(start=start, end=covered.end), in_zone):
        begins, ends = (
            local_midnight(day, in_zone),
            local_midnight(day + timedelta(days=1), in_zone),
        )
        left = min(ends, covered.end) - max(begins, start)
        ahead.append((day, Fraction(left // _MICROSECOND, (ends - begins) // _MICROSECOND)))
    return ahead


def _daily_sums(connection: sa.Connection, tenant: Tenant, *, now: datetime) -> DailySums:
    """Of the running period and of the days that a forecast looks at."""
    in_zone = zone(tenant.zone)
    first = now.astimezone(in_zone).date() - timedelta(days=HISTORY_DAYS)
    since = min(local_midnight(first, in_zone), tenant.billing_period(now).start)
    rows = levels.usage(
        connection,
        Question(
            tenant_id=tenant.id,
            period=Period(start=since, end=bucket_of(now) + BUCKET),
            group="day",
            zone_name=tenant.zone,
            by=("model",),
        ),
    )
    found: defaultdict[Series, dict[date, Decimal]] = defaultdict(dict)
    for row in rows:
        found[row.meter, row.model][row.start.astimezone(in_zone).date()] = row.quantity
    return found


def _complete_days(tenant: Tenant, by_day: DailySums, *, now: datetime) -> tuple[date, ...]:
    """Local days that are over since anything was used, the newest ones."""
    today = now.astimezone(zone(tenant.zone)).date()
    used = [day for days in by_day.values() for day in days]
    first = max(min(used, default=today), today - timedelta(days=HISTORY_DAYS))
    return tuple(first + timedelta(days=n) for n in range((today - first).days))


def _not_additive(connection: sa.Connection) -> tuple[frozenset[str], frozenset[str]]:
    """Codes of meters that grow with time, and of those whose quantity is no sum."""
    over_time: set[str] = set()
    standing: set[str] = set()
    for row in meter_store.meter_versions(connection):
        meter = row.defined.meter
        if meter.aggregation is Aggregation.TIME_WEIGHTED_SUM:
            over_time.add(meter.code)
        elif meter.aggregation.state is not State.ADDITIVE:
            standing.add(meter.code)
    return frozenset(over_time), frozenset(standing)
