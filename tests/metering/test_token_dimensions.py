"""Operations of the proxy split by context and service tier, where prices of a contract ask."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from random import Random
from uuid import UUID

import msgspec
import pytest

from billing.errors import InvalidPlan
from billing.journal.records import Attribution, Counts, Record, Usage
from billing.metering.cloud_event import CloudEvent
from billing.metering.correction import Correction
from billing.metering.event_id import microseconds
from billing.metering.request_event import REQUEST_EVENT
from billing.metering.token_class import TokenClass
from billing.metering.usage_event import VerdictKind
from billing.operations.metering.correct_usage import correct_usage
from billing.operations.metering.define_meter import define_meter
from billing.operations.metering.encode_page import Outcomes, append_records, look_up
from billing.operations.metering.ingest_usage import report_usage
from billing.operations.metering.read_usage import OnlyUsage, usage_of
from billing.operations.metering.ship_journal import JournalShipper
from billing.operations.metering.verify_rollups import verify_rollups
from billing.operations.rating.rate_period import RatedPeriod, rate_period
from billing.period import Period
from billing.planfiles.meter_file import declared_by_code, read_meter
from billing.planfiles.plan_file import read_plan
from billing.store.database import Database, Role, query
from billing.tenancy.tenant import Tenant
from tests.operations.crash_points import (
    attribution_of,
    dying_everywhere,
    usage_record,
    write_journal,
)
from tests.world import MONTH_END, MONTH_START, World, make_world

MONTH = Period(start=MONTH_START, end=MONTH_END)
CLASSES = tuple(TokenClass)
TIERS = ("", "flex", "priority", "scale")
BANDED = """
slug: banded
name: Banded
currency: USD
charges:
  - type: matrix
    key: tokens
    description: Tokens
    by: [class, context, service_tier]
    prices:
""" + "".join(
    f"""      {each.value}:
        "<100": {{flex: "1", others: "10"}}
        "100..1000": {{others: "100"}}
        ">=1000": {{others: "1000"}}
"""
    for each in CLASSES
)


def meter_file(each: TokenClass, *, edges: str = "100, 1000", since: datetime | None = None) -> str:
    begins = "" if since is None else f'effective_from: "{since:%Y-%m-%dT%H:%M:%SZ}"\n'
    return (
        f"code: {each.meter}\nunit: tokens\nevent_type: {REQUEST_EVENT}\naggregation: sum\n"
        f"value: data.{each.value}_tokens\n{begins}dimensions:\n"
        f"  - {{name: context, path: data.context_tokens, edges: [{edges}]}}\n"
        "  - {name: service_tier, path: data.service_tier}\n"
    )


def define(world: World, *, now: datetime, **said) -> None:
    with world.database.transaction(Role.OPERATOR) as connection:
        for each in CLASSES:
            assert define_meter(connection, meter_file(each, **said), now=now).created


@pytest.fixture
def world(database: Database, now: datetime) -> World:
    """One tenant's prices are by dimensions, which hold from the second day of the month on."""
    made = make_world(database, now)
    define(made, now=MONTH_START, since=MONTH_START + timedelta(days=1))
    made.plan(BANDED)
    return made


def operation(world: World, whose: Attribution, number: int, *counts: int, tier: str = "") -> Usage:
    """`counts`: input, cached input, cache write, output."""
    return msgspec.structs.replace(
        usage_record(world, whose, number),
        attribution=msgspec.structs.replace(whose, service_tier=tier),
        counts=Counts(*counts),
    )


def append(world: World, records: Sequence[Record]) -> None:
    with world.database.transaction(Role.INGEST) as connection:
        append_records(connection, records)


def require_exact(world: World) -> None:
    with world.database.transaction(Role.OPERATOR) as connection:
        assert verify_rollups(connection) == []


