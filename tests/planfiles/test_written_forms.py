"""Short forms of plan files: windows, matrices, shares of money."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from zoneinfo import ZoneInfo

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from billing.catalog.price import Graduated, PerUnit, Rounding
from billing.catalog.price_plan import PricePlan
from billing.catalog.selector import Selector
from billing.catalog.window import QUARTERS_OF_WEEK, Window
from billing.errors import InvalidPlan
from billing.money import currency
from billing.planfiles.plan_dump import dump
from billing.planfiles.plan_file import load_document, plan_schema, read_plan, read_price_books
from billing.rating.pipeline import Slice, rate
from billing.rating.quantity import MeteredQuantity
from tests.charges import declared, per_unit

ROOT = Path(__file__).resolve().parents[2]
HEAD = "slug: plan\nname: A plan\ncurrency: USD\n"
WINDOWS = """\
windows:
  peak: {days: [mon, tue, wed, thu, fri], from: "08:00", to: "20:00", closed_on: [2026-12-25]}
  off_peak: {rest_of: peak}
"""
BY_HOUR = """\
charges:
  - {type: per_unit, key: peak, description: Peak, meter: requests, during: peak, price: "3"}
  - {type: per_unit, key: rest, description: Rest, meter: requests, during: off_peak, price: "1"}
"""
MATRIX = """\
charges:
  - type: matrix
    key: tokens
    description: Tokens
    per: 1000000
    by: [model, class, tier]
    meters: {input: gate.input, output: gate.output}
    prices:
      sim-3.1:
        input: {standard: "0.10", "batch, flex": "0.05", others: "0.20"}
        output: {standard: "0.40", "batch, flex": "0.20"}
