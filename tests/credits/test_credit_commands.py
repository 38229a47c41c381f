"""`steelyard credit` from an empty tenant to a voided grant."""

from __future__ import annotations

from datetime import datetime

from billing.store.database import Database
from tests.cli.conftest import run_command, steelyard
from tests.world import make_world

__all__ = ["steelyard"]


def test_credit_from_nothing_to_voided(database: Database, now: datetime, steelyard) -> None:
    assert steelyard is run_command
    make_world(database, now).tenant("acme")
    assert "No credit yet" in steelyard("credit", "list", "acme").out
    give = ("credit", "grant", "acme", "5.00", "--currency", "USD", "--source", "hello", "--json")
    granted = steelyard(*give, "--key", "k").document
    assert (granted["remaining"], granted["kind"]) == ("5", "promotional")
    assert steelyard(*give, "--key", "k").document["id"] == granted["id"]
    listed = steelyard("credit", "list", "acme", "--json").document
    assert listed["balances"] == [{"currency": "USD", "available": "5", "held": "0"}]
    assert "hello" in steelyard("credit", "list", "acme").out
    applied = steelyard("credit", "apply", "acme", "--period", "2026-11", "--json").document
    assert applied == {"applied": {"USD": "0"}}
    assert steelyard("credit", "expire", "--json").document == {"expired": 0, "granted_again": 0}
    assert steelyard("credit", "void", granted["id"], "--json").document["remaining"] == "0"
    refused = steelyard("credit", "void", "nonsense", "--json")
    assert refused.error["field"] == "grant"