def by_value(world: World, tenant: Tenant, dimension: str) -> dict[tuple[str, str | None], Decimal]:
    with world.database.transaction(Role.TENANT, tenant_id=tenant.id) as connection:
        rows = usage_of(
            connection,
            tenant=tenant,
            period=MONTH,
            group="none",
            by=(f"dimension:{dimension}",),
            only=OnlyUsage(),
        )
    return {(row.meter, row.value): row.quantity for row in rows}


def rated(world: World, tenant: Tenant) -> RatedPeriod:
    """The period rated; from its events alone it is the same, bit for bit."""
    with world.database.transaction(Role.OPERATOR) as connection:
        found = rate_period(connection, tenant=tenant, period=MONTH)
        again = rate_period(connection, tenant=tenant, period=MONTH, from_events=found.watermark)
    for left, right in zip(found.contracts, again.contracts, strict=True):
        assert left.rating == right.rating
    assert sorted(map(repr, found.unrated)) == sorted(map(repr, again.unrated))
    return found


def amounts(world: World, tenant: Tenant) -> dict[str, Decimal]:
    found = rated(world, tenant)
    assert found.unrated == ()
    return {line.key: line.exact for each in found.contracts for line in each.rating.lines}


def test_L5_every_class_is_rated_by_the_length_of_the_whole_prompt(
    world: World, tmp_path: Path
) -> None:
    acme = world.tenant(plan="banded")
    whose = attribution_of(world, acme)
    write_journal(
        tmp_path,
        [
            operation(world, whose, 1, 99, 0, 0, 7),
            operation(world, whose, 2, 60, 30, 10, 5),
            operation(world, whose, 3, 1, 999, 0, 3, tier="flex"),
            operation(world, whose, 4, 40, 2, 1, 11, tier="flex"),
        ],
    )
    shipper = JournalShipper(database=world.database, directory=tmp_path)
    dying_everywhere(world.database.engine, lambda: shipper.ship(now=world.now))
    JournalShipper(database=world.database, directory=tmp_path).ship(now=world.now)
    require_exact(world)
    assert amounts(world, acme) == {
        "tokens/input/below-100/others": 99 * 10,
        "tokens/output/below-100/others": 7 * 10,
        "tokens/input/100..1000/others": 60 * 100,
        "tokens/cached_input/100..1000/others": 30 * 100,
        "tokens/cache_write/100..1000/others": 10 * 100,
        "tokens/output/100..1000/others": 5 * 100,
        "tokens/input/from-1000/others": 1 * 1000,
        "tokens/cached_input/from-1000/others": 999 * 1000,
        "tokens/output/from-1000/others": 3 * 1000,
        "tokens/input/below-100/flex": 40,
        "tokens/cached_input/below-100/flex": 2,
        "tokens/cache_write/below-100/flex": 1,
        "tokens/output/below-100/flex": 11,
    }
    assert by_value(world, acme, "service_tier")["tokens.output", "flex"] == 3 + 11


def test_L4_splits_add_up_to_the_totals_of_each_class_in_any_order(world: World) -> None:
    acme = world.tenant(plan="banded")
    whose = attribution_of(world, acme)
    random = Random(11)
    records = [
        operation(
            world,
            whose,
            number,
            *(random.choice((0, 1, 40, 99, 100, 900)) for _ in range(4)),
            tier=random.choice(TIERS),
        )
        for number in range(40)
    ]
    sent = [*records, *records]
    random.shuffle(sent)
    for start in range(0, len(sent), 7):
        append(world, sent[start : start + 7])
    require_exact(world)
    for dimension in ("context", "service_tier"):
        split = by_value(world, acme, dimension)
        for each in CLASSES:
            counted = [getattr(record.counts, each.value) for record in records]
            values = [amount for (meter, _), amount in split.items() if meter == each.meter]
            assert sum(values) == sum(counted)
            assert (each.meter, "none") not in split
    assert sum(amounts(world, acme).values()) > 0


