"""What changed after the last invoice of a period: on documents of its own, nothing else (R4)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from os import environ
from uuid import UUID

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing.catalog.selector import RESIDUAL_KEY
from billing.errors import UnratedUsage
from billing.ledger.account import AccountCode
from billing.ledger.earning import LINE_ACCOUNTS
from billing.ledger.template import Books
from billing.metering.correction import Correction
from billing.operations.catalog.contracts import end_contract, list_contracts
from billing.operations.invoicing.draft_invoice import draft_invoice
from billing.operations.invoicing.explain_line import explain_lines
from billing.operations.invoicing.issue_corrections import issue_corrections
from billing.operations.invoicing.read_invoices import (
    InvoiceView,
    list_invoices,
    require_invoice,
)
from billing.operations.metering.correct_usage import correct_usage
from billing.store import ledger
from billing.store.database import Database, Role
from billing.store.embedded.address import ServerAddress
from billing.store.invoices import quantities
from billing.tenancy.tenant import Tenant
from tests.conftest import migrated_copy
from tests.operations.crash_points import Crash, crash_before
from tests.strategies import PATIENT
from tests.world import MONTH_END, World, issue, make_world, usage_report

FULL = environ.get("STEELYARD_ROUNDS") == "full"
NOVEMBER = datetime(2026, 11, 15, 12, 0, tzinfo=UTC)
LATER = MONTH_END + timedelta(days=5)
JANUARY = datetime(2027, 1, 1, tzinfo=UTC)

JUMPING = """
slug: {slug}
name: Volume, packages, bounds, promises and coupons
currency: USD
policies: {{correction: {correction}}}
charges:
  - type: volume
    key: input
    description: Input
    meter: tokens.input
    models: [tiny]
    tiers: [{{up_to: "1000", unit: "0.10"}}, {{unit: "0.04"}}]
    maximum: "90.00"
  - {{type: package, key: output, description: Output, meter: tokens.output, models: [tiny],
     size: "100", price: "3.335", minimum: "10.00"}}
  - {{type: per_unit, key: cached, description: Cached, meter: tokens.cached_input,
     models: [tiny], price: "0.0333",
     commitment: {{amount: "20.00", overage_factor: "1.5"}}}}
  - {{type: per_unit, key: requests, description: Requests, meter: requests, price: "0.0125"}}
commitments:
  - {{key: together, description: Together, amount: "80.00", charges: [input, output]}}
coupons:
  - {{key: tenth, description: A tenth off, percent_off: "10"}}
