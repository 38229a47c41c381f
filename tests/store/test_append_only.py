"""L2 by direct SQL: what a ledger holds, nobody changes, not the roles and not the owner."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import psycopg
import pytest
import sqlalchemy as sa
from psycopg.errors import IntegrityConstraintViolation
from sqlalchemy.exc import DBAPIError

from billing.operations.invoicing.draft_invoice import draft_invoice
from billing.store.database import Database, Role, become, query
from billing.store.embedded.address import ServerAddress
from tests.store.full_world import make_full_world
from tests.world import MONTH_END

MAY_CHANGE = {
    # projections, positions and rows whose one change has a rule of its own
    "usage_rollup", "usage_rollup_day", "usage_run_total", "ledger_epoch", "journal_cursor",
    "usage_dimension_rollup", "usage_dimension_rollup_day",
    "number_series", "account_balance",
    "api_key", "contract", "invoice", "invoice_line", "invoice_quantity", "invoice_scope",
    "invoice_settlement", "stripe_customer", "stripe_event", "invoice_mirror",
    "credit_balance", "credit_reservation", "spend_limit", "open_hold", "usage_import",
    "unsealed_transaction", "accrual_due", "accrual_turn", "spend_threshold",
    "proxy_process", "lease", "limit_draw",
    # measurements, and what comes of them: neither bills anything
    "engine_sample", "leakage",
    # whose objects at backends are, and how far batches are billed: their lines are events
    "backend_object", "backend_object_gone", "batch_run",
    # names of things, which other tables refer to by row id
    "legal_entity", "tenant", "project", "model", "backend",
    "alembic_version",
}  # fmt: skip
"""Every other table is a ledger: one that is added later must be append-only, or be named here."""

PARTS = ("invoice_line", "invoice_quantity", "invoice_scope", "invoice_settlement")
"""What an invoice consists of, and stays with it."""

CHANGES = (
    "UPDATE {table} SET {column} = {column}",
    "DELETE FROM {table}",
    "TRUNCATE {table} CASCADE",
)
INVOICE_CHANGES = (
    "UPDATE invoice SET total_minor = 0, subtotal_minor = 0",
    "UPDATE invoice SET number = 'INV-999999'",
    "UPDATE invoice SET watermark = watermark + 1",
    "UPDATE invoice SET state = 'draft', number = NULL, issued_at = NULL, due_at = NULL",
    "DELETE FROM invoice",
    "DELETE FROM invoice_line",
    "DELETE FROM invoice_quantity",
    "DELETE FROM invoice_scope",
    "DELETE FROM invoice_settlement",
    "UPDATE invoice_line SET amount_minor = 0",
    "UPDATE invoice_quantity SET quantity = 0",
    "UPDATE invoice_scope SET watermark = watermark + 1",
    "UPDATE invoice_settlement SET accrued = 0, amount_minor = 0",
    "TRUNCATE invoice_scope",
    "TRUNCATE invoice_settlement",
    "INSERT INTO invoice_settlement SELECT id, 1, period_start, 'x', 1, 1, 1 FROM invoice",
    "TRUNCATE invoice CASCADE",
    "TRUNCATE invoice_line",
    "TRUNCATE invoice_quantity",
    "INSERT INTO invoice_quantity SELECT id, 99, 1, 1, 'tokens.input', 'tiny', 1 FROM invoice",
)

REFUSED_TO_ROLE = "42501"
"""insufficient_privilege"""


@pytest.fixture
def owner(postgres: ServerAddress, database_name: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(postgres.owner_conninfo(database_name), autocommit=True) as connection:
        yield connection


def ledger_tables(owner: psycopg.Connection) -> dict[str, str]:
    """Ledger tables and their partitions, each with one of its columns."""
    rows = owner.execute(
        "SELECT DISTINCT ON (c.relname) c.relname, a.attname FROM pg_class c "
        "JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND a.attidentity = '' "
        "WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')"
    ).fetchall()
    return {
        name: column
        for name, column in rows
        if name not in MAY_CHANGE and not name.startswith("procrastinate_")
    }


def test_L2_the_ledgers_are_those_that_the_design_names(owner: psycopg.Connection) -> None:
    tables = set(ledger_tables(owner))
    assert {
        "usage_event", "usage_event_202611", "usage_key", "usage_key_0", "usage_key_7",
        "usage_source", "posting",
        "ledger_transaction", "account", "outcome_claim", "outcome_transition",
        "outcome_definition", "plan_version", "meter_version", "price_version", "meter_set",
        "usage_shape", "cost_statement", "scrap_attempt",
    } <= tables | {"usage_event_202611"}  # fmt: skip
    assert not tables & MAY_CHANGE


def test_L2_no_role_can_change_a_ledger_row(database: Database, owner: psycopg.Connection) -> None:
    full = make_full_world(database)
    tables = ledger_tables(owner)
    assert "usage_event_202611" in tables
    with database.engine.connect() as connection:
        for role in Role:
            for table, column in tables.items():
                for change in CHANGES:
                    tenant = full.acme.id if role is Role.TENANT else None
                    with connection.begin():
                        become(connection, role, tenant_id=tenant)
                        with pytest.raises(DBAPIError) as refused:
                            connection.execute(sa.text(change.format(table=table, column=column)))
                        connection.rollback()
                    assert refused.value.orig is not None
                    state = getattr(refused.value.orig, "sqlstate", None)
                    assert state == REFUSED_TO_ROLE, (role, table, change)


def test_L2_even_the_owner_is_refused(database: Database, owner: psycopg.Connection) -> None:
    make_full_world(database)
    for table, column in ledger_tables(owner).items():
        for change in CHANGES:
            with pytest.raises(IntegrityConstraintViolation, match="append-only"):
                owner.execute(change.format(table=table, column=column).encode())


def test_L2_a_partition_made_later_is_guarded_too(
    database: Database, owner: psycopg.Connection
) -> None:
    before = set(ledger_tables(owner))
    with database.transaction(Role.MAINTAINER) as connection:
        for kind in ("usage", "property", "detail"):
            query(connection, f"SELECT ensure_{kind}_partitions('2031-01-31T23:59Z', 1)")
    made = set(ledger_tables(owner)) - before
    assert made == {
        f"usage_{kind}_{month}"
        for kind in ("event", "property", "attempt", "step")
        for month in (203101, 203102)
    }
    for table in sorted(made):
        with pytest.raises(IntegrityConstraintViolation, match="append-only"):
            owner.execute(f"DELETE FROM {table}".encode())


def test_L2_an_issued_invoice_and_its_lines_stay(
    database: Database, owner: psycopg.Connection
) -> None:
    make_full_world(database)

    def content() -> list[list[tuple[object, ...]]]:
        return [
            owner.execute(f"SELECT * FROM {table} ORDER BY 1, 2".encode()).fetchall()
            for table in ("invoice", *PARTS)
        ]

    before = content()
    assert all(before)
    for change in INVOICE_CHANGES:
        with pytest.raises(DBAPIError), database.transaction(Role.OPERATOR) as connection:
            connection.execute(sa.text(change))
        with pytest.raises(psycopg.Error):
            owner.execute(change.encode())
        assert content() == before, change


def test_L2_no_line_is_moved_from_a_draft_into_an_issued_invoice(
    database: Database, owner: psycopg.Connection
) -> None:
    full = make_full_world(database)
    later = MONTH_END + timedelta(days=3)
    with database.transaction(Role.OPERATOR) as connection:
        december = full.acme.billing_period(later)
        draft = draft_invoice(connection, tenant=full.acme, period=december, now=later)
    owner.execute(
        "INSERT INTO invoice_quantity VALUES (%s, 99, %s, 1, 'requests', NULL, 1)",
        (draft.id, full.acme.id),
    )
    for table in PARTS:
        rows = owner.execute(
            f"SELECT FROM {table} WHERE invoice_id = %s".encode(), (draft.id,)
        ).fetchall()
        assert rows, table
        with pytest.raises(IntegrityConstraintViolation, match="issued invoice"):
            owner.execute(
                f"UPDATE {table} SET invoice_id = (SELECT id FROM invoice "
                "WHERE tenant_id = %s AND state = 'issued') WHERE invoice_id = %s".encode(),
                (full.acme.id, draft.id),
            )


def test_L2_a_paid_invoice_stays_as_it_was_paid(
    database: Database, owner: psycopg.Connection
) -> None:
    make_full_world(database)
    owner.execute("UPDATE invoice SET state = 'paid', paid_at = '2026-12-05Z'")
    for change in (
        "UPDATE invoice SET paid_at = '2026-12-24Z'",
        "UPDATE invoice SET state = 'issued', paid_at = NULL",
        "DELETE FROM invoice",
    ):
        with pytest.raises(IntegrityConstraintViolation, match="never restated"):
            owner.execute(change.encode())
