"""`steelyard usage balance` and `usage forecast`: what a running billing period comes to."""

from __future__ import annotations

from typing import Any

from billing.cli.connect import as_operator
from billing.cli.documents import period_document, unrated_document
from billing.cli.output import JsonFlag, amount, show_json, show_members, show_table, span
from billing.cli.usage_show import TenantOption
from billing.cli.when import clock
from billing.money import Currency, from_minor, plain
from billing.operations.rating.alerts import ThresholdState
from billing.operations.rating.forecast_spend import SpendForecast, require_forecast
from billing.operations.rating.live_balance import LiveBalance, live_balance, rate_running
from billing.operations.tenancy.tenants import require_tenant
from billing.rating.forecast import Method

_METHODS = {
    Method.WEEKDAYS: "each day left like those of its weekday, of {days} complete days",
    Method.RUN_RATE: "the days left like the mean of {days} complete ones",
    Method.ELAPSED: "no day is complete yet: as it began",
}


def balance(*, tenant: TenantOption, as_json: JsonFlag = False) -> None:
    """Show what the running billing period comes to now: rated, invoiced, left, watched."""
    with as_operator(snapshot=True) as connection:
        owner = require_tenant(connection, tenant)
        found = live_balance(connection, tenant=owner, now=clock())
    if as_json:
        show_json(_document(found))
        return
    code = found.currency.code if found.currency else ""
    members = [
        ("period", span(found.period, owner.zone)),
        ("rated", amount(found.rated, code)),
        ("invoiced", _amount(found.invoiced_minor, found.currency)),
        ("unbilled", amount(found.unbilled, code)),
        ("credit left", None if found.credit_left is None else amount(found.credit_left, code)),
        ("forecast", found.forecast and _range(found.forecast)),
        ("unrated quantities", len(found.unrated)),
        ("up to epoch", found.watermark),
        ("newest usage", found.newest_usage_at),
    ]
    show_members(f"Balance of {tenant}", members)
    if found.thresholds:
        show_table(
            "Thresholds",
            ("name", "#reached at", "#spent", "fired at"),
            [
                (
                    each.row.name,
                    None if each.reached_at is None else amount(each.reached_at, code),
                    amount(each.spent, code),
                    each.fired_at,
                )
                for each in found.thresholds
            ],
        )


def forecast(*, tenant: TenantOption, as_json: JsonFlag = False) -> None:
    """Forecast the running billing period by the plan's own arithmetic, with a range."""
    now = clock()
    with as_operator(snapshot=True) as connection:
        owner = require_tenant(connection, tenant)
        rated = rate_running(connection, tenant=owner, now=now)
        found = require_forecast(connection, rated, now=now)
    if as_json:
        show_json({"tenant": tenant, **_forecast_document(found)})
        return
    show_members(
        f"Forecast for {tenant}",
        [
            ("period", span(found.period, owner.zone)),
            ("so far", _amount(found.so_far_minor, found.currency)),
            ("at its end", _amount(found.likely_minor, found.currency)),
            ("between", _range(found)),
            ("method", _METHODS[found.method].format(days=found.complete_days)),
        ],
    )


def _amount(minor: int, currency: Currency | None) -> str | None:
    return None if currency is None else amount(from_minor(minor, currency), currency.code)


def _range(found: SpendForecast) -> str:
    low, high = (from_minor(each, found.currency) for each in (found.low_minor, found.high_minor))
    return f"{amount(low)} to {amount(high, found.currency.code)}"


def _document(found: LiveBalance) -> dict[str, Any]:
    currency = found.currency
    return {
        "tenant": found.tenant.slug,
        "period": period_document(found.period),
        "at": found.at,
        "currency": currency and currency.code,
        "rated_exact": plain(found.rated),
        "rated": _major(found.rated_minor, currency),
        "invoiced": _major(found.invoiced_minor, currency),
        "unbilled": plain(found.unbilled),
        "credit_left": None if found.credit_left is None else plain(found.credit_left),
        "forecast": found.forecast and _forecast_document(found.forecast),
        "thresholds": [_threshold_document(each) for each in found.thresholds],
        "unrated": [unrated_document(each) for each in found.unrated],
        "watermark": found.watermark,
        "newest_usage_at": found.newest_usage_at,
    }


def _forecast_document(found: SpendForecast) -> dict[str, Any]:
    return {
        "period": period_document(found.period),
        "currency": found.currency.code,
        "so_far": _major(found.so_far_minor, found.currency),
        "low": _major(found.low_minor, found.currency),
        "likely": _major(found.likely_minor, found.currency),
        "high": _major(found.high_minor, found.currency),
        "method": found.method.value,
        "complete_days": found.complete_days,
        "watermark": found.watermark,
    }


def _threshold_document(state: ThresholdState) -> dict[str, Any]:
    return {
        "name": state.row.name,
        "reached_at": None if state.reached_at is None else plain(state.reached_at),
        "spent": plain(state.spent),
        "fired_at": state.fired_at,
    }


def _major(minor: int, currency: Currency | None) -> str:
    return "0" if currency is None else f"{from_minor(minor, currency):f}"
