"""From an invoice line to its requests: every figure adds up, or says that it does not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import psycopg
import pytest

from billing.errors import Conflict, InvalidInput, NotFound
from billing.metering.correction import Correction
from billing.operations.catalog.contracts import bind_contract, end_contract, list_contracts
from billing.operations.invoicing.explain_line import (
    Check,
    LineEvents,
    LineExplanation,
    LineUsage,
    events_of_line,
    explain_line,
    explain_lines,
    usage_of_line,
)
from billing.operations.invoicing.read_invoices import InvoiceView
from billing.operations.metering.correct_usage import correct_usage
from billing.period import Period
from billing.store.database import Database, Role
from billing.store.embedded.address import ServerAddress
from tests.world import MONTH_END, MONTH_START, World, issue, make_world, usage_report

DECEMBER_END = datetime(2027, 1, 1, tzinfo=UTC)


@pytest.fixture
def world(database: Database, now: datetime) -> World:
    return make_world(database, now)


def explained(world: World, view: InvoiceView) -> dict[str, LineExplanation]:
    """By key of the charge, all of which agree."""
    with world.database.transaction(Role.OPERATOR) as connection:
        found = explain_lines(connection, view)
    assert [check for each in found for check in each.checks if not check.agrees] == []
    return {each.line.key.split("/", 1)[-1]: each for each in found}


def usage(world: World, view: InvoiceView, line: str, group: str = "day") -> LineUsage:
    with world.database.transaction(Role.OPERATOR) as connection:
        return usage_of_line(
            connection, tenant_id=None, invoice=str(view.invoice.id), line=line, group=group
        )


def events(
    world: World,
    view: InvoiceView,
    line: str,
    *,
    period: Period | None = None,
    after: str | None = None,
    limit: int = 100,
) -> LineEvents:
    with world.database.transaction(Role.OPERATOR) as connection:
        return events_of_line(
            connection,
            tenant_id=None,
            invoice=str(view.invoice.id),
            line=line,
            period=period,
            after=after,
            limit=limit,
        )


def disagreeing(checks: tuple[Check, ...]) -> list[str]:
    return [check.name for check in checks if not check.agrees]


def require_agreement(checks: tuple[Check, ...]) -> None:
    assert disagreeing(checks) == []
    assert checks, "nothing was compared"


def test_a_line_is_its_days_its_quarters_and_its_requests(world: World):
    acme, bolt = world.tenant("acme"), world.tenant("bolt")
    for hours, quantity in ((0, 700_000), (0, 5), (1, 900_000), (30, 11)):
        world.use(acme, {"tokens.output": quantity}, occurred_at=world.now - timedelta(hours=hours))
    world.use(bolt, {"tokens.output": 77})
    view = issue(world, acme)
    line = next(line for line in view.lines if line.meter == "tokens.output")

    assert explained(world, view)["output"].counts == "tokens.output"
    by_day = usage(world, view, line.key)
    assert [(row.start, row.quantity, row.events) for row in by_day.rows] == [
        (datetime(2026, 11, 14, tzinfo=UTC), 11, 1),
        (datetime(2026, 11, 15, tzinfo=UTC), 1_600_005, 3),
    ]
    by_quarter = usage(world, view, line.key, "bucket")
    assert [(row.start.hour, row.quantity) for row in by_quarter.rows] == [
        (6, 11),
        (11, 900_000),
        (12, 700_005),
    ]
    found = events(world, view, line.key)
    assert [event.quantity for event in found.events[:2]] == [11, 900_000]
    assert {event.quantity for event in found.events[2:]} == {700_000, 5}, "at one instant"
    assert found.quantity == line.quantity == 1_600_016
    for answer in (by_day, by_quarter, found):
        require_agreement(answer.checks)


def test_events_come_in_pages_that_hold_each_once(world: World):
    acme = world.tenant("acme")
    for number in range(7):
        world.use(acme, {"tokens.output": 2**number * 10**5, "tokens.input": 1})
    view = issue(world, acme)
    line = next(line for line in view.lines if line.meter == "tokens.output").key
    seen: list[Decimal] = []
    after: str | None = None
    while True:
        page = events(world, view, line, after=after, limit=3)
        assert page.quantity == 127 * 10**5, "the quantity is that of all pages"
        seen += [event.quantity for event in page.events]
        if page.following is None:
            break
        after = f"req_{page.following.hex}"
    assert sorted(seen) == [2**number * 10**5 for number in range(7)]

    quarter = Period(start=world.now, end=world.now + timedelta(minutes=15))
    assert events(world, view, line, period=quarter).quantity == 127 * 10**5
    later = Period(start=quarter.end, end=quarter.end + timedelta(minutes=15))
    assert events(world, view, line, period=later).events == ()
    with pytest.raises(InvalidInput):
        events(world, view, line, limit=0)
    with pytest.raises(InvalidInput):
        events(world, view, line, period=Period(start=MONTH_END, end=DECEMBER_END))
    with pytest.raises(NotFound):
        events(world, view, line, after="req_" + "0" * 32)


def test_D10_an_invoice_is_explained_as_of_its_watermark(world: World):
    acme = world.tenant("acme")
    world.use(acme, {"tokens.output": 900_000})
    november = issue(world, acme)
    late = usage_report(
        foreign_id="late", meter="tokens.output", quantity=300_000, occurred_at=world.now
    )
    world.report(acme, late)
    december = issue(world, acme, DECEMBER_END)

    before = next(line.key for line in november.lines if line.meter)
    assert explained(world, november)["output"].billed_before_minor == 0
    assert [row.quantity for row in usage(world, november, before).rows] == [900_000]
    assert [event.quantity for event in events(world, november, before).events] == [900_000]
    assert disagreeing(events(world, november, before).checks) == []

    correction = explained(world, december)["output@2026-11-01"]
    assert (correction.exact, correction.billed_before_minor) == (Decimal("0.92"), 72)
    assert correction.line.amount_minor == 20
    assert correction.period.start == MONTH_START
    found = events(world, december, correction.line.key)
    assert sorted(event.quantity for event in found.events) == [300_000, 900_000]
    assert disagreeing(found.checks) == []


def test_usage_that_was_taken_back_is_among_the_events_with_what_took_it_back(world: World):
    acme = world.tenant("acme")
    world.use(acme, {"tokens.output": 900_000})
    world.use(acme, {"tokens.output": 500_000})
    view = issue(world, acme)
    line = next(line.key for line in view.lines if line.meter)
    mistaken = events(world, view, line).events[0]
    with world.database.transaction(Role.OPERATOR) as connection:
        correct_usage(
            connection,
            Correction(
                corrects=mistaken.id, source="ops", foreign_id="c-1", reason="counted twice"
            ),
            tenant_id=acme.id,
            actor="test",
            now=MONTH_END,
        )
    assert sum(event.quantity for event in events(world, view, line).events) == 1_400_000
    december = issue(world, acme, DECEMBER_END)
    correction = explained(world, december)["output@2026-11-01"]
    found = events(world, december, correction.line.key)
    assert min(event.quantity for event in found.events) == -mistaken.quantity
    assert found.quantity == 1_400_000 - mistaken.quantity
    assert disagreeing(found.checks) == []


def test_R7_contracts_one_after_the_other_share_no_usage(world: World, now: datetime):
    acme = world.tenant("acme")
    half = MONTH_START + timedelta(days=14)
    with world.database.transaction(Role.OPERATOR) as connection:
        first = list_contracts(connection, tenant_id=acme.id)[0]
        end_contract(connection, first.id, valid_until=half)
        bind_contract(connection, tenant="acme", plan="standard", valid_from=half, now=now)
    world.use(acme, {"tokens.output": 3_000_000}, occurred_at=half - timedelta(minutes=1))
    world.use(acme, {"tokens.output": 5_000_000}, occurred_at=half)
    view = issue(world, acme)
    quantities = [
        [row.quantity for row in usage(world, view, line.key).rows]
        for line in view.lines
        if line.meter
    ]
    assert quantities == [[3_000_000], [5_000_000]]
    explained(world, view)


def test_a_figure_that_was_tampered_with_is_told(
    world: World, postgres: ServerAddress, database_name: str
):
    acme = world.tenant("acme")
    world.use(acme, {"tokens.output": 900_000})
    view = issue(world, acme)
    line = next(line.key for line in view.lines if line.meter)
    with psycopg.connect(postgres.owner_conninfo(database_name), autocommit=True) as owner:
        owner.execute("UPDATE usage_rollup SET quantity = quantity + 1")
    with world.database.transaction(Role.OPERATOR) as connection:
        told = explain_line(
            connection, tenant_id=None, invoice=str(view.invoice.id), line=line
        ).checks
    assert disagreeing(told) == ["usage adds up to the line's quantity"]
    assert disagreeing(usage(world, view, line).checks) == ["usage adds up to the line's quantity"]
    # The events are still what the line was rated from: it is the rollup that is wrong.
    assert disagreeing(events(world, view, line).checks) == ["events add up to the rollup"]


def test_T1_a_tenant_explains_its_own_lines_alone(world: World):
    acme, bolt = world.tenant("acme"), world.tenant("bolt")
    world.use(acme, {"tokens.output": 900_000})
    invoice = str(issue(world, acme).invoice.id)
    for asking in (explain_line, usage_of_line, events_of_line):
        with world.database.transaction(Role.TENANT, tenant_id=acme.id) as connection:
            answer = asking(connection, tenant_id=acme.id, invoice=invoice, line="2")
        require_agreement(answer.checks)
        with (
            world.database.transaction(Role.TENANT, tenant_id=bolt.id) as connection,
            pytest.raises(NotFound),
        ):
            asking(connection, tenant_id=bolt.id, invoice=invoice, line="2")
        # Row-level security holds even where the query asks for everybody's.
        with (
            world.database.transaction(Role.TENANT, tenant_id=bolt.id) as connection,
            pytest.raises(NotFound),
        ):
            asking(connection, tenant_id=None, invoice=invoice, line="2")


def test_a_line_that_counts_nothing_says_so(world: World):
    view = issue(world, world.tenant("acme"))
    assert explained(world, view)["platform"].counts is None
    with pytest.raises(Conflict, match="counts no usage"):
        usage(world, view, "1")
    with pytest.raises(NotFound):
        usage(world, view, "2")
    with pytest.raises(InvalidInput):
        usage(world, view, "1", "week")