def test_who_is_priced_by_no_dimension_counts_as_before_and_carries_nothing(
    world: World,
) -> None:
    acme, plain = world.tenant("acme", plan="banded"), world.tenant("plain")
    nobody = world.tenant("nobody", plan=None)
    records = [
        operation(world, attribution_of(world, tenant), number, 5, 5, 0, 5, tier="flex")
        for number, tenant in enumerate((acme, plain, nobody))
    ]
    append(world, records)
    require_exact(world)
    with world.database.transaction(Role.OPERATOR) as connection:
        carriers = query(connection, "SELECT DISTINCT tenant_id FROM usage_property")
        split = query(connection, "SELECT DISTINCT tenant_id FROM usage_dimension_rollup")
    assert [row.tenant_id for row in carriers] == [row.tenant_id for row in split] == [acme.id]
    assert by_value(world, plain, "context")["tokens.input", "none"] == 5
    assert amounts(world, plain)["input"] == Decimal("0.000001")


def test_an_operation_counts_by_the_version_of_its_own_time(world: World) -> None:
    acme = world.tenant(plan="banded")
    whose = attribution_of(world, acme)
    later = world.now + timedelta(hours=1)
    define(world, now=world.now, edges="7, 100, 1000", since=later)
    early = MONTH_START + timedelta(hours=5)
    for number, at in enumerate((early, later - timedelta(microseconds=1), later)):
        record = operation(world, whose, number, 8)
        append(world, [msgspec.structs.replace(record, at_us=microseconds(at))])
    require_exact(world)
    found = rated(world, acme)
    # What happened before anything was declared has no band, and what has a new one no price.
    assert {(row.quantity, dict(row.dimensions)["context"]) for row in found.unrated} == {
        (8, "none"),
        (8, "7..100"),
    }
    (contract,) = found.contracts
    assert {line.key: line.exact for line in contract.rating.lines} == {
        "tokens/input/below-100/others": 80
    }
    with pytest.raises(InvalidPlan, match="no such value"):
        world.tenant("late", plan="banded")


