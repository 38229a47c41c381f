"""`steelyard credit` from an empty tenant to a voided grant."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from billing.ledger.credit_grant import Rollover
from billing.operations.credits.read_credits import read_credit
from billing.operations.credits.top_ups import consider_top_up
from billing.store.database import Database, Role
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
    shown = steelyard("credit", "statement", "acme", "--currency", "USD", "--json").document
    assert [row["kind"] for row in shown["movements"]] == ["granted", "voided"]
    assert (shown["opening"], shown["closing"]) == ("0", "0")
    assert "voided" in steelyard("credit", "statement", "acme", "--currency", "USD").out
    refused = steelyard("credit", "void", "nonsense", "--json")
    assert refused.error["field"] == "grant"


def test_terms_of_a_grant_can_be_given_at_the_command_line(
    database: Database, now: datetime, steelyard
) -> None:
    acme = make_world(database, now).tenant("acme")
    give = ("credit", "grant", "acme", "5.00", "--currency", "USD", "--source", "hello", "--json")
    end = ("--expires", "2027-01-01")
    more = ("--commitment", "--plan", "standard", "--plan", "trial")
    steelyard(*give, "--key", "all", *end, *more, "--rollover", "0.5", "--rollover-max", "2.00")
    steelyard(*give, "--key", "most", *end, "--rollover-max", "2.00")
    steelyard(*give, "--key", "plain")
    with database.transaction(Role.OPERATOR) as connection:
        view = read_credit(connection, tenant=acme, now=now)
    found = {row.grant.idempotency_key: row.grant for row in view.grants}
    assert found["all"].rollover == Rollover(fraction=Decimal("0.5"), maximum=Decimal(2))
    assert found["all"].scope.plans == {"standard", "trial"}
    assert found["all"].counts_toward_commitment
    assert found["most"].rollover == Rollover(maximum=Decimal(2))
    assert found["plain"].rollover is None
    assert found["plain"].scope.plans is None
    assert not found["plain"].counts_toward_commitment
    refused = steelyard(*give, "--key", "never-ends", "--rollover", "1")
    assert refused.status == 1
    refused = steelyard(*give, "--key", "too-much", *end, "--rollover", "1.5")
    assert refused.error["field"] == "rollover.fraction"


def test_a_top_up_from_its_policy_to_its_end(database: Database, now: datetime, steelyard) -> None:
    acme = make_world(database, now).tenant("acme")
    top_up = ("credit", "top-up")
    where = ("acme", "--currency", "USD")
    assert steelyard(*top_up, "show", *where, "--json").error["field"] == "currency"
    rule = ("--below", "20", "--amount", "50", "--most", "100")
    steelyard(*top_up, "set", *where, *rule)
    for _ in range(2):
        with database.transaction(Role.OPERATOR) as connection:
            consider_top_up(connection, tenant=acme, currency_code="USD", now=now)
    (asked,) = steelyard(*top_up, "show", *where, "--json").document["top_ups"]
    assert (asked["state"], asked["amount"]) == ("requested", "50")
    paid = steelyard(*top_up, "paid", asked["id"], "--json").document
    assert paid == steelyard(*top_up, "paid", asked["id"], "--json").document
    assert steelyard(*top_up, "declined", asked["id"], "--json").error["code"] == "conflict"
    assert steelyard(*top_up, "declined", "nonsense", "--json").error["field"] == "top_up"
    assert "paid" in steelyard(*top_up, "show", *where).out