"""
GATES = declared("gate.input", "gate.output", dimensions=["tier"])


def read(text: str, **known) -> PricePlan:
    return read_plan(HEAD + text, **known)


def read_matrix(text: str) -> PricePlan:
    return read(text, meters=GATES)


def changed(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1, old
    return text.replace(old, new)


def total(plan: PricePlan, *used: MeteredQuantity) -> Decimal:
    rating = rate(plan, used, of=Slice(zone=ZoneInfo("Europe/Berlin")))
    assert not rating.unrated
    return sum((line.exact for line in rating.lines), Decimal(0))


def requests(at: datetime) -> MeteredQuantity:
    return MeteredQuantity(meter="requests", quantity=Decimal(1), at=at)


def tokens(meter: str, tier: str) -> MeteredQuantity:
    return MeteredQuantity(
        meter=meter, model="sim-3.1", quantity=Decimal(10**6), dimensions=(("tier", tier),)
    )


@pytest.mark.parametrize(
    ("at", "price"),
    [
        (datetime(2026, 12, 24, 6, 45, tzinfo=UTC), 1),  # Thursday 07:45 in Berlin
        (datetime(2026, 12, 24, 7, 0, tzinfo=UTC), 3),
        (datetime(2026, 12, 24, 18, 45, tzinfo=UTC), 3),
        (datetime(2026, 12, 24, 19, 0, tzinfo=UTC), 1),
        (datetime(2026, 12, 25, 10, 0, tzinfo=UTC), 1),  # a holiday
        (datetime(2026, 12, 26, 10, 0, tzinfo=UTC), 1),  # Saturday
    ],
)
def test_R7_every_quarter_hour_is_in_one_of_a_window_and_its_rest(at, price):
    assert total(read(WINDOWS + BY_HOUR), requests(at)) == price


def test_windows_in_several_stretches():
    plan = read(
        "windows:\n  busy:\n    hours:\n"
        '      - {days: [mon], from: "08:00", to: "12:00"}\n'
        '      - {days: [mon], from: "13:00", to: "17:15"}\n'
        "    open_on: [2026-01-03]\n"
        "charges:\n  - {type: per_unit, key: a, description: A, meter: requests, during: busy, "
        'price: "1"}\n'
    )
    selector = plan.charges[0].selector
    assert selector is not None
    assert selector.window == Window(
        name="busy",
        quarters=frozenset([*range(32, 48), *range(52, 69)]),
        open_on=frozenset({date(2026, 1, 3)}),
    )


REFUSED_WINDOWS = {
    "off the grid": (changed(WINDOWS, '"08:00"', '"08:10"') + BY_HOUR, 5, "windows.peak.from"),
    "from the day's end": (changed(WINDOWS, '"08:00"', '"24:00"'), 5, "windows.peak.from"),
    "no stretches": (
        changed(
            WINDOWS,
            'days: [mon, tue, wed, thu, fri], from: "08:00", to: "20:00"',
            "hours: []",
        ),
        5,
        "windows.peak.hours",
    ),
    "no such day": (changed(WINDOWS, "[mon,", "[moon,"), 5, "windows.peak.days[0]"),
    "no date": (changed(WINDOWS, "2026-12-25", "2026-13-25"), 5, "windows.peak.closed_on[0]"),
    "rest of nothing": (changed(WINDOWS, "rest_of: peak", "rest_of: pea"), 6, "windows.off_peak"),
    "rest with hours": (
        changed(WINDOWS, "rest_of: peak", "rest_of: peak, days: [mon]"),
        6,
        "windows.off_peak",
    ),
    "malformed name": (changed(WINDOWS, "off_peak:", "Off-Peak:") + BY_HOUR, 6, "windows.Off-Peak"),
    "no such window": (
        WINDOWS + changed(BY_HOUR, "during: off_peak", "during: night"),
        9,
        "charges[1].during",
    ),
    "nobody's window": (WINDOWS + BY_HOUR.rpartition("  - ")[0], 6, "windows.off_peak"),
    "overlap": (WINDOWS + changed(BY_HOUR, "during: off_peak", "during: peak"), 9, "charges[1]"),
    "overlap with all the week": (
        WINDOWS + changed(BY_HOUR, "during: off_peak, ", ""),
        9,
        "charges[1]",
    ),
}


@pytest.mark.parametrize("case", REFUSED_WINDOWS)
def test_refused_windows_name_their_place(case):
    text, line, field = REFUSED_WINDOWS[case]
    with pytest.raises(InvalidPlan) as refused:
        read(text)
    assert refused.value.line == line
    assert (refused.value.field or "").startswith(field)
    assert refused.value.remedy


@given(
    st.frozensets(st.integers(0, QUARTERS_OF_WEEK - 1)),
    st.frozensets(st.dates(), max_size=5),
    st.frozensets(st.dates(), min_size=1, max_size=5),
)
def test_every_window_round_trips(quarters, closed, opened):
    window = Window(name="w", quarters=quarters, closed_on=closed - opened, open_on=opened)
    charge = per_unit(
        key="a",
        description="A",
        selector=Selector(meter="requests", window=window),
        price=Decimal(1),
    )
    plan = PricePlan(slug="p", name="P", currency=currency("USD"), charges=(charge,))
    assert load_document(dump(plan)) == plan


def test_a_matrix_is_a_charge_per_cell():
    plan = read_matrix(MATRIX)

    assert [charge.key for charge in plan.charges] == [
        "tokens/sim-3.1/input/standard",
        "tokens/sim-3.1/input/batch+flex",
        "tokens/sim-3.1/input/others",
        "tokens/sim-3.1/output/standard",
        "tokens/sim-3.1/output/batch+flex",
    ]
    assert total(plan, tokens("gate.input", "flex")) == Decimal("0.05")
    assert total(plan, tokens("gate.input", "never heard of")) == Decimal("0.20")
    assert load_document(dump(plan)) == plan


def test_R5_a_matrix_has_no_fallback_that_it_does_not_write():
    used = tokens("gate.output", "priority")
    assert [row.meter for row in rate(read_matrix(MATRIX), [used]).unrated] == ["gate.output"]


def test_a_matrix_of_bands_has_plain_keys():
    plan = read(
        "charges:\n  - type: matrix\n    key: t\n    description: T\n    by: [context]\n"
        "    meter: context.tokens\n"
        '    prices: {"<8000": "1", "8000..32000": "2", ">=32000": "3"}\n',
        meters=declared("context.tokens", dimensions=["context"]),
    )
    assert [charge.key for charge in plan.charges] == [
        "t/below-8000",
        "t/8000..32000",
        "t/from-32000",
    ]


REFUSED_MATRICES = {
    "value listed twice": (
        changed(MATRIX, '{standard: "0.10", "batch', '{standard: "0.10", "standard, batch'),
        13,
        "charges[0].prices.sim-3.1.input.standard, batch, flex",
    ),
    "input missing": (
        changed(
            MATRIX, '        input: {standard: "0.10", "batch, flex": "0.05", others: "0.20"}\n', ""
        ),
        13,
        "charges[0].prices.sim-3.1.output.standard",
    ),
    "input missing for one tier": (
        changed(MATRIX, '"batch, flex": "0.05", others: "0.20"', 'batch: "0.05"'),
        14,
        "charges[0].prices.sim-3.1.output.batch, flex",
    ),
    "every other model": (changed(MATRIX, "sim-3.1:", "others:"), 12, "charges[0].prices.others"),
    "too shallow": (
        changed(MATRIX, '{standard: "0.40", "batch, flex": "0.20"}', '"0.40"'),
        14,
        "charges[0].prices.sim-3.1.output",
    ),
    "too deep": (
        changed(MATRIX, 'standard: "0.40"', 'standard: {eu: "0.40"}'),
        14,
        "charges[0].prices.sim-3.1.output.standard",
    ),
    "no token class": (
        changed(MATRIX, "        output:", "        out:"),
        14,
        "charges[0].prices.sim-3.1.out.standard",
    ),
    "negative": (
        changed(MATRIX, '"0.40"', '"-0.40"'),
        14,
        "charges[0].prices.sim-3.1.output.standard",
    ),
    "unknown dimension": (changed(MATRIX, "tier]", "region]"), 9, "charges[0].by"),
    "unknown meter": (
        changed(MATRIX, "gate.output}", "gate.out}"),
        14,
        "charges[0].prices.sim-3.1.output.standard",
    ),
    "an axis twice": (changed(MATRIX, "tier]", "class]"), 9, "charges[0].by"),
    "one meter and classes": (
        changed(MATRIX, "    per:", "    meter: requests\n    per:"),
        10,
        "charges[0].by",
    ),
}


@pytest.mark.parametrize("case", REFUSED_MATRICES)
def test_refused_matrices_name_the_cell(case):
    text, line, field = REFUSED_MATRICES[case]
    with pytest.raises(InvalidPlan) as refused:
        read_matrix(text)
    assert (refused.value.line, refused.value.field) == (line, field)
    assert refused.value.remedy


def test_shares_of_money():
    plan = read(
        "charges:\n"
        "  - {type: share_of_value, key: a, description: A, meter: sales.value, percent: 3,"
        " included: 100}\n"
        "  - {type: cost_plus, key: b, description: B, meter: supplier.cost,"
        ' markup_percent: "12.5"}\n'
        "  - type: graduated_percentage\n    key: c\n    description: C\n    meter: saved.value\n"
        '    tiers: [{up_to: 1000, percent: 10, flat: 5}, {percent: "2.5"}]\n',
        meters=declared("sales.value", "supplier.cost", "saved.value"),
    )
    used = {"sales.value": 300, "supplier.cost": 80, "saved.value": 3000}
    rating = rate(plan, [MeteredQuantity(meter=m, quantity=Decimal(q)) for m, q in used.items()])

    assert [line.exact for line in rating.lines] == [6, 90, 155]
    assert plan.charges[0].price == PerUnit(price=Decimal(3))
    assert isinstance(plan.charges[2].price, Graduated)
    assert load_document(dump(plan)) == plan


@pytest.mark.parametrize(
    ("written", "field"),
    [
        ("type: share_of_value, percent: 101", "charges[0].percent"),
        ("type: cost_plus, markup_percent: -1", "charges[0].markup_percent"),
        ("type: graduated_percentage, tiers: [{percent: 101}]", "charges[0].tiers[0].percent"),
    ],
)
def test_refused_shares_of_money(written, field):
    text = f"charges:\n  - {{key: a, description: A, meter: sales.value, {written}}}\n"
    with pytest.raises(InvalidPlan) as refused:
        read(text, meters=declared("sales.value"))
    assert (refused.value.line, refused.value.field) == (5, field)


def test_the_published_schema_is_the_one_of_the_program():
    """Editors complete plan files from it; `make openapi` writes it."""
    published = ROOT.joinpath("openapi", "plan.schema.json").read_text(encoding="utf-8")
    assert json.loads(published) == plan_schema()


@pytest.mark.parametrize("text", [WINDOWS + BY_HOUR, MATRIX])
def test_written_forms_keep_the_schema(text):
    jsonschema.validate(
        yaml.safe_load(HEAD + text.replace("2026-12-25", "'2026-12-25'")), plan_schema()
    )


def test_everything_that_is_wrong_is_named_at_once():
    text = (
        HEAD
        + WINDOWS
        + BY_HOUR.replace("during: peak", "during: noon")
        + (
            "  - {type: per_unit, key: c, description: C, meter: unheard.of, price: 1}\n"
            "coupons:\n  - {key: d, description: D}\n"
        )
    )
    _, refusals = read_price_books(text)
    assert [(each.line, each.field) for each in refusals] == [
        (8, "charges[0].during"),
        (10, "charges[2].meter"),
        (12, "coupons[0].percent_off"),
    ]


def test_a_price_list_that_sells_output_without_input_is_refused():
    with pytest.raises(InvalidPlan) as refused:
        read('price_list:\n  models:\n    m: {output: "1", cached_input: "1"}\n')
    assert refused.value.field == "price_list.models.m.output"


def test_a_meter_without_the_dimension_is_refused():
    text = (
        "charges:\n  - type: per_unit\n    key: a\n    description: A\n    meter: gate.input\n"
        "    price: 1\n    where: {tier: [a]}\n    split_by: [region]\n"
    )
    with pytest.raises(InvalidPlan) as refused:
        read_matrix(text)
    assert (refused.value.line, refused.value.field) == (11, "charges[0].split_by")


ROUNDED = "type: {}, key: a, description: A, meter: requests, per: 1000, round_units: up, {}"


@pytest.mark.parametrize(
    ("kind", "written", "field"),
    [
        ("per_unit", "price: '1', included: 500", "included"),
        ("per_unit", "price: '1', included: '1000.5'", "included"),
        ("graduated", "tiers: [{up_to: 500, unit: 1}, {unit: 2}]", "tiers[0].up_to"),
        ("volume", "tiers: [{up_to: 1000, unit: 1}, {up_to: 1900, unit: 2}, {unit: 3}]",
         "tiers[1].up_to"),
        ("package", "size: 500, price: '1'", "size"),
        ("reserved", "committed: 500, window: hour, price: '1', overage: '2'", "committed"),
    ],
)  # fmt: skip
def test_parts_of_units_that_are_rounded_are_refused(kind: str, written: str, field: str):
    # 600 of a thousand, rounded up, fell into the first of two tiers that ended at 500.
    text = f"slug: s\nname: S\ncurrency: USD\ncharges:\n  - {{{ROUNDED.format(kind, written)}}}\n"
    with pytest.raises(InvalidPlan) as refused:
        read_plan(text)
    assert refused.value.field == f"charges[0].{field}"
    assert refused.value.remedy == "use a multiple of 1000"
    whole = written.replace("500", "2000").replace("1000.5", "0").replace("1900", "3000")
    plan = read_plan(text.replace(written, whole))
    assert plan.charges[0].round_units is Rounding.UP
    assert load_document(dump(plan)) == plan


def test_a_stored_plan_that_has_parts_of_rounded_units_is_rated_as_it_was_sold():
    charge = ROUNDED.format("per_unit", "price: '1', included: 1000")
    stored = dump(read_plan(f"{HEAD}charges:\n  - {{{charge}}}\n"))
    stored["charges"][0]["included"] = "500"
    used = MeteredQuantity(meter="requests", quantity=Decimal(3000))
    assert total(load_document(stored), used) == 2
