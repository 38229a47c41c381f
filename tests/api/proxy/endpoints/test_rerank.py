"""Rankings, whose usage engines report in two ways."""

from __future__ import annotations

from dataclasses import replace

import pytest

from billing.admission.route import Route
from billing.journal.records import Counts
from billing.metering.unit_meter import UnitMeter
from tests.api.proxy.conftest import engine_figures
from tests.api.proxy.endpoints.asks import ASKS, whole

ASK = next(ask for ask in ASKS if ask.route is Route.RERANK)


@pytest.mark.parametrize(
    ("told", "counts", "searches"),
    [
        ({"usage": {"total_tokens": 56}}, Counts(input=56), 1),
        ({"usage": {"prompt_tokens": 56, "total_tokens": 56}}, Counts(input=56), 1),
        ({"meta": {"billed_units": {"search_units": 3}}}, Counts(), 3),
        ({"meta": {"billed_units": {"search_units": 2, "input_tokens": 9}}}, Counts(input=9), 2),
    ],
)
async def test_both_shapes_of_usage_are_counted(desk, told, counts, searches):
    answer = await desk.ask(replace(ASK, script=whole({"results": [], **told})))
    assert answer.status_code == 200
    usage = desk.journal.usage
    assert usage.counts == counts
    assert usage.units == {"rerank.searches": searches}
    assert not usage.estimated


@pytest.mark.parametrize("told", [{}, {"usage": {"total_tokens": 0}}, {"usage": None}])
async def test_zero_usage_is_an_anomaly(desk, told):
    snapshot = desk.control.snapshot
    model = replace(snapshot.models["rank"], units=frozenset())
    desk.control.snapshot = replace(snapshot, models={**snapshot.models, "rank": model})
    await desk.ask(replace(ASK, script=whole({"results": [], **told})))
    assert desk.journal.usage.counts == Counts()
    assert sum(desk.app.tally.anomalies.values()) >= 1


async def test_a_model_is_charged_for_what_it_is_registered_with(desk):
    """Tokens and searches both come; a model has prices for one of them."""
    snapshot = desk.control.snapshot
    script = whole({"usage": {"total_tokens": 56}, "meta": {"billed_units": {"search_units": 2}}})
    for classes, units, counted, searches in (
        (frozenset(), {UnitMeter.SEARCHES}, Counts(), {"rerank.searches": 2}),
        (ASK.route.classes, set(), Counts(input=56), {}),
    ):
        model = replace(snapshot.models["rank"], classes=classes, units=frozenset(units))
        desk.control.snapshot = replace(snapshot, models={**snapshot.models, "rank": model})
        await desk.ask(replace(ASK, script=script))
        usage = desk.journal.records.pop()
        assert usage.counts == counted
        assert usage.units == searches or usage.units == dict.fromkeys(searches, 1)


async def test_usage_in_a_meter_without_a_price_is_told(desk):
    snapshot = desk.control.snapshot
    model = replace(snapshot.models["rank"], classes=frozenset(), units=frozenset())
    desk.control.snapshot = replace(snapshot, models={**snapshot.models, "rank": model})
    await desk.ask(ASK)
    assert desk.journal.usage.estimated
    assert engine_figures(desk.journal.usage) == {"total_tokens": 11}
    assert desk.app.tally.anomalies["unregistered_meter"] == 1
