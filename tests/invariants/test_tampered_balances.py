"""C1 and receivables: whoever changes a balance, or what it comes from, is found and named.

Changes are the owner's, with every trigger off, and keep what the tables' checks demand.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal

import pytest
import sqlalchemy as sa

from billing.ledger.account import AccountCode
from billing.ledger.credit_grant import CreditScope, Rollover, TaxedAt
from billing.metering.correction import Correction
from billing.operations.credits.grant_credit import void_grant
from billing.operations.credits.lapse_credits import expire_grants
from billing.operations.invoicing.issue_corrections import issue_corrections
from billing.operations.invoicing.issue_invoice import issue_invoice
from billing.operations.ledger.verify_balances import verify_balances
from billing.operations.metering.correct_usage import correct_usage
from billing.operations.payments.receive_payment import receive_payment
from billing.store.database import Database, Role, become
from billing.store.embedded.address import ServerAddress
from billing.tenancy.tenant import Tenant
from tests.conftest import migrated_copy
from tests.credits.grants import give
from tests.world import MONTH_END, World, make_world, usage_report

NOW = MONTH_END - timedelta(days=15)
LATER = MONTH_END + timedelta(days=40)


@pytest.fixture(scope="module")
def owner(postgres: ServerAddress) -> Iterator[sa.Engine]:
    """The owner of the tables of a deployment with every movement of credit and receivables."""
    with migrated_copy(postgres) as name:
        database = Database(postgres.app_url(name))
        _make_moves(make_world(database, NOW))
        engine = sa.create_engine(postgres.owner_url(name))
        yield engine
        engine.dispose()
        database.close()


def _make_moves(world: World) -> None:
    acme, birch = world.tenant("acme"), world.tenant("birch")
    world.use(acme, {"tokens.input": 5_000_123})
    start = acme.billing_period(NOW).start
    with world.database.transaction(Role.OPERATOR) as connection:
        give(connection, acme, "2.00", key="promotional", now=NOW, starts_at=start)
        cheap = {"paid": True, "cost_basis": Decimal("3.35"), "starts_at": start}
        give(connection, acme, "4.00", key="cheap", now=NOW, **cheap)
        late = {"paid": True, "taxed_at": TaxedAt.REDEMPTION, "starts_at": start}
        give(connection, acme, "7.00", key="late", now=NOW, **late)
        give(connection, acme, "5.00", key="kept", now=NOW, paid=True, starts_at=MONTH_END)
        give(connection, birch, "3.00", key="restored", now=NOW, paid=True)
        rolls: dict[str, object] = {"paid": True, "expires_at": MONTH_END}
        rolls |= {
            "rollover": Rollover(fraction=Decimal("0.5")),
            "scope": CreditScope(models=frozenset({"large"})),
        }
        give(connection, birch, "1.50", key="rolls", now=NOW, **rolls)
        voided = give(connection, birch, "1.00", key="voided", now=NOW, paid=True)
        void_grant(connection, grant_id=voided.grant.id, now=NOW)
    (mistaken,) = world.report(
        birch, usage_report(meter="tokens.input", quantity=40_000_000, occurred_at=NOW)
    )
    _bill(world, acme, leaves_minor=300)
    _bill(world, birch, leaves_minor=0)
    assert mistaken.event_id is not None
    correction = Correction(
        corrects=mistaken.event_id, source="desk", foreign_id="c", reason="a mistake"
    )
    with world.database.transaction(Role.OPERATOR) as connection:
        correct_usage(connection, correction, tenant_id=birch.id, actor="ada", now=LATER)
        documents = issue_corrections(connection, tenant=birch, now=LATER)
        expire_grants(connection, now=LATER)
    assert [each.kind for each in documents] == ["credit_note"]


def _bill(world: World, tenant: Tenant, *, leaves_minor: int) -> None:
    with world.database.transaction(Role.OPERATOR) as connection:
        period = tenant.billing_period(NOW)
        invoice = issue_invoice(connection, tenant=tenant, period=period, now=MONTH_END)
        receive_payment(
            connection,
            invoice=str(invoice.id),
            amount_minor=invoice.amount_due_minor - leaves_minor,
            into=AccountCode.BANK,
            idempotency_key=tenant.slug,
            now=MONTH_END,
        )


def found(owner: sa.Engine, *changes: str) -> set[tuple[str, str, str]]:
    """What is found after changes, which are rolled back; grants are told by their keys."""
    with owner.connect() as connection, connection.begin() as undone:
        keys = connection.exec_driver_sql("SELECT id::text, idempotency_key FROM credit_grant")
        named = {row.id: row.idempotency_key for row in keys}
        connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
        for change in changes:
            assert connection.exec_driver_sql(change).rowcount == 1, change
        become(connection, Role.OPERATOR)
        findings = verify_balances(connection)
        undone.rollback()
    return {(each.kind, named.get(each.subject, each.subject), each.problem) for each in findings}


def test_nothing_is_found_after_every_kind_of_movement(owner: sa.Engine) -> None:
    with owner.connect() as connection:
        kinds = connection.exec_driver_sql("SELECT DISTINCT kind FROM credit_event ORDER BY kind")
        assert [row.kind for row in kinds] == [
            "applied",
            "expired",
            "granted",
            "redeemed",
            "restored",
            "rolled_over",
            "voided",
        ]
        documents = connection.exec_driver_sql("SELECT number, kind, state FROM invoice ORDER BY 1")
        assert [tuple(row) for row in documents] == [
            ("INV-000001", "period", "issued"),
            ("INV-000002", "period", "paid"),
            ("INV-000003", "credit_note", "issued"),
        ]
    assert found(owner) == set()


LIABILITY = "contract_liability of {} at foundry in USD"
RECEIVABLE = "accounts_receivable of {} at foundry in USD"


def _of(key: str) -> str:
    return f"WHERE grant_id = (SELECT id FROM credit_grant WHERE idempotency_key = '{key}')"


def _credit(key: str, figure: str, kept: str, told: str) -> tuple[str, str, str]:
    return "credit", key, f"{figure}: {kept} is kept, and by its events it is {told}"


def _document(number: int, figure: str, kept: str, told: str) -> tuple[str, str, str]:
    problem = f"{figure}: {kept} is kept, and by what was posted it is {told}"
    return "receivable", f"INV-00000{number}", problem


def _account(name: str, kept: str, where: str, told: str) -> tuple[str, str, str]:
    return "account", name, f"{kept} is its balance, and {where} it is {told}"


def _liability(tenant: str, kept: str, told: str) -> tuple[str, str, str]:
    return _account(LIABILITY.format(tenant), kept, "by grants", told)


def _receivable(tenant: str, kept: str, told: str) -> tuple[str, str, str]:
    return _account(RECEIVABLE.format(tenant), kept, "by invoices and payments", told)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            f"UPDATE credit_balance SET used = used + 1, remaining = remaining - 1 {_of('kept')}",
            {
                _credit("kept", "used", "1", "0"),
                _credit("kept", "remaining", "4", "5"),
                _liability("acme", "-5", "-4"),
            },
        ),
        (
            f"UPDATE credit_balance SET version = version + 1 {_of('kept')}",
            {_credit("kept", "number of events", "2", "1")},
        ),
        (
            f"UPDATE credit_balance SET tenant_id = 2 {_of('kept')}",
            {("credit", "kept", "its balance or events are another tenant's")},
        ),
        (
            f"DELETE FROM credit_balance {_of('kept')}",
            {
                _credit("kept", "granted", "missing", "5"),
                _credit("kept", "used", "missing", "0"),
                _credit("kept", "expired", "missing", "0"),
                _credit("kept", "remaining", "missing", "5"),
                _credit("kept", "number of events", "missing", "1"),
                _liability("acme", "-5", "0"),
            },
        ),
        (
            f"UPDATE credit_event SET amount = 6 {_of('late')} AND kind = 'redeemed'",
            {
                _credit("late", "used", "7", "6"),
                _credit("late", "remaining", "0", "1"),
                _document(1, "paid by credit", "6", "7"),
                _document(1, "amount due", "8", "9"),
            },
        ),
        (
            f"DELETE FROM credit_event {_of('restored')} AND kind = 'restored'",
            {
                _credit("restored", "used", "3", "6"),
                _credit("restored", "remaining", "0", "-3"),
                _credit("restored", "number of events", "4", "3"),
            },
        ),
        (
            "UPDATE credit_grant SET amount = 10 WHERE idempotency_key = 'kept'",
            {_credit("kept", "amount of the grant", "10", "5"), _liability("acme", "-5", "-2.5")},
        ),
        (
            "UPDATE credit_grant SET cost_basis = 4 WHERE idempotency_key = 'kept'",
            {_liability("acme", "-5", "-4")},
        ),
    ],
)
def test_C1_a_change_of_credit_is_named_with_both_figures(
    owner: sa.Engine, change: str, expected: set[tuple[str, str, str]]
) -> None:
    assert found(owner, change) == expected


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            (
                "UPDATE invoice SET total_minor = total_minor + 1, tax_minor = tax_minor + 1 "
                "WHERE number = 'INV-000001'"
            ),
            {_document(1, "total", "15.01", "15"), _document(1, "amount due", "8", "8.01")},
        ),
        (
            "UPDATE invoice SET amount_due_minor = 700 WHERE number = 'INV-000001'",
            {_document(1, "amount due", "7", "8"), _receivable("acme", "3", "2")},
        ),
        (
            "UPDATE invoice SET state = 'issued', paid_at = NULL WHERE number = 'INV-000002'",
            {_document(2, "state", "issued, with 0 open", "paid, with 0 open")},
        ),
        (
            "UPDATE invoice SET state = 'paid', paid_at = issued_at WHERE number = 'INV-000001'",
            {_document(1, "state", "paid, with 3 open", "issued, with 3 open")},
        ),
        (
            "UPDATE invoice SET currency = 'XXX' WHERE number = 'INV-000003'",
            {_document(3, "total", "missing", "-8"), _receivable("birch", "-8", "0")},
        ),
        (
            "DELETE FROM invoice WHERE number = 'INV-000003'",
            {_receivable("birch", "-8", "0")},
        ),
        (
            (
                "UPDATE account_balance b SET balance = balance + 0.01 FROM account a "
                "WHERE a.id = b.account_id AND a.code = 'accounts_receivable' AND a.tenant_id = 1"
            ),
            {_receivable("acme", "3.01", "3")},
        ),
        (
            (
                "UPDATE ledger_transaction SET reference = 'INV-000002' "
                "WHERE kind = 'payment_received' AND tenant_id = 1"
            ),
            {
                _document(2, "state", "paid, with -5 open", "issued, with -5 open"),
                _receivable("acme", "3", "8"),
                _receivable("birch", "-8", "-13"),
            },
        ),
        (
            "UPDATE ledger_transaction SET kind = 'gift' WHERE kind = 'credit_note_issued'",
            {_document(3, "total", "-8", "0")},
        ),
    ],
)
def test_a_change_of_what_is_owed_is_named_with_both_figures(
    owner: sa.Engine, change: str, expected: set[tuple[str, str, str]]
) -> None:
    assert found(owner, change) == expected
