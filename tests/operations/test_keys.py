"""Keys work until they are revoked or expire; their secrets are nowhere in the database."""

from __future__ import annotations

from datetime import datetime, timedelta

import psycopg
import pytest
from psycopg import sql

from billing.errors import InvalidInput, NotFound, Unauthenticated
from billing.operations.tenancy.keys import (
    KEY_NAME_CHARS_MAX,
    Caller,
    IssuedKey,
    authenticate,
    issue_key,
    list_keys,
    revoke_key,
)
from billing.store.database import Database, Role
from billing.store.embedded.address import ServerAddress
from billing.tenancy.api_key import PREFIX, PUBLIC_CHARS
from billing.tenancy.api_key import Role as KeyRole
from tests.world import World, make_world

HOUR = timedelta(hours=1)


@pytest.fixture
def world(database: Database, now: datetime) -> World:
    made = make_world(database, now)
    made.tenant("acme")
    made.tenant("birch")
    return made


def issue(
    world: World,
    role: KeyRole = KeyRole.INFERENCE,
    tenant: str | None = "acme",
    *,
    name: str = "app",
    project: str = "default",
    expires_at: datetime | None = None,
) -> IssuedKey:
    with world.database.transaction(Role.OPERATOR) as connection:
        return issue_key(
            connection,
            role=role,
            tenant=tenant,
            name=name,
            project=project,
            expires_at=expires_at,
            now=world.now,
        )


def caller(world: World, text: str, *, at: datetime | None = None) -> Caller:
    with world.database.transaction(Role.OPERATOR) as connection:
        return authenticate(connection, text, now=at or world.now)


def revoke(world: World, key_id: int, *, tenant_id: int | None = None) -> None:
    with world.database.transaction(Role.OPERATOR) as connection:
        revoke_key(connection, key_id, tenant_id=tenant_id, now=world.now)


@pytest.mark.parametrize("role", list(KeyRole))
def test_a_key_tells_whose_it_is(world: World, role: KeyRole) -> None:
    tenant = "acme" if role.belongs_to_tenant else None
    key = issue(world, role, tenant)
    found = caller(world, key.text)
    assert (found.key_id, found.role) == (key.id, role)
    assert (found.tenant.slug if found.tenant else None) == tenant
    assert key.text.startswith(key.public)
    assert key.text not in repr(key)


def test_keys_that_do_not_work_all_get_the_same_answer(world: World) -> None:
    revoked, expiring = issue(world), issue(world, expires_at=world.now + HOUR)
    revoke(world, revoked.id)
    assert caller(world, expiring.text, at=world.now + HOUR - timedelta(microseconds=1))
    unknown = issue(world)
    swapped = unknown.text.replace(unknown.public, expiring.public)
    answers: set[str] = set()
    for text, at in (
        (revoked.text, world.now),
        (expiring.text, world.now + HOUR),
        (swapped, world.now),
        (unknown.text[:-1] + ("0" if unknown.text[-1] != "0" else "1"), world.now),
        (unknown.public, world.now),
        ("", world.now),
        ("sk-sy-\0", world.now),
        ("é" * 60, world.now),
    ):
        with pytest.raises(Unauthenticated) as refused:
            caller(world, text, at=at)
        answers.add(str(refused.value))
    assert len(answers) == 1


def test_a_revoked_key_stays_in_the_list_and_is_revoked_once(world: World) -> None:
    key = issue(world)
    revoke(world, key.id)
    with pytest.raises(NotFound):
        revoke(world, key.id)
    with world.database.transaction(Role.OPERATOR) as connection:
        (listed,) = list_keys(connection, tenant_id=None)
    assert (listed.id, listed.public, listed.revoked_at) == (key.id, key.public, world.now)


def test_T1_a_tenant_lists_and_revokes_its_own_keys_only(world: World) -> None:
    mine, other = issue(world), issue(world, tenant="birch")
    acme = caller(world, mine.text).tenant
    assert acme is not None
    with world.database.transaction(Role.TENANT, tenant_id=acme.id) as connection:
        assert [key.id for key in list_keys(connection, tenant_id=acme.id)] == [mine.id]
        # Without a filter in the query, row security is what is left.
        assert [key.id for key in list_keys(connection, tenant_id=None)] == [mine.id]
        for tenant_id in (acme.id, None):
            with pytest.raises(NotFound):
                revoke_key(connection, other.id, tenant_id=tenant_id, now=world.now)
    with pytest.raises(NotFound):
        revoke(world, other.id, tenant_id=acme.id)
    assert caller(world, other.text)


def test_what_cannot_be_a_key_is_refused_and_nothing_is_stored(world: World) -> None:
    with pytest.raises(InvalidInput):
        issue(world, KeyRole.TENANT, None)
    with pytest.raises(InvalidInput):
        issue(world, KeyRole.OPERATOR, "acme")
    with pytest.raises(InvalidInput):
        issue(world, expires_at=world.now)
    with pytest.raises(InvalidInput):
        issue(world, name="x" * (KEY_NAME_CHARS_MAX + 1))
    with pytest.raises(InvalidInput):
        issue(world, name="two\nlines")
    with pytest.raises(NotFound):
        issue(world, tenant="nobody")
    with pytest.raises(NotFound):
        issue(world, project="nowhere")
    with world.database.transaction(Role.OPERATOR) as connection:
        assert list_keys(connection, tenant_id=None) == []


def test_secrets_are_nowhere_in_the_database(
    world: World, postgres: ServerAddress, database_name: str
) -> None:
    keys = [issue(world, role, "acme" if role.belongs_to_tenant else None) for role in KeyRole]
    revoke(world, keys[0].id)
    with psycopg.connect(postgres.owner_conninfo(database_name), autocommit=True) as owner:
        tables = owner.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace "
            "AND relkind = 'r' UNION ALL VALUES ('pg_stat_activity'), ('pg_description')"
        ).fetchall()
        content = "\n".join(
            row
            for (table,) in tables
            for (row,) in owner.execute(
                sql.SQL("SELECT t::text FROM {} t").format(sql.Identifier(table))
            ).fetchall()
        )
    for key in keys:
        secret = key.text[len(PREFIX) + PUBLIC_CHARS + 1 :]
        assert key.public in content  # the search finds what is there
        assert secret not in content
        assert secret[:-6] not in content
        assert key.text.encode().hex() not in content
        assert secret.encode().hex() not in content


def test_a_change_of_keys_is_announced_to_the_proxies(
    world: World, postgres: ServerAddress, database_name: str
) -> None:
    with psycopg.connect(postgres.app_conninfo(database_name), autocommit=True) as listener:
        listener.execute("LISTEN steelyard_control")
        key = issue(world)
        revoke(world, key.id)
        heard = [n.payload for n in listener.notifies(timeout=30, stop_after=2)]
    assert heard == ["api_key", "api_key"]
