"""A limit that cannot be kept stops the start, and changes nothing of a proxy that runs."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime

import psycopg
import pytest

from api.proxy.control.snapshots import Control, utc_now
from api.proxy.tally import Tally
from billing.admission.limit import Unit, Window
from billing.cli.processes import Child, free_port
from billing.errors import ConfigurationError
from billing.exit_status import ENVIRONMENT
from billing.operations.tenancy.keys import issue_key, revoke_key
from billing.planfiles.backend_file import BackendModel, BackendSpec
from billing.store.catalog import ensure_models
from billing.store.database import Database, Role
from billing.tenancy.api_key import Role as KeyRole
from tests.api.proxy.conftest import until
from tests.operations.lease_world import make_limit
from tests.world import World, make_world

BACKENDS = [
    BackendSpec(
        name="a", url="http://127.0.0.1:9", engine="vllm", models=(BackendModel(name="tiny"),)
    )
]

DROP = "ALTER TABLE spend_limit DROP CONSTRAINT spend_limit"
# What breaks a limit that was sound when it was made, and what the refusal has to say.
BROKEN = {
    "unit": (
        f"{DROP}_unit_check; {DROP}_unit_currency; UPDATE spend_limit SET unit = 'furlongs'",
        "unit or window",
    ),
    "window": (
        f"{DROP}_span_check; UPDATE spend_limit SET span = 'fortnight'",
        "unit or window",
    ),
    "zone": ("UPDATE tenant SET zone = 'Mars/Olympus_Mons' WHERE slug = 'acme'", "time zone"),
    "currency": ("UPDATE spend_limit SET currency = 'ZZZ'", "currency"),
    "other currency": ("UPDATE spend_limit SET currency = 'EUR'", "charged in USD"),
    "model": (
        "UPDATE spend_limit SET model_id = (SELECT id FROM model WHERE name = 'gone')",
        "no backend serves",
    ),
}
BY_KIND = pytest.mark.parametrize("kind", BROKEN)


@pytest.fixture
def world(database: Database, now: datetime) -> World:
    world = make_world(database, now)
    acme = world.tenant("acme")
    with database.transaction(Role.INGEST) as connection:
        ensure_models(connection, ["gone"])
    make_limit(database, acme, "budget", "10", now=now, unit=Unit.MONEY, span=Window.DAY)
    return world


@pytest.fixture
def as_owner(postgres, database_name: str) -> Callable[[str], None]:
    """Runs statements as a careless operator would: past every check of ours."""

    def run(statements: str) -> None:
        with psycopg.connect(postgres.owner_conninfo(database_name), autocommit=True) as owner:
            owner.execute(statements.encode())

    return run


@asynccontextmanager
async def running(
    database: Database, backends: list[BackendSpec] | None = None
) -> AsyncIterator[Control]:
    control = await Control.start(database, database.conninfo(), backends or BACKENDS, now=utc_now)
    try:
        yield control
    finally:
        await control.stop()


@BY_KIND
async def test_a_limit_that_cannot_be_wired_stops_the_start(database, world, as_owner, kind):
    async with running(database) as control:
        (terms,) = control.snapshot.terms.values()
        assert [limit.name for limit in terms.limits] == ["budget"]
    statements, reason = BROKEN[kind]
    as_owner(statements)
    with pytest.raises(ConfigurationError) as refused:
        async with running(database):
            pass
    for part in ("`budget`", "`acme`", reason):
        assert part in refused.value.message
    assert "steelyard limit end" in (refused.value.remedy or "")


@BY_KIND
async def test_a_limit_that_breaks_while_it_runs_is_kept_as_it_was(
    database, world, as_owner, now, kind
):
    with database.transaction(Role.OPERATOR) as connection:
        key = issue_key(connection, role=KeyRole.INFERENCE, tenant="acme", name="app", now=now)
    digest = hashlib.sha256(key.text.encode()).digest()
    async with running(database) as control:
        before = control.snapshot.terms
        as_owner(BROKEN[kind][0] + "; NOTIFY steelyard_control")
        await until(lambda: control.counts.refused)
        assert control.counts.unusable
        assert control.snapshot.terms == before
        metrics = shown(control)
        assert "steelyard_proxy_snapshot_unusable 1.0" in metrics
        assert "steelyard_proxy_snapshots_refused_total{reason=" in metrics
        # No tenant's mistake keeps another one's key alive.
        with database.transaction(Role.OPERATOR) as connection:
            revoke_key(connection, key.id, tenant_id=None, now=now)
        await until(lambda: digest not in control.snapshot.keys)
        assert control.snapshot.terms == before
        as_owner("UPDATE tenant SET zone = 'UTC'; UPDATE spend_limit SET ended_at = now()")
        await until(lambda: not control.counts.unusable)
        (terms,) = control.snapshot.terms.values()
        assert terms.limits == ()


async def test_a_model_that_an_engine_may_yet_name_breaks_nothing(database, world, as_owner):
    silent = BackendSpec(name="b", url="http://127.0.0.1:9", engine="vllm", models=())
    as_owner(BROKEN["model"][0])
    async with running(database, [*BACKENDS, silent]) as control:
        (terms,) = control.snapshot.terms.values()
        assert [limit.name for limit in terms.limits] == ["budget"]


async def test_the_process_says_which_limit_and_what_to_do(database, world, as_owner, tmp_path):
    as_owner(BROKEN["model"][0])
    environment = {
        "STEELYARD_DATABASE_URL": database.engine.url.render_as_string(hide_password=False),
        "STEELYARD_DATA_DIR": str(tmp_path / "data"),
        "STEELYARD_BACKENDS": "tiny=http://127.0.0.1:9#vllm",
        "STEELYARD_PROXY_PORT": str(free_port()),
        "STEELYARD_PROXY_METRICS_PORT": "0",
    }
    said = tmp_path / "proxy.log"
    with said.open("wb") as log:
        child = Child(name="proxy", module="api.proxy", environment=environment, log=log)
        child.start()
        try:
            async with asyncio.timeout(60):
                while child.exit_status is None:  # noqa: ASYNC110  # another process has no event
                    await asyncio.sleep(0.05)
        finally:
            child.stop()
    assert child.exit_status == ENVIRONMENT
    text = said.read_text()
    assert "`budget` of tenant `acme`" in text
    assert "steelyard limit end acme budget" in text
    assert "Traceback" not in text


def shown(control: Control) -> str:
    tally = Tally()
    tally.include(control.counts.collect)
    return tally.render().decode()