def test_the_writer_asks_again_before_a_version_can_begin_that_it_does_not_know(
    world: World,
) -> None:
    whose = attribution_of(world, world.tenant(plan="banded"))
    record = operation(world, whose, 1, 8)
    at = datetime.fromtimestamp(record.at_us // 1_000_000, UTC)
    now = Outcomes(usages=[record], voids=[], unbilled=[])
    following = msgspec.structs.replace(record, at_us=record.at_us + 15 * 60 * 1_000_000)
    then = Outcomes(usages=[following], voids=[], unbilled=[])
    with world.database.transaction(Role.INGEST) as connection:
        names = look_up(connection, now, None)
    define(world, now=at, edges="9")
    assert names.cover(now)
    assert not names.cover(then)
    with world.database.transaction(Role.INGEST) as connection:
        both = look_up(connection, now, look_up(connection, then, names))
    assert both.cover(now)
    assert both.cover(then)
    assert len({set_id for set_id, _ in both.meter_sets.values()}) == 2
    assert not both.lasting().cover(now)


def test_what_is_taken_back_is_taken_from_its_own_band_and_tier(world: World) -> None:
    acme = world.tenant(plan="banded")
    whose = attribution_of(world, acme)
    records = [operation(world, whose, number, 50, 60, tier="flex") for number in range(2)]
    append(world, records)
    for number, quantities in enumerate((None, {"tokens.input": Decimal(1)})):
        with world.database.transaction(Role.OPERATOR) as connection:
            correct_usage(
                connection,
                Correction(
                    corrects=UUID(bytes=records[number].id),
                    source="desk",
                    foreign_id=f"c-{number}",
                    reason="test run",
                    quantities=quantities,
                ),
                tenant_id=acme.id,
                actor="ada",
                now=world.now,
            )
    require_exact(world)
    assert amounts(world, acme)["tokens/input/100..1000/others"] == 100


def test_a_gateway_of_others_reports_the_same_event(world: World) -> None:
    acme = world.tenant(plan="banded")
    said = {f"{each.value}_tokens": 3 for each in CLASSES}
    event = CloudEvent(
        source="gate",
        id="g-1",
        type=REQUEST_EVENT,
        time=world.now,
        data={**said, "model": "tiny", "context_tokens": 1000, "service_tier": "flex"},
    )
    for expected in (VerdictKind.ACCEPTED, VerdictKind.DUPLICATE):
        with world.database.transaction(Role.OPERATOR) as connection:
            (verdict,) = report_usage(connection, [("acme", event)], now=world.now)
        assert verdict.kind is expected
    require_exact(world)
    assert amounts(world, acme) == {
        f"tokens/{each.value}/from-1000/others": 3000 for each in CLASSES
    }


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (("unit: tokens", "unit: words"), "unit"),
        (("aggregation: sum", "aggregation: max"), "unit"),
        (("steelyard.request", "llm.request"), "event_type"),
        (("data.input_tokens", "data.output_tokens"), "value"),
        (("dimensions:", "filter: data.x > 1\ndimensions:"), "filter"),
        (("dimensions:", "where: {region: eu}\ndimensions:"), "where"),
        (("data.context_tokens", "data.region"), "dimensions[0].path"),
        ((", edges: [100, 1000]", ""), "dimensions[0].edges"),
        (("data.service_tier", "data.service_tier, edges: [1]"), "dimensions[1].edges"),
    ],
)
def test_a_built_in_meter_takes_no_other_meaning(change: tuple[str, str], field: str) -> None:
    text = meter_file(TokenClass.INPUT)
    assert change[0] in text
    assert read_meter(text).meter.code == "tokens.input"
    with pytest.raises(InvalidPlan) as refused:
        read_meter(text.replace(*change))
    assert (refused.value.field, bool(refused.value.remedy)) == (field, True)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (('"100..1000"', '"100..2000"'), "no such value"),
        (('flex: "1"', 'turbo: "1"'), "no such value"),
        (('        ">=1000": {others: "1000"}\n', ""), "where context is >=1000"),
        (('flex: "1", others: "10"', 'flex: "1", default: "10"'), "service_tier is batch"),
    ],
)
def test_a_plan_must_price_every_band_and_tier_that_a_client_can_choose(
    change: tuple[str, str], words: str
) -> None:
    meters = declared_by_code(read_meter(meter_file(each)) for each in CLASSES)
    assert change[0] in BANDED
    assert read_plan(BANDED, meters=meters).slug == "banded"
    with pytest.raises(InvalidPlan, match=words) as refused:
        read_plan(BANDED.replace(*change), meters=meters)
    assert (refused.value.field or "").startswith("charges[0]")
    assert refused.value.line is not None
    assert refused.value.remedy


def test_a_model_may_be_priced_apart_if_what_is_left_is_priced_too() -> None:
    """Each model that is named, and all others where some charge is for any model."""
    meters = declared_by_code([read_meter(meter_file(TokenClass.INPUT))])
    head = "slug: s\nname: S\ncurrency: USD\ncharges:\n"
    charge = (
        '  - {{type: per_unit, key: {0}, description: D, meter: tokens.input, price: "1", {1}}}\n'
    )
    flex = charge.format("flex", "models: [big], where: {service_tier: [flex]}")
    rest = charge.format("rest", "models: [big], where: {service_tier: {others: [flex]}}")
    small = charge.format("small", "models: [small]")
    assert len(read_plan(head + flex + rest + small, meters=meters).charges) == 3
    for missing, whose in ((flex + small, "big"), (rest + small, "big")):
        with pytest.raises(InvalidPlan, match=f"tokens.input of {whose} has no price"):
            read_plan(head + missing, meters=meters)
    with pytest.raises(InvalidPlan, match="of other models has no price"):
        read_plan(head + flex.replace("models: [big], ", ""), meters=meters)
