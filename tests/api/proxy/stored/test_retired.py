"""What is over is nobody's: 404 before dispatch, and a process that knew it has forgotten it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client.parser import text_string_to_metric_families

from api.metrics import Metrics
from api.proxy.control import bindings as module
from api.proxy.control.bindings import Bindings
from api.proxy.control.snapshots import utc_now
from billing.engines.stored_answer import file_end_us
from billing.metering.event_id import microseconds
from billing.settings import Settings
from billing.store.database import Database
from tests.api.proxy.stored.conftest import Keep, KeepBuilder
from workers.stored_objects import retire_objects

HOUR = timedelta(hours=1)


@pytest.fixture
def bindings(database: Database) -> Iterator[Bindings]:
    made = Bindings(database, now=utc_now)
    yield made
    made.close()


async def retired(database: Database, after: timedelta) -> None:
    """What the worker does, a time from now."""
    now = datetime.now(UTC) + after
    await asyncio.to_thread(retire_objects, database, Settings(), now=now)


async def test_what_is_over_is_404_before_dispatch(
    open_keep: KeepBuilder, database: Database, bindings: Bindings, monkeypatch: pytest.MonkeyPatch
):
    keep: Keep = await open_keep(bindings=bindings)
    keep.first.ends_at = int((datetime.now(UTC) + 2 * HOUR).timestamp())
    ending = (await keep.upload()).json()["id"]
    keep.first.ends_at = None
    staying = (await keep.upload()).json()["id"]
    made = (await keep.respond()).json()["id"]
    await retired(database, 27 * HOUR)
    # A process that knows whose it is asks again after an hour, long before the row leaves.
    assert (await keep.mine.get(f"/v1/files/{ending}")).status_code == 200
    monkeypatch.setattr(module, "REMEMBERED_SECONDS", 0)
    bindings._found.clear()
    for after in (27 * HOUR, 52 * HOUR):
        await retired(database, after)
        asked = len(keep.asked)
        gone = await keep.mine.get(f"/v1/files/{ending}")
        unknown = await keep.mine.get("/v1/files/file-nobodys")
        assert (gone.status_code, gone.content) == (404, unknown.content)
        assert len(keep.asked) == asked
        assert (await keep.mine.get(f"/v1/files/{staying}")).status_code == 200
        assert (await keep.mine.get(f"/v1/responses/{made}")).status_code == 200
    await retired(database, 30 * 24 * HOUR)
    assert (await keep.mine.get(f"/v1/responses/{made}")).status_code == 404
    assert (await keep.respond(previous_response_id=made)).status_code == 404

    told = Metrics(database, utc_now).text().decode()
    families = {family.name: family for family in text_string_to_metric_families(told)}
    samples = families["steelyard_stored_objects_gone"].samples
    assert {(each.labels["kind"], each.labels["fate"]): each.value for each in samples} == {
        ("file", "expired"): 1,
        ("file", "removed"): 1,
        ("response", "expired"): 1,
    }


async def test_what_is_remembered_is_asked_for_again_in_time(
    open_keep: KeepBuilder, bindings: Bindings, monkeypatch: pytest.MonkeyPatch
):
    keep: Keep = await open_keep(bindings=bindings)
    monkeypatch.setattr(module, "REMEMBERED_SECONDS", 0)
    file_id = (await keep.upload()).json()["id"]
    for asked in (1, 2):
        assert (await keep.mine.get(f"/v1/files/{file_id}")).status_code == 200
        assert bindings.calls["find", "answered"] == asked


NOW_US = microseconds(datetime(2026, 11, 15, tzinfo=UTC))


@pytest.mark.parametrize(
    ("told", "end_us"),
    [
        (NOW_US // 1_000_000 + 1, NOW_US + 1_000_000),
        (NOW_US // 1_000_000, None),
        (True, None),
        (3_600, None),
        ("2027-01-01", None),
        (NOW_US // 1_000, None),
        (10**30, None),
        (1.5, None),
        (None, None),
        ({}, None),
    ],
)
def test_an_end_counts_only_where_it_is_an_instant_to_come(told: object, end_us: int | None):
    body = json.dumps({"id": "file-1", "expires_at": told}).encode()
    assert file_end_us(body, now_us=NOW_US) == end_us
