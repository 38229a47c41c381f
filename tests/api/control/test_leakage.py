"""Leakage over the API, and as a gauge."""

from __future__ import annotations

from datetime import datetime, timedelta

import httpx
import pytest

from billing.metering.leakage import Reconciled
from billing.operations.leakage.reconcile_hour import hour_of
from billing.store.catalog import ensure_backends
from billing.store.database import Database, Role
from billing.store.leakage import LeakageRow, write_leakage
from tests.api.control.conftest import Plane


def write(
    database: Database, hour: datetime, *, backend: str = "pool-a", ledger: int, complete: bool
) -> None:
    row = Reconciled(
        backend=backend,
        hour=hour,
        engine_prompt=6000,
        engine_generation=4000,
        ledger_prompt=6000,
        ledger_generation=ledger,
        scrap_attempts=2,
        reasons={"crash": 3},
        restarts=0,
        journals_behind=int(not complete),
        complete=complete,
    )
    with database.transaction(Role.INGEST) as connection:
        backend_id = ensure_backends(connection, [backend])[backend]
    with database.transaction(Role.OPERATOR) as connection:
        write_leakage(
            connection, LeakageRow(backend_id=backend_id, reconciled=row, reconciled_at=hour)
        )


@pytest.fixture
def written(database: Database, now: datetime) -> datetime:
    """The newest hour of three."""
    newest = hour_of(now).start - timedelta(hours=1)
    write(database, newest - timedelta(hours=2), ledger=3800, complete=True)
    write(database, newest - timedelta(hours=1), ledger=3900, complete=True)
    write(database, newest, ledger=0, complete=False)
    write(database, newest - timedelta(days=2), backend="pool-b", ledger=0, complete=True)
    return newest


def test_the_last_day_is_shown_by_default(operator: httpx.Client, written: datetime):
    shown = operator.get("operator/leakage").raise_for_status().json()
    assert shown["leakage_percent"] == "1.5"
    assert [hour["leakage_percent"] for hour in shown["hours"]] == ["2", "1", "40"]
    assert shown["hours"][-1] == {
        "hour": f"{written:%Y-%m-%dT%H}:00:00Z",
        "backend": "pool-a",
        "engine_prompt_tokens": 6000,
        "engine_output_tokens": 4000,
        "ledger_prompt_tokens": 6000,
        "ledger_output_tokens": 0,
        "leaked_tokens": 4000,
        "leakage_percent": "40",
        "attempts_not_billed": 2,
        "reasons": {"crash": 3},
        "restarts": 0,
        "journals_behind": 1,
        "complete": False,
    }


def test_a_limit_keeps_the_newest_and_bounds_choose_hours(
    operator: httpx.Client, written: datetime
):
    two = operator.get("operator/leakage", params={"limit": 2}).raise_for_status().json()
    assert [hour["leakage_percent"] for hour in two["hours"]] == ["1", "40"]
    bounds = {
        "from": (written - timedelta(hours=2)).isoformat(),
        "to": (written - timedelta(hours=1)).isoformat(),
    }
    one = operator.get("operator/leakage", params=bounds).raise_for_status().json()
    assert [hour["leakage_percent"] for hour in one["hours"]] == ["2"]
    for wrong in ({"limit": 0}, {"limit": 1001}, {"from": "yesterday"}):
        assert operator.get("operator/leakage", params=wrong).status_code == 400


def test_T1_no_tenant_sees_what_the_others_use(tenant: httpx.Client, written: datetime):
    del written
    assert tenant.get("operator/leakage").status_code == 403


def test_the_gauge_is_of_the_newest_complete_hour(plane: Plane, written: datetime):
    with httpx.Client(base_url=plane.url) as client:
        lines = client.get("/metrics").raise_for_status().text.splitlines()
    told = dict(line.rsplit(" ", 1) for line in lines if line.startswith("steelyard_leakage"))
    began = (written - timedelta(hours=1)).timestamp()
    assert {name: float(value) for name, value in told.items()} == {
        'steelyard_leakage_ratio{backend="pool-a"}': 0.01,
        'steelyard_leakage_hour_timestamp_seconds{backend="pool-a"}': began,
    }
