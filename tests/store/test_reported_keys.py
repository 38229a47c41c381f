"""The key table: an id stands for one fact for ever, and no two ids pass for one."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege

from billing.errors import IdempotencyConflict
from billing.metering.correction import Correction
from billing.metering.reported_id import fingerprint
from billing.metering.usage_event import VerdictKind
from billing.operations.metering.correct_usage import correct_usage, reported_event
from billing.operations.metering.parking import release_parked
from billing.operations.metering.read_usage import parked_usage
from billing.store.catalog import insert_meter
from billing.store.database import Database, Role, query
from billing.store.embedded.address import ServerAddress
from billing.store.usage.reported_keys import claimed_keys
from billing.tenancy.tenant import Tenant
from tests.world import World, make_world, usage_report

A_UUID = "0190f3a1-7c2e-4b5d-9e8f-0a1b2c3d4e5f"


@pytest.fixture
def world(database: Database, now: datetime) -> World:
    return make_world(database, now)


@pytest.fixture
def owner(postgres: ServerAddress, database_name: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(postgres.owner_conninfo(database_name), autocommit=True) as connection:
        yield connection


def forge(owner: psycopg.Connection, tenant: Tenant, *, victim: str) -> UUID:
    """Claim, under another id of the same source, the fingerprint that `victim` will have."""
    event_id = uuid4()
    owner.execute(
        "INSERT INTO usage_key (tenant_id, source_id, foreign_key, foreign_id, event_id, "
        "body_hash) SELECT %s, id, %s, 'something else', %s, %s FROM usage_source "
        "WHERE tenant_id = %s AND source = 'test'",
        (tenant.id, UUID(bytes=fingerprint(victim)), event_id, uuid4(), tenant.id),
    )
    return event_id


def rows(owner: psycopg.Connection, tenant: Tenant) -> list[tuple[str, str]]:
    """(source, id) of what a tenant has reported."""
    return owner.execute(
        "SELECT source, foreign_id FROM reported_event WHERE tenant_id = %s ORDER BY 1, 2",
        (tenant.id,),
    ).fetchall()


def test_L3_an_id_stands_for_its_event_whatever_its_form(
    world: World, owner: psycopg.Connection
) -> None:
    acme, birch = world.tenant("acme"), world.tenant("birch")
    forms = [A_UUID, A_UUID.upper(), A_UUID.replace("-", ""), A_UUID.replace("4b5d", "8b5d"), "e-1"]
    reports = [
        usage_report(source=source, foreign_id=form, quantity=n, occurred_at=world.now)
        for source in ("test", "other")
        for n, form in enumerate(forms, 1)
    ]
    first = {tenant.id: world.report(tenant, *reports) for tenant in (acme, birch)}
    for tenant in (acme, birch):
        assert {verdict.kind for verdict in first[tenant.id]} == {VerdictKind.ACCEPTED}
        again = world.report(tenant, *reports[::-1])[::-1]
        assert {verdict.kind for verdict in again} == {VerdictKind.DUPLICATE}
        assert [each.event_id for each in again] == [each.event_id for each in first[tenant.id]]
        assert rows(owner, tenant) == sorted((each.source, each.foreign_id) for each in reports)
        with world.database.transaction(Role.OPERATOR) as connection:
            for report, verdict in zip(reports, first[tenant.id], strict=True):
                found = reported_event(
                    connection, tenant=tenant, source=report.source, foreign_id=report.foreign_id
                )
                assert found == verdict.event_id
            keys = [(each.source, each.foreign_id) for each in reports]
            claimed = claimed_keys(connection, tenant_id=tenant.id, keys=[*keys, ("test", "none")])
        assert {key: each.body_hash for key, each in claimed.items()} == {
            (each.source, each.foreign_id): each.body_hash() for each in reports
        }


def test_a_source_is_named_once_for_each_tenant(world: World, owner: psycopg.Connection) -> None:
    acme, birch = world.tenant("acme"), world.tenant("birch")
    for number in range(3):
        for tenant in (acme, birch):
            report = usage_report(foreign_id=f"e-{number}", occurred_at=world.now)
            world.report(tenant, report)
    named = owner.execute("SELECT tenant_id, source FROM usage_source").fetchall()
    assert sorted(named) == sorted((tenant.id, "test") for tenant in (acme, birch))


def test_L3_two_ids_with_one_fingerprint_are_never_merged(
    world: World, owner: psycopg.Connection
) -> None:
    acme = world.tenant("acme")
    good = usage_report(foreign_id="good", quantity=1, occurred_at=world.now)
    world.report(acme, good)
    forge(owner, acme, victim="victim")
    batch = [
        usage_report(foreign_id="victim", quantity=2, occurred_at=world.now),
        good,
        usage_report(foreign_id="new", quantity=4, occurred_at=world.now),
        usage_report(foreign_id="victim", source="other", quantity=8, occurred_at=world.now),
    ]
    refused, *others = world.report(acme, *batch)
    assert refused.kind is VerdictKind.REJECTED
    assert refused.event_id is None
    assert refused.reason is not None
    assert "fingerprint" in refused.reason
    assert "something else" not in refused.reason
    assert [verdict.kind.value for verdict in others] == ["duplicate", "accepted", "accepted"]
    with world.database.transaction(Role.OPERATOR) as connection:
        assert claimed_keys(connection, tenant_id=acme.id, keys=[("test", "victim")]) == {}
        (total,) = query(connection, "SELECT sum(quantities[1]) AS counted FROM usage_event")
    assert total.counted == 1 + 4 + 8


def test_a_parked_report_whose_fingerprint_is_taken_is_rejected_when_released(
    world: World, owner: psycopg.Connection
) -> None:
    acme = world.tenant("acme")
    world.report(acme, usage_report(foreign_id="good", occurred_at=world.now))
    forge(owner, acme, victim="victim")
    report = usage_report(foreign_id="victim", meter="pages", occurred_at=world.now)
    assert world.report(acme, report)[0].kind is VerdictKind.PARKED
    with world.database.transaction(Role.OPERATOR) as connection:
        insert_meter(connection, code="pages", unit="pages", informational=True, now=world.now)
        (waiting,) = parked_usage(connection, tenant_id=acme.id, limit=10)
        verdict = release_parked(connection, parked_id=waiting.id, actor="test", now=world.now)
    assert verdict.kind is VerdictKind.REJECTED
    with world.database.transaction(Role.OPERATOR) as connection:
        assert parked_usage(connection, tenant_id=acme.id, limit=10) == []


def test_a_correction_whose_fingerprint_is_taken_is_refused_whole(
    world: World, owner: psycopg.Connection
) -> None:
    acme = world.tenant("acme")
    (verdict,) = world.report(acme, usage_report(foreign_id="good", occurred_at=world.now))
    assert verdict.event_id is not None
    forge(owner, acme, victim="v-1")
    void = Correction(corrects=verdict.event_id, source="test", foreign_id="v-1", reason="twice")
    with (
        pytest.raises(IdempotencyConflict),
        world.database.transaction(Role.OPERATOR) as connection,
    ):
        correct_usage(connection, void, tenant_id=acme.id, actor="test", now=world.now)
    assert owner.execute("SELECT count(*) FROM usage_event").fetchall() == [(1,)]


@pytest.mark.parametrize("table", ["usage_key", "usage_source", "reported_event"])
def test_T1_a_tenant_reads_nobodys_reported_ids(world: World, table: str) -> None:
    acme = world.tenant("acme")
    world.report(acme, usage_report(foreign_id="e-1", occurred_at=world.now))
    with (
        world.database.transaction(Role.TENANT, tenant_id=acme.id) as connection,
        pytest.raises(Exception, match="permission denied") as refused,
    ):
        query(connection, f"SELECT 1 FROM {table}")
    assert isinstance(refused.value.__cause__, InsufficientPrivilege)
