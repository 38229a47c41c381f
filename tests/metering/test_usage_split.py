"""Usage split and filtered: by what was asked, of what was asked, from the coarsest level."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import psycopg
import pytest

from billing.errors import InvalidInput, NotFound
from billing.store.database import Database
from billing.store.embedded.address import ServerAddress
from tests.metering.test_dimensions_on_database import at, define, rows_of, send
from tests.world import World, make_world


@pytest.fixture
def world(database: Database, now: datetime) -> World:
    return make_world(database, now)


def test_T2_an_empty_filter_returns_nothing_and_none_returns_all(world: World) -> None:
    define(world, "10")
    tenant = world.tenant("acme")
    world.use(tenant, {"tokens.input": 5}, model="tiny")
    world.use(tenant, {"tokens.input": 7}, model="big")
    send(world, tenant, ({"v": 1, "n": 5}, at(1)))
    plain = ("model", "project")
    for name in ("meters", "models", "projects", "keys"):
        for by in (plain, ("dimension:context",)):
            for nobody in ((), ("",)):
                only: dict[str, Any] = {name: nobody}
                assert rows_of(world, tenant, by=by, **only) == [], name
    assert sum(row.quantity for row in rows_of(world, tenant, by=plain)) == 13
    (big,) = rows_of(world, tenant, by=plain, models=("big", "other"))
    assert (big.model, big.quantity) == ("big", 7)
    (ctx,) = rows_of(world, tenant, by=(), meters=("ctx",))
    assert (ctx.quantity, ctx.model, ctx.project) == (1, None, None)
    (both,) = rows_of(world, tenant, by=(), meters=("tokens.input",), projects=("default",))
    assert (both.quantity, both.events) == (12, 2)


def test_a_split_that_nobody_knows_is_refused(world: World) -> None:
    define(world, "10")
    tenant = world.tenant("acme")
    for by in (("weather",), ("dimension:context", "dimension:region")):
        with pytest.raises(InvalidInput, match="cannot be split"):
            rows_of(world, tenant, by=by)
    with pytest.raises(NotFound, match="no meter declares"):
        rows_of(world, tenant, by=("dimension:weather",))


@pytest.mark.parametrize("by", [("model",), ("dimension:context",)])
def test_a_month_by_day_is_read_from_the_days(
    world: World, postgres: ServerAddress, database_name: str, by: tuple[str, ...]
) -> None:
    define(world, "10")
    tenant = world.tenant("acme")
    send(world, tenant, ({"v": 1, "n": 5}, at(1)))
    before = rows_of(world, tenant, by=by, group="day", meters=("ctx",))
    with psycopg.connect(postgres.owner_conninfo(database_name), autocommit=True) as owner:
        for table in ("usage_rollup", "usage_dimension_rollup"):
            owner.execute(f"DELETE FROM {table}".encode())  # quarter hours alone
    assert rows_of(world, tenant, by=by, group="day", meters=("ctx",)) == before
    assert rows_of(world, tenant, by=by, group="hour", meters=("ctx",)) == []
