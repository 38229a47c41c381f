"""Spend of a running billing period as tenants and operators both read it.

Amounts are text in major units: exact ones with the digits that the ledger keeps, rounded ones with
those of the currency.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from api.credit_schemas import CurrencyCode
from api.fields import DecimalText, Text, ledger_text, major_text
from billing.errors import InvalidInput
from billing.money import exact_decimal, plain
from billing.operations.rating.alerts import ThresholdState
from billing.operations.rating.forecast_spend import SpendForecast
from billing.operations.rating.live_balance import LiveBalance
from billing.rating.forecast import Method
from billing.rating.spend import BaseKind, Threshold, ThresholdBase
from billing.store.spend_alerts import AlertRow, ThresholdRow


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """What the running billing period is expected to come to, at its end.

    Usage that is left is projected by meter and model and rated by the plan, with minimums and
    commitments. `weekdays`: from 14 complete local days on, each day like those of its weekday in
    the last eight weeks; `run_rate`: like the mean of the complete days; `elapsed`: on the first
    day, as it began. `low` and `high` take the calmer and the busier half of those days.
    """

    period_start: datetime
    period_end: datetime
    currency: CurrencyCode
    so_far: str
    low: str
    likely: str
    high: str
    method: Method
    complete_days: int
    watermark: int


class SpendThreshold(msgspec.Struct, frozen=True, kw_only=True):
    """At which spend of a billing period an alert fires: an amount, or a percentage of `base`."""

    name: str
    amount: str | None
    percent: str | None
    base: BaseKind | None
    base_name: str | None
    made_by: str
    created_at: datetime


class NewThreshold(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to be told: once in each billing period, when its spend has reached this.

    Either `amount`, in major units of the currency of the contracts, or `percent` of a spend
    commitment (`base: commitment`, by its key) or of a limit on money (`base: limit`, by its name).
    """

    amount: DecimalText | None = None
    percent: DecimalText | None = None
    base: BaseKind | None = None
    base_name: Text | None = None


class ThresholdNow(msgspec.Struct, frozen=True, kw_only=True):
    """A threshold in the running billing period; null: what it is a percentage of does not exist.

    What was credited after it fired does not make it fire again.
    """

    name: str
    reached_at: str | None
    spent: str
    fired_at: datetime | None


class SpendAlert(msgspec.Struct, frozen=True, kw_only=True):
    """A threshold that was reached: `spent` was the spend of the period when that was seen."""

    threshold: str
    period_start: datetime
    period_end: datetime
    currency: CurrencyCode
    reached_at: str
    spent: str
    watermark: int
    fired_at: datetime


class Balance(msgspec.Struct, frozen=True, kw_only=True):
    """The running billing period as it stands.

    `rated_exact` is what it earned, `rated` the same rounded line by line; `invoiced` what invoices
    billed of it already, and `unbilled` the exact rest. Everything up to epoch `watermark` of the
    ledger of usage is in it; `age_ms` says how long ago the newest usage in it occurred, null where
    there was none. `unrated` counts quantities that no charge prices and that are in no amount.
    """

    period_start: datetime
    period_end: datetime
    at: datetime
    currency: CurrencyCode | None
    rated_exact: str
    rated: str
    invoiced: str
    unbilled: str
    credit_left: str | None
    forecast: Forecast | None
    thresholds: list[ThresholdNow]
    unrated: int
    watermark: int
    newest_usage_at: datetime | None
    age_ms: int | None


def threshold_of(data: NewThreshold) -> Threshold:
    """The threshold that a body describes.

    Raises:
        InvalidInput: it cannot be; names the field.
    """
    if (data.base is None) != (data.base_name is None):
        raise InvalidInput(
            "a kind and a name go together", field="base_name", remedy="send both or neither"
        )
    return Threshold(
        amount=None if data.amount is None else exact_decimal(data.amount, field="amount"),
        percent=None if data.percent is None else exact_decimal(data.percent, field="percent"),
        base=None
        if data.base is None or data.base_name is None
        else ThresholdBase(kind=data.base, name=data.base_name),
    )


def show_threshold(row: ThresholdRow) -> SpendThreshold:
    """A threshold's document."""
    terms = row.terms
    return SpendThreshold(
        name=row.name,
        amount=None if terms.amount is None else plain(terms.amount),
        percent=None if terms.percent is None else plain(terms.percent),
        base=terms.base.kind if terms.base else None,
        base_name=terms.base.name if terms.base else None,
        made_by=row.made_by,
        created_at=row.created_at,
    )


def show_alert(row: AlertRow) -> SpendAlert:
    """An alert's document."""
    return SpendAlert(
        threshold=row.name,
        period_start=row.period.start,
        period_end=row.period.end,
        currency=row.currency,
        reached_at=ledger_text(row.reached),
        spent=ledger_text(row.spent),
        watermark=row.watermark,
        fired_at=row.fired_at,
    )


def show_forecast(found: SpendForecast) -> Forecast:
    """A forecast's document."""
    code = found.currency.code
    return Forecast(
        period_start=found.period.start,
        period_end=found.period.end,
        currency=code,
        so_far=major_text(found.so_far_minor, code),
        low=major_text(found.low_minor, code),
        likely=major_text(found.likely_minor, code),
        high=major_text(found.high_minor, code),
        method=found.method,
        complete_days=found.complete_days,
        watermark=found.watermark,
    )


def show_balance(found: LiveBalance) -> Balance:
    """A balance's document."""
    code = found.currency.code if found.currency else None
    newest = found.newest_usage_at
    return Balance(
        period_start=found.period.start,
        period_end=found.period.end,
        at=found.at,
        currency=code,
        rated_exact=ledger_text(found.rated),
        rated=major_text(found.rated_minor, code) if code else "0",
        invoiced=major_text(found.invoiced_minor, code) if code else "0",
        unbilled=ledger_text(found.unbilled),
        credit_left=None if found.credit_left is None else ledger_text(found.credit_left),
        forecast=show_forecast(found.forecast) if found.forecast else None,
        thresholds=[_threshold_now(each) for each in found.thresholds],
        unrated=len(found.unrated),
        watermark=found.watermark,
        newest_usage_at=newest,
        age_ms=None if newest is None else max(0, int((found.at - newest).total_seconds() * 1000)),
    )


def _threshold_now(state: ThresholdState) -> ThresholdNow:
    return ThresholdNow(
        name=state.row.name,
        reached_at=None if state.reached_at is None else ledger_text(state.reached_at),
        spent=ledger_text(state.spent),
        fired_at=state.fired_at,
    )
