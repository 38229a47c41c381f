"""`steelyard leakage` at the terminal and for machines."""

from __future__ import annotations

from datetime import datetime, timedelta

from billing.metering.leakage import Reconciled
from billing.operations.leakage.reconcile_hour import hour_of
from billing.store.catalog import ensure_backends
from billing.store.database import Database, Role
from billing.store.leakage import LeakageRow, write_leakage


def write(database: Database, hour: datetime, *, ledger: int, complete: bool) -> None:
    row = Reconciled(
        backend="pool-a",
        hour=hour,
        engine_prompt=6000,
        engine_generation=4000,
        ledger_prompt=6000,
        ledger_generation=ledger,
        scrap_attempts=2,
        reasons={"crash": 3},
        journals_behind=0,
        restarts=0,
        complete=complete,
    )
    with database.transaction(Role.INGEST) as connection:
        backend_id = ensure_backends(connection, ["pool-a"])["pool-a"]
    with database.transaction(Role.OPERATOR) as connection:
        write_leakage(
            connection, LeakageRow(backend_id=backend_id, reconciled=row, reconciled_at=hour)
        )


def test_the_figure_is_of_complete_hours_only(steelyard, database: Database, now: datetime):
    hour = hour_of(now).start
    write(database, hour, ledger=3900, complete=True)
    write(database, hour + timedelta(hours=1), ledger=0, complete=False)
    document = steelyard("leakage", "--period", "2026-11", "--json").document
    assert document["leakage_percent"] == "1"
    assert [row["leakage_percent"] for row in document["hours"]] == ["1", "40"]
    assert document["hours"][0] == {
        "hour": "2026-11-15T12:00:00Z",
        "backend": "pool-a",
        "engine_prompt_tokens": 6000,
        "engine_output_tokens": 4000,
        "ledger_prompt_tokens": 6000,
        "ledger_output_tokens": 3900,
        "leaked_tokens": 100,
        "attempts_not_billed": 2,
        "reasons": {"crash": 3},
        "restarts": 0,
        "leakage_percent": "1",
        "journals_behind": 0,
        "complete": True,
    }
    shown = steelyard("leakage", "--period", "2026-11")
    assert "3,900" in shown.out
    assert "crash 3" in shown.out
    assert "complete hours together: 1 %" in shown.err


def test_where_nothing_was_reconciled_it_says_so(steelyard):
    assert "was reconciled" in steelyard("leakage", "--period", "2026-11").out
    document = steelyard("leakage", "--period", "2026-11", "--json").document
    assert (document["leakage_percent"], document["hours"]) == (None, [])
