"""Ids of objects at backends belong to one tenant each, for good (T1)."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import pytest

from billing.admission.binding import Binding, ObjectKind
from billing.errors import Conflict
from billing.metering.event_id import microseconds
from billing.operations.stored_objects.batches import record_batch
from billing.operations.stored_objects.bindings import ObjectPage, bind, find, forget, page
from billing.store.batch_runs import BatchRun, read_run
from billing.store.database import Database, Role
from tests.world import World, make_world


@pytest.fixture
def world(database: Database, now: datetime) -> World:
    return make_world(database, now)


def binding(world: World, tenant_id: int = 1, object_id: str = "file-1", **changes) -> Binding:
    return replace(
        Binding(
            kind=ObjectKind.FILE,
            backend="pool-a",
            object_id=object_id,
            tenant_id=tenant_id,
            project_id=1,
            key_id=1,
            model_id=None,
            created_at_us=microseconds(world.now),
        ),
        **changes,
    )


def bound(world: World, *bindings: Binding) -> None:
    with world.database.transaction(Role.OPERATOR) as connection:
        bind(connection, bindings)


def found(world: World, tenant_id: int = 1, object_id: str = "file-1") -> Binding | None:
    with world.database.transaction(Role.OPERATOR) as connection:
        return find(connection, tenant_id=tenant_id, kind=ObjectKind.FILE, object_id=object_id)


def test_T1_an_object_is_found_by_its_tenant_alone(world: World) -> None:
    mine = binding(world)
    bound(world, mine)
    assert found(world) == mine
    assert found(world, tenant_id=2) is None
    assert found(world, object_id="file-2") is None
    with world.database.transaction(Role.OPERATOR) as connection:
        other_kind = find(connection, tenant_id=1, kind=ObjectKind.BATCH, object_id="file-1")
    assert other_kind is None


def test_L3_binding_again_changes_nothing(world: World) -> None:
    first = binding(world)
    bound(world, first)
    bound(world, replace(first, key_id=9, created_at_us=first.created_at_us + 1))
    assert found(world) == first


@pytest.mark.parametrize(
    "second",
    [
        pytest.param({"tenant_id": 2}, id="of another tenant"),
        pytest.param({"backend": "pool-b"}, id="at another backend"),
        pytest.param({"object_id": "file/../1"}, id="that no path can carry"),
        pytest.param({"object_id": ""}, id="empty"),
        pytest.param({"object_id": "f" * 129}, id="too long"),
    ],
)
def test_T1_an_id_that_cannot_be_the_tenants_is_refused(world: World, second) -> None:
    mine = binding(world)
    bound(world, mine)
    with pytest.raises(Conflict):
        bound(world, binding(world, object_id="file-2"), replace(mine, **second))
    assert found(world) == mine
    assert found(world, object_id="file-2") is None  # all or none


def test_T1_a_deleted_id_goes_to_nobody_else(world: World) -> None:
    mine = binding(world)
    bound(world, mine)
    with world.database.transaction(Role.OPERATOR) as connection:
        forget(connection, replace(mine, tenant_id=2), now=world.now)
    assert found(world) == mine
    with world.database.transaction(Role.OPERATOR) as connection:
        forget(connection, mine, now=world.now)
    assert found(world) is None
    with pytest.raises(Conflict):
        bound(world, binding(world, tenant_id=2))
    bound(world, mine)
    assert found(world) is None


def paged(world: World, after: str | None, **options) -> ObjectPage:
    with world.database.transaction(Role.OPERATOR) as connection:
        return page(connection, tenant_id=1, kind=ObjectKind.FILE, after=after, limit=2, **options)


def test_T1_pages_hold_every_object_of_the_tenant_once(world: World) -> None:
    at_us = microseconds(world.now)
    for number in range(5):
        made_us = at_us + number // 2  # two in one instant
        bound(world, binding(world, object_id=f"file-{number}", created_at_us=made_us))
    bound(world, binding(world, tenant_id=2, object_id="file-9"))
    for oldest_first in (True, False):
        seen: list[str] = []
        more = True
        while more:
            shown = paged(world, seen[-1] if seen else None, oldest_first=oldest_first)
            seen += [entry.object_id for entry in shown.objects]
            more = shown.more
        expected = [f"file-{number}" for number in range(5)]
        assert seen == (expected if oldest_first else expected[::-1])
    assert paged(world, "file-9") == ObjectPage(objects=(), more=False)  # of another tenant


def test_T1_a_batch_is_recorded_only_with_its_ids(world: World) -> None:
    batch = BatchRun(
        batch_id="batch_1",
        backend="pool-a",
        tenant_id=1,
        project_id=1,
        key_id=1,
        model_id=None,
        price_version_id=1,
        endpoint="/v1/chat/completions",
        input_file_id="file-1",
        submitted_at=world.now,
    )
    own = binding(world, kind=ObjectKind.BATCH, object_id="batch_1")
    with world.database.transaction(Role.OPERATOR) as connection:
        record_batch(connection, batch, [own])
        record_batch(connection, batch, [own])
        assert read_run(connection, backend="pool-a", batch_id="batch_1") == batch
    stolen = replace(batch, batch_id="batch_2", tenant_id=2)
    with (
        pytest.raises(Conflict),
        world.database.transaction(Role.OPERATOR) as connection,
    ):
        record_batch(connection, stolen, [replace(own, tenant_id=2)])
    with world.database.transaction(Role.OPERATOR) as connection:
        assert read_run(connection, backend="pool-a", batch_id="batch_2") is None
