"""Units beside tokens on their way from the journal to the ledger."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from pathlib import Path

import msgspec

from billing.metering.meter import BUILT_IN, UNIT_METERS
from billing.metering.unit_meter import UnitMeter
from billing.operations.metering.ship_journal import JournalShipper
from billing.store.database import Database, Role
from tests.operations.crash_points import attribution_of, usage_record, write_journal
from tests.operations.test_ship_journal import used
from tests.world import make_world


def test_L3_units_are_counted_once_beside_the_tokens(
    database: Database, now: datetime, tmp_path: Path
) -> None:
    world = make_world(database, now)
    acme = world.tenant()
    whose = attribution_of(world, acme)
    units = [
        {},
        {"images": 2},
        {"audio.seconds": 1},
        {"audio.seconds": 61_999, "images": 3},
        {"images": 3, "audio.seconds": 62_000},
        {"speech.characters": 10**12},
        {"rerank.searches": 1},
    ]
    records = [
        msgspec.structs.replace(usage_record(world, whose, number), units=counted)
        for number, counted in enumerate(units)
    ]
    write_journal(tmp_path, records)
    for _ in range(2):
        JournalShipper(database=database, directory=tmp_path).ship(now=now)
        figures = used(world, acme)
        assert figures["tokens.input"] == 10 * len(units)
        assert figures["requests"] == len(units)
        assert figures["images"] == 8
        assert figures["audio.seconds"] == Decimal(124)
        assert figures["speech.characters"] == 10**12
        assert figures["rerank.searches"] == 1


def test_an_event_names_the_meters_of_its_units_and_no_other(
    database: Database, now: datetime, tmp_path: Path
) -> None:
    world = make_world(database, now)
    whose = attribution_of(world, world.tenant())
    records = [
        msgspec.structs.replace(usage_record(world, whose, 1), units={"audio.seconds": 1_234}),
        usage_record(world, whose, 2),
    ]
    write_journal(tmp_path, records)
    JournalShipper(database=database, directory=tmp_path).ship(now=now)
    with database.transaction(Role.OPERATOR) as connection:
        rows = connection.exec_driver_sql(
            "SELECT array_agg(m.code ORDER BY o), e.quantities FROM usage_event e"
            " JOIN meter_set s ON s.id = e.meter_set_id,"
            " unnest(s.meter_version_ids) WITH ORDINALITY AS v (id, o)"
            " JOIN meter_version m ON m.id = v.id GROUP BY e.id, e.quantities ORDER BY e.id"
        ).all()
    built_in = [meter.code for meter in BUILT_IN]
    assert [list(codes) for codes, _ in rows] == [[*built_in, "audio.seconds"], built_in]
    assert rows[0][1][-1] == Decimal("1.234")


def test_every_unit_has_its_meter_and_audio_is_exact_to_the_millisecond():
    assert [meter.code for meter in UNIT_METERS] == [unit.value for unit in UnitMeter]
    assert UnitMeter.AUDIO_MS.quantity(10**30 + 1) == Decimal("1" + "0" * 27 + ".001")
    assert UnitMeter.IMAGES.quantity(3) == 3
