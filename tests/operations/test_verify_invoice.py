"""D10: issued invoices rated again from raw events are the same, and what was changed is named."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest
import sqlalchemy as sa

from billing.catalog.contract_terms import ChargeOverride, ContractTerms, TermLayer
from billing.errors import Conflict, NotFound
from billing.metering.correction import Correction
from billing.operations.catalog.contracts import bind_contract, end_contract, list_contracts
from billing.operations.invoicing.draft_invoice import draft_invoice
from billing.operations.invoicing.issue_corrections import issue_corrections
from billing.operations.invoicing.issue_invoice import issue_invoice
from billing.operations.invoicing.verify_invoice import (
    InvoiceCheck,
    verify_invoice,
    verify_invoices,
)
from billing.operations.metering.correct_usage import correct_usage
from billing.operations.tenancy.tenants import require_tenant
from billing.store.database import Database, Role, become
from billing.store.embedded.address import ServerAddress
from tests.conftest import migrated_copy
from tests.operations.test_corrections import JUMPING, LATER, NOVEMBER
from tests.world import MONTH_END, MONTH_START, World, make_world, usage_report

JANUARY = MONTH_END + timedelta(days=31)
SUPPORT = """
slug: support
name: Support
currency: USD
charges:
  - {type: flat_fee, key: support, description: Support, amount: "99.00"}
"""
TERMS = ContractTerms(
    always=TermLayer(overrides=(ChargeOverride(charge="cached", price=Decimal("0.04")),))
)
USAGE = {"tokens.input": 1500, "tokens.output": 250, "tokens.cached_input": 700, "requests": 999}


class Verified:
    """A database with invoices of every kind; changes by its owner are taken back."""

    def __init__(self, world: World, owner: sa.Engine) -> None:
        self.world = world
        self.owner = owner

    def checks(self, *changes: str) -> list[InvoiceCheck]:
        with self.changed(*changes) as connection:
            return list(verify_invoices(connection))

    @contextmanager
    def changed(self, *changes: str) -> Generator[sa.Connection]:
        with self.owner.connect() as connection, connection.begin() as undone:
            connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
            for change in changes:
                assert connection.exec_driver_sql(change).rowcount > 0, change
            become(connection, Role.OPERATOR)
            yield connection
            undone.rollback()

    def problems(self, *changes: str) -> str:
        return "\n".join(
            f"{finding.subject} {finding.problem}"
            for check in self.checks(*changes)
            for finding in check.findings
        )


@pytest.fixture(scope="module")
def verified(postgres: ServerAddress) -> Iterator[Verified]:
    with migrated_copy(postgres) as name:
        database = Database(postgres.app_url(name))
        engine = sa.create_engine(postgres.owner_url(name))
        yield Verified(_live(database), engine)
        engine.dispose()
        database.close()


def _live(database: Database) -> World:
    """November, late usage, a void, December, a contract bound backwards, one that ended."""
    world = make_world(database, NOVEMBER)
    world.plan(JUMPING.format(slug="jumping", correction="credit_note"))
    world.plan(SUPPORT)
    acme = world.tenant("acme", plan="jumping", terms=TERMS)
    void = world.report(
        acme,
        usage_report(
            foreign_id="void", meter="requests", model=None, quantity=4000, occurred_at=NOVEMBER
        ),
    )
    world.use(acme, USAGE)
    for end in (MONTH_END, JANUARY):
        with database.transaction(Role.OPERATOR) as connection:
            period = acme.billing_period(end - timedelta(days=1))
            issue_invoice(connection, tenant=acme, period=period, now=end)
            event = void[0].event_id
            assert event is not None
            if end == MONTH_END:
                correction = Correction(
                    corrects=event, source="test", foreign_id="v", reason="a mistake"
                )
                correct_usage(connection, correction, tenant_id=acme.id, actor="tests", now=LATER)
        replace(world, now=end).use(acme, {"tokens.output": 150}, occurred_at=NOVEMBER)
    after = JANUARY + timedelta(days=1)
    with database.transaction(Role.OPERATOR) as connection:
        issue_corrections(connection, tenant=acme, now=after)
        bind_contract(connection, tenant="acme", plan="support", valid_from=MONTH_START, now=after)
        bound = list_contracts(connection, tenant_id=acme.id)[0]
        end_contract(connection, bound.id, valid_until=JANUARY + timedelta(days=5))
    replace(world, now=after).use(acme, {"requests": 5}, occurred_at=NOVEMBER)
    return world


def test_D10_every_invoice_is_rated_again_to_the_last_bit_whatever_came_later(
    verified: Verified,
) -> None:
    checks = verified.checks()
    kinds = [(check.invoice.number, check.invoice.kind) for check in checks]
    assert sorted(kinds) == [
        ("INV-000001", "period"),
        ("INV-000002", "period"),
        ("INV-000003", "credit_note"),
        ("INV-000004", "correction"),
    ]
    assert [check.findings for check in checks] == [()] * 4
    assert all(check.from_events and check.lines > 0 for check in checks)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("UPDATE usage_event SET quantities = ARRAY[1] WHERE epoch = 1", "not what its events"),
        ("DELETE FROM usage_event WHERE epoch = 1", "not what its events"),
        ("UPDATE invoice_quantity SET quantity = quantity + 1", "not what its events"),
        ("DELETE FROM invoice_quantity", "not what its events"),
        ("UPDATE invoice_line SET amount_minor = amount_minor + 1", "bills"),
        ("UPDATE invoice_line SET exact = exact + 0.000000000001", "comes to"),
        ("UPDATE invoice_line SET explanation = '[]'", "says something else"),
        ("UPDATE invoice_line SET by_model = '[]'", "says something else"),
        ("DELETE FROM invoice_line WHERE ordinal = 1", "is missing"),
        ("UPDATE invoice_line SET key = 'contract-1/nothing'", "not rated from"),
        ("UPDATE invoice SET subtotal_minor = subtotal_minor + 1, total_minor = total_minor + 1",
         "do not add up"),
        ("UPDATE posting SET amount = amount * 2", "moved into receivables"),
        ("UPDATE contract_terms SET document = jsonb_set(document, '{overrides,0,price}', '\"9\"')",
         "terms of contract"),
        (("UPDATE plan_version SET document = jsonb_set(document, '{charges,3,price}', '\"9\"') "
         "WHERE slug = 'jumping'"), "not the one that was applied"),
        ("UPDATE invoice_scope SET watermark = 1", "not what its events"),
    ],
)  # fmt: skip
def test_what_was_changed_is_named(verified: Verified, change: str, named: str) -> None:
    assert named in verified.problems(change)


def test_lines_are_rated_from_stored_quantities_once_events_have_left(verified: Verified) -> None:
    left = (
        "INSERT INTO usage_horizon (month, archive_id, oldest_kept, dropped_at) "
        "VALUES ('2026-12-01', 1, '2027-01-01Z', '2027-01-01Z')"
    )
    checks = verified.checks(left)
    assert [(check.from_events, check.findings) for check in checks] == [(False, ())] * 4
    assert "bills" in verified.problems(left, "UPDATE invoice_quantity SET quantity = quantity * 2")


def test_a_draft_is_not_verified(verified: Verified) -> None:
    with verified.world.database.transaction(Role.OPERATOR) as connection:
        acme = require_tenant(connection, "acme")
        draft = draft_invoice(
            connection, tenant=acme, period=acme.billing_period(JANUARY), now=JANUARY
        )
        with pytest.raises(Conflict):
            verify_invoice(connection, str(draft.id))
        with pytest.raises(NotFound):
            verify_invoice(connection, "INV-999999")
        connection.rollback()