"""
METERS = ("tokens.input", "tokens.output", "tokens.cached_input", "requests")
_slugs = (f"tenant-{number}" for number in count(1))


@pytest.fixture(scope="module")
def world(postgres: ServerAddress) -> Iterator[World]:
    with migrated_copy(postgres) as name:
        opened = Database(postgres.app_url(name))
        made = make_world(opened, NOVEMBER)
        for correction in ("next_invoice", "credit_note"):
            slug = correction.replace("_", "-")
            made.plan(JUMPING.format(slug=slug, correction=correction))
        yield made
        opened.close()


def late(world: World) -> World:
    """The same world after November was invoiced."""
    return replace(world, now=LATER)


def tenant(world: World, plan: str = "next-invoice", *, ends: bool = True) -> Tenant:
    """A tenant whose one contract ends with November: no invoice follows by itself."""
    made = world.tenant(next(_slugs), plan=plan)
    if ends:
        with world.database.transaction(Role.OPERATOR) as connection:
            contract = list_contracts(connection, tenant_id=made.id)[0]
            end_contract(connection, contract.id, valid_until=MONTH_END)
    return made


def correct(world: World, owner: Tenant) -> list[InvoiceView]:
    with world.database.transaction(Role.OPERATOR) as connection:
        issued = issue_corrections(connection, tenant=owner, now=LATER)
    with world.database.transaction(Role.OPERATOR) as connection:
        views = [require_invoice(connection, str(row.id), tenant_id=None) for row in issued]
        for view in views:
            checks = [check for line in explain_lines(connection, view) for check in line.checks]
            assert all(check.agrees for check in checks)
            stored = quantities(connection, view.invoice.id)
            assert {row.period_start for row in stored} <= {owner.billing_period(NOVEMBER).start}
    return views


def void(world: World, owner: Tenant, events: Iterable[UUID]) -> None:
    with world.database.transaction(Role.OPERATOR) as connection:
        for event in events:
            correction = Correction(
                corrects=event, source="test", foreign_id=f"void-{event}", reason="a mistake"
            )
            correct_usage(connection, correction, tenant_id=owner.id, actor="tests", now=LATER)


def report(world: World, owner: Tenant, usage: Mapping[str, int], *, prefix: str) -> list[UUID]:
    """Report usage of November; ids of the events."""
    reports = [
        usage_report(
            foreign_id=f"{prefix}-{meter}",
            meter=meter,
            quantity=quantity,
            model="tiny" if meter.startswith("tokens.") else None,
            occurred_at=NOVEMBER,
        )
        for meter, quantity in usage.items()
        if quantity
    ]
    verdicts = world.report(owner, *reports)
    assert {verdict.kind for verdict in verdicts} <= {"accepted"}
    return [verdict.event_id for verdict in verdicts if verdict.event_id is not None]


def billed(views: list[InvoiceView]) -> dict[str, int]:
    """Minor units by key of the line, over documents; fractions carried are left out."""
    sums: dict[str, int] = {}
    for view in views:
        for line in view.lines:
            key = line.key.split("/", 1)[-1].split("@")[0]
            sums[key] = sums.get(key, 0) + line.amount_minor
    return {key: minor for key, minor in sums.items() if minor and key != RESIDUAL_KEY}


def books(world: World, owner: Tenant) -> dict[AccountCode, Decimal]:
    own = Books(legal_entity_id=1, tenant_id=owner.id, currency="USD")
    codes = (*LINE_ACCOUNTS, AccountCode.RECEIVABLE, AccountCode.UNBILLED)
    with world.database.transaction(Role.OPERATOR) as connection:
        return {code: ledger.balance(connection, own.account(code)) for code in codes}


def rows(world: World) -> dict[str, int]:
    """How many rows every table has that an invoice run may write."""
    tables = ("ledger_transaction", "posting", "invoice", "invoice_line", "invoice_quantity",
              "invoice_scope", "invoice_settlement", "credit_event", "number_series")  # fmt: skip
    with world.database.transaction(Role.OPERATOR) as connection:
        counted = {
            table: connection.execute(sa.text(f"SELECT count(*) FROM {table}")).scalar_one()
            for table in tables
        }
        taken = connection.execute(sa.text("SELECT max(next_number) FROM number_series"))
        return {**counted, "next number": taken.scalar_one()}


amounts = st.dictionaries(
    st.sampled_from(METERS), st.sampled_from([1, 99, 101, 600, 999, 1001, 2500]), max_size=4
)


@given(
    first=amounts,
    after=st.lists(amounts, min_size=1, max_size=3),
    voided=st.booleans(),
    plan=st.sampled_from(["next-invoice", "credit-note"]),
)
@settings(
    PATIENT,
    max_examples=200 if FULL else 10,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
def test_R4_corrections_add_up_to_one_invoice_on_the_final_data(
    world: World, first: dict[str, int], after: list[dict[str, int]], voided: bool, plan: str
) -> None:
    owner, final = tenant(world, plan), tenant(world, plan)
    both = (owner, final)
    events = {either.id: report(world, either, first, prefix="first") for either in both}
    documents = [issue(world, owner)]
    for number, usage in enumerate(after):
        for either in both:
            report(late(world), either, usage, prefix=f"late-{number}")
        documents += correct(world, owner)
    if voided and first:
        for either in both:
            void(world, either, events[either.id])
        documents += correct(world, owner)
    once = [issue(world, final)]
    assert billed(documents) == billed(once)
    mine, theirs = books(world, owner), books(world, final)
    assert [mine[code] for code in LINE_ACCOUNTS] == [theirs[code] for code in LINE_ACCOUNTS]
    # A fraction that one invoice carries on, two may have billed.
    assert sum(mine.values()) == sum(theirs.values()) == 0
    assert all(
        (view.invoice.total_minor < 0) == (view.invoice.kind == "credit_note") for view in documents
    )
    before = rows(world)
    assert correct(world, owner) == []
    assert rows(world) == before, "a second run wrote something"


def test_usage_after_the_last_invoice_is_an_invoice_of_corrections_with_an_ordinal(
    world: World,
) -> None:
    owner = tenant(world)
    report(world, owner, {"tokens.input": 2000}, prefix="first")
    issue(world, owner)
    heads = []
    for number in range(2):
        report(late(world), owner, {"requests": 1000}, prefix=f"late-{number}")
        (view,) = correct(world, owner)
        heads.append(view.invoice)
        # 12.50 less a tenth.
        assert billed([view]) == {"requests": 1250, "tenth": -125}
    assert [(head.kind, head.ordinal, head.period_start) for head in heads] == [
        ("correction", 1, owner.billing_period(NOVEMBER).start),
        ("correction", 2, owner.billing_period(NOVEMBER).start),
    ]
    assert heads[0].due_at == LATER + timedelta(days=30)


def test_what_sums_below_zero_is_a_credit_note_that_lowers_the_receivable(world: World) -> None:
    owner = tenant(world)
    events = report(world, owner, {"requests": 10_000}, prefix="first")
    first = issue(world, owner)
    void(world, owner, events)
    (note,) = correct(world, owner)
    assert (note.invoice.kind, note.invoice.state) == ("credit_note", "issued")
    assert note.invoice.total_minor == note.invoice.amount_due_minor == -11_250
    assert books(world, owner)[AccountCode.RECEIVABLE] == Decimal(
        first.invoice.total_minor + note.invoice.total_minor
    ) / Decimal(100)
    assert books(world, owner)[AccountCode.UNBILLED] == 0


def test_an_invoice_that_would_turn_negative_leaves_what_it_owes_to_a_credit_note(
    world: World,
) -> None:
    owner = tenant(world, ends=False)
    events = report(world, owner, {"requests": 20_000}, prefix="first")
    issue(world, owner)
    void(world, owner, events)
    with world.database.transaction(Role.OPERATOR) as connection:
        period = owner.billing_period(LATER)
        draft_invoice(connection, tenant=owner, period=period, now=JANUARY)
        draft = draft_invoice(connection, tenant=owner, period=period, now=JANUARY)
        drafts = list_invoices(connection, tenant_id=owner.id)
    assert [(each.kind, each.total_minor) for each in drafts if each.state == "draft"] == [
        (draft.kind, draft.total_minor),
        ("credit_note", -22_500),
    ]
    december = issue(world, owner, JANUARY)
    with world.database.transaction(Role.OPERATOR) as connection:
        issued = list_invoices(connection, tenant_id=owner.id)
    assert {(each.kind, each.total_minor, each.state) for each in issued[:2]} == {
        ("period", december.invoice.total_minor, "issued"),
        ("credit_note", -22_500, "issued"),
    }
    # Nothing was used: what was promised, less a tenth.
    assert december.invoice.total_minor == 9_000 == draft.total_minor
    assert not any("@" in line.key for line in december.lines)


def test_a_plan_may_want_what_it_gives_back_on_a_credit_note_though_an_invoice_could_carry_it(
    world: World,
) -> None:
    kinds = {}
    for plan in ("next-invoice", "credit-note"):
        owner = tenant(world, plan, ends=False)
        events = report(world, owner, {"requests": 100}, prefix="first")
        issue(world, owner)
        void(world, owner, events)
        issue(world, owner, JANUARY)
        with world.database.transaction(Role.OPERATOR) as connection:
            issued = list_invoices(connection, tenant_id=owner.id)
        kinds[plan] = sorted((each.kind, each.total_minor) for each in issued)
        assert sum(total for _, total in kinds[plan]) == 18_000
    assert kinds == {
        "next-invoice": [("period", 8_888), ("period", 9_112)],
        "credit-note": [("credit_note", -112), ("period", 9_000), ("period", 9_112)],
    }


def test_late_usage_without_a_price_stops_the_corrections_and_nothing_is_written(
    world: World,
) -> None:
    owner = tenant(world)
    issue(world, owner)
    priced = usage_report(foreign_id="late", meter="requests", model=None, occurred_at=NOVEMBER)
    unknown = usage_report(foreign_id="huge", model="huge", occurred_at=NOVEMBER)
    late(world).report(owner, priced, unknown)
    before = rows(world)
    with pytest.raises(UnratedUsage):
        correct(world, owner)
    assert rows(world) == before


def correct_and_die(world: World, owner: Tenant) -> None:
    with world.database.transaction(Role.OPERATOR) as connection:
        issue_corrections(connection, tenant=owner, now=LATER)
        raise Crash


def test_L5_dying_at_a_statement_leaves_nothing_and_the_next_run_issues_once(
    world: World,
) -> None:
    owner = tenant(world)
    events = report(world, owner, {"requests": 10_000}, prefix="first")
    issue(world, owner)
    report(late(world), owner, {"tokens.input": 600}, prefix="late")
    void(world, owner, events)
    before = rows(world)
    engine = world.database.engine
    with crash_before(engine, None) as statements, suppress(Crash):
        correct_and_die(world, owner)
    for number in {statements.sent * part // 5 for part in range(1, 6)}:
        with pytest.raises(Crash), crash_before(engine, number):
            correct(world, owner)
        assert rows(world) == before
    (note,) = correct(world, owner)
    assert note.invoice.kind == "credit_note"
    assert correct(world, owner) == []
