"""`invoice explain` prints the way from a line to its requests, and fails where figures differ."""

from __future__ import annotations

from datetime import timedelta

import psycopg
import pytest

from billing.operations.invoicing.issue_invoice import issue_invoice
from billing.store.database import Database, Role
from billing.store.embedded.address import ServerAddress
from tests.cli.conftest import Run
from tests.world import MONTH_END, make_world

LINE = ("invoice", "explain", "INV-000001", "--line", "2")


@pytest.fixture
def issued(database: Database, now, steelyard: Run) -> Run:
    """November of a tenant with two requests, and December that corrects it by a third."""
    world = make_world(database, now)
    acme = world.tenant("acme")
    world.use(acme, {"tokens.output": 900_000})
    world.use(acme, {"tokens.output": 600_000}, occurred_at=now - timedelta(days=1))
    for end in (MONTH_END, MONTH_END + timedelta(days=31)):
        period = acme.billing_period(end - timedelta(days=1))
        with database.transaction(Role.OPERATOR) as connection:
            issue_invoice(connection, tenant=acme, period=period, now=end)
        world.use(acme, {"tokens.output": 100_000})
    return steelyard


def test_a_line_is_followed_to_its_requests(issued: Run):
    whole = issued("invoice", "explain", "INV-000001")
    assert "Checked: 5 figures agree" in whole.out
    line = issued(*LINE)
    assert "1.5 x" not in line.out
    assert "0.8" in line.out
    assert "= 1.10 USD" in line.out
    assert "Contract 1 on plan standard@1." in line.out

    by_day = issued(*LINE, "--usage", "day", "--json").document
    assert [row["quantity"] for row in by_day["usage"]] == ["600000", "900000"]
    by_bucket = issued(*LINE, "--usage", "bucket")
    assert "2026-11-15 12:00" in by_bucket.out

    first = issued(*LINE, "--events", "--limit", "1", "--json").document
    assert (first["quantity"], len(first["events"])) == ("1500000", 1)
    rest = issued(*LINE, "--events", "--after", first["next"])
    assert "req_" in rest.out
    assert "900,000" in rest.out
    assert "All requests, on this page or not: 1,500,000" in rest.out
    one_day = ("--events", "--from", "2026-11-15", "--to", "2026-11-16", "--json")
    assert issued(*LINE, *one_day).document["quantity"] == "900000"


@pytest.mark.parametrize(
    "option", [("--from", "2026-11-15"), ("--to", "2026-11-16"), ("--after", "req_1")]
)
def test_what_chooses_among_requests_is_not_ignored_without_them(issued: Run, option: list[str]):
    told = issued(*LINE, *option)
    assert told.status != 0
    assert option[0][2:] in told.err
    assert "--events" in told.err


def test_a_correction_shows_what_was_billed_before(issued: Run):
    told = issued("invoice", "explain", "INV-000002")
    assert "1.16 since the period began, less 1.10 that was billed before" in told.out
    assert "= 0.06 USD" in told.out
    line = issued("invoice", "explain", "INV-000002", "--line", "2", "--json").document
    assert (line["billed_before"], line["amount"]) == ("1.10", "0.06")
    assert [check["agrees"] for check in line["checks"]] == [True] * 3


def test_a_difference_is_loud(issued: Run, postgres: ServerAddress, database_name: str):
    with psycopg.connect(postgres.owner_conninfo(database_name), autocommit=True) as owner:
        owner.execute("UPDATE usage_rollup SET quantity = quantity - 1")
    told = issued(*LINE, "--usage", "day")
    assert told.status == 1
    assert "MISMATCH: usage adds up to the line's quantity: 1500000 stated, 1499998" in told.out
    as_json = issued(*LINE, "--json")
    assert as_json.status == 1
    assert [check["agrees"] for check in as_json.document["checks"]] == [True, True, False]


def test_usage_is_of_a_line(issued: Run):
    refused = issued("invoice", "explain", "INV-000001", "--events", "--json")
    assert (refused.status, refused.error["field"]) == (1, "line")
