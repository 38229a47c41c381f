"""L1 by direct SQL: only whole, balanced transactions of one tenant are ever committed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError

from billing.errors import IdempotencyConflict
from billing.ledger.account import AccountCode
from billing.ledger.posting import Transaction, postings_digest
from billing.ledger.template import Books, invoice_issued
from billing.store import ledger
from billing.store.database import Database, Role
from tests.world import make_world

Row = tuple[int, str, int | None, str]
"""(account id, amount, tenant id, currency) of a posting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """Two tenants' accounts and the operator's own, and a way to write around the operations."""

    database: Database
    acme: int
    birch: int
    accounts: dict[str, int]

    def header(
        self, connection: sa.Connection, rows: list[Row], *, tenant: int | None, **stated: object
    ) -> UUID:
        """Insert a header for these postings; `stated` replaces what it says about them."""
        transaction = uuid4()
        connection.execute(
            sa.text(
                "INSERT INTO ledger_transaction (id, legal_entity_id, tenant_id, kind, "
                "idempotency_key, reference, effective_at, posted_at, posting_count, "
                "postings_hash, written_by) VALUES (:id, 1, :tenant, 'by_hand', :key, '', now(), "
                "now(), :count, :hash, coalesce(CAST(:writer AS xid8), pg_current_xact_id()))"
            ),
            {
                "id": transaction,
                "tenant": tenant,
                "key": str(transaction),
                "count": len(rows),
                "hash": postings_digest([(row[0], Decimal(row[1])) for row in rows]),
                "writer": None,
                **stated,
            },
        )
        return transaction

    def postings(
        self, connection: sa.Connection, transaction: UUID, rows: list[Row], *, start: int = 0
    ) -> None:
        for ordinal, (account, amount, tenant, currency) in enumerate(rows, start=start):
            connection.execute(
                sa.text(
                    "INSERT INTO posting (transaction_id, ordinal, account_id, tenant_id, "
                    "currency, amount) VALUES (:transaction, :ordinal, :account, :tenant, "
                    ":currency, :amount)"
                ),
                {
                    "transaction": transaction,
                    "ordinal": ordinal,
                    "account": account,
                    "tenant": tenant,
                    "currency": currency,
                    "amount": Decimal(amount),
                },
            )

    def write(self, rows: list[Row], *, tenant: int | None, **stated: object) -> UUID:
        with self.database.transaction(Role.OPERATOR) as connection:
            transaction = self.header(connection, rows, tenant=tenant, **stated)
            self.postings(connection, transaction, rows)
        return transaction

    def posted(self) -> int:
        with self.database.transaction(Role.OPERATOR) as connection:
            return connection.execute(sa.text("SELECT count(*) FROM posting")).scalar_one()

    def row(self, account: str, amount: str) -> Row:
        tenant = {"acme": self.acme, "birch": self.birch}.get(account.split(".", maxsplit=1)[0])
        return (self.accounts[account], amount, tenant, "EUR" if "eur" in account else "USD")


@pytest.fixture
def books(database: Database, now: datetime) -> Ledger:
    return make_books(database, now)


def make_books(database: Database, now: datetime) -> Ledger:
    """Two tenants with accounts that hold nothing yet."""
    world = make_world(database, now)
    acme, birch = world.tenant("acme"), world.tenant("birch")
    wanted = {
        "acme.receivable": ("accounts_receivable", acme.id, "USD"),
        "acme.unbilled": ("unbilled_receivable", acme.id, "USD"),
        "acme.eur": ("accounts_receivable", acme.id, "EUR"),
        "birch.unbilled": ("unbilled_receivable", birch.id, "USD"),
        "operator.bank": ("bank", None, "USD"),
    }
    accounts: dict[str, int] = {}
    with database.transaction(Role.OPERATOR) as connection:
        for name, (code, tenant, currency) in wanted.items():
            accounts[name] = connection.execute(
                sa.text(
                    "INSERT INTO account (legal_entity_id, code, tenant_id, currency) "
                    "VALUES (1, :code, :tenant, :currency) RETURNING id"
                ),
                {"code": code, "tenant": tenant, "currency": currency},
            ).scalar_one()
    return Ledger(database=database, acme=acme.id, birch=birch.id, accounts=accounts)


def test_L1_a_balanced_transaction_across_tenant_and_operator_is_accepted(books: Ledger) -> None:
    sides = {
        "operator.bank": "10.000000000001",
        "acme.receivable": "-4",
        "acme.unbilled": "-6.000000000001",
    }
    books.write([books.row(*side) for side in sides.items()], tenant=books.acme)
    assert books.posted() == 3


@pytest.mark.parametrize(
    ("sides", "stated"),
    [
        pytest.param(
            [("acme.receivable", "1"), ("acme.unbilled", "-0.999999999999")], {}, id="unbalanced"
        ),
        pytest.param(
            [("acme.receivable", "1"), ("acme.eur", "-1")], {}, id="balanced-over-two-currencies"
        ),
        pytest.param(
            [("acme.receivable", "1"), ("birch.unbilled", "-1")], {}, id="by-another-tenant"
        ),
        pytest.param(
            [("acme.receivable", "1"), ("acme.unbilled", "-1")],
            {"tenant": None},
            id="tenant-accounts-without-tenant",
        ),
        pytest.param(
            [("acme.receivable", "1"), ("acme.unbilled", "-1")], {"count": 3}, id="count-too-high"
        ),
        pytest.param(
            [("operator.bank", "1"), ("acme.receivable", "1"), ("acme.unbilled", "-2")],
            {"count": 2},
            id="count-too-low",
        ),
        pytest.param(
            [("acme.receivable", "1"), ("acme.unbilled", "-1")], {"hash": bytes(32)}, id="hash-lies"
        ),
        pytest.param([], {"count": 2}, id="no-postings"),
        pytest.param([], {"count": 0}, id="no-postings-and-says-so"),
    ],
)
def test_L1_what_does_not_balance_or_belong_together_is_never_committed(
    books: Ledger, sides: list[tuple[str, str]], stated: dict[str, object]
) -> None:
    rows = [books.row(account, amount) for account, amount in sides]
    with pytest.raises(IntegrityError):
        books.write(rows, **{"tenant": books.acme, **stated})
    assert books.posted() == 0


@pytest.mark.parametrize("tenant", ["birch", None])
def test_L1_a_posting_names_the_tenant_of_its_account(books: Ledger, tenant: str | None) -> None:
    account, amount, _, currency = books.row("acme.receivable", "1")
    stolen = (account, amount, books.birch if tenant else None, currency)
    with pytest.raises(IntegrityError):
        books.write([stolen, books.row("acme.unbilled", "-1")], tenant=books.acme)
    assert books.posted() == 0


def test_L1_no_posting_joins_a_committed_transaction(books: Ledger) -> None:
    rows = [books.row("acme.receivable", "1"), books.row("acme.unbilled", "-1")]
    committed = books.write(rows, tenant=books.acme)
    # A pair that balances in itself: only the rule about headers stands in its way.
    with (
        pytest.raises(IntegrityError),
        books.database.transaction(Role.OPERATOR) as connection,
    ):
        books.postings(connection, committed, rows, start=2)
    assert books.posted() == 2


def test_L1_checking_early_opens_no_way_around_the_check(books: Ledger) -> None:
    rows = [books.row("acme.receivable", "1"), books.row("acme.unbilled", "-1")]

    def write_then_add() -> None:
        with books.database.transaction(Role.OPERATOR) as connection:
            transaction = books.header(connection, rows, tenant=books.acme)
            books.postings(connection, transaction, rows)
            # The deferred check runs here, sees a balanced transaction, and would not run again.
            connection.execute(sa.text("SET CONSTRAINTS ALL IMMEDIATE"))
            more = [books.row("acme.receivable", "1000")]
            books.postings(connection, transaction, more, start=2)

    with pytest.raises(IntegrityError):
        write_then_add()
    assert books.posted() == 0


def test_L1_a_header_that_names_another_writer_gets_no_postings(books: Ledger) -> None:
    rows = [books.row("acme.receivable", "1"), books.row("acme.unbilled", "-1")]

    def write_for_a_later_transaction() -> None:
        with books.database.transaction(Role.OPERATOR) as connection:
            later = connection.execute(
                sa.text("SELECT (pg_current_xact_id()::text::bigint + 1)::text")
            ).scalar_one()
            transaction = books.header(connection, rows, tenant=books.acme, writer=later)
            books.postings(connection, transaction, rows)

    with pytest.raises(IntegrityError):
        write_for_a_later_transaction()
    assert books.posted() == 0


@pytest.mark.parametrize("role", [Role.INGEST, Role.TENANT, Role.MAINTAINER])
def test_L1_only_the_operator_role_writes_money(books: Ledger, role: Role) -> None:
    rows = [books.row("acme.receivable", "1"), books.row("acme.unbilled", "-1")]
    attempts: list[Callable[[sa.Connection], object]] = [
        lambda connection: books.header(connection, rows, tenant=books.acme),
        lambda connection: books.postings(connection, uuid4(), rows),
        lambda connection: connection.execute(
            sa.text(
                "INSERT INTO account (legal_entity_id, code, tenant_id, currency) "
                "VALUES (1, 'bank', NULL, 'CHF')"
            )
        ),
    ]
    tenant_id = books.acme if role is Role.TENANT else None
    for attempt in attempts:
        with (
            pytest.raises(DBAPIError) as refused,
            books.database.transaction(role, tenant_id=tenant_id) as connection,
        ):
            attempt(connection)
        assert getattr(refused.value.orig, "sqlstate", None) == "42501"


def test_L3_one_key_posts_once_and_refuses_other_postings(books: Ledger, now: datetime) -> None:
    of_acme = Books(legal_entity_id=1, tenant_id=books.acme, currency="USD")

    def transaction(subtotal: str) -> Transaction:
        return Transaction(
            id=uuid4(),
            legal_entity_id=1,
            tenant_id=books.acme,
            kind="invoice_issued",
            idempotency_key="invoice/1",
            effective_at=now,
            postings=invoice_issued(of_acme, subtotal=Decimal(subtotal), tax=Decimal("0.19")),
        )

    answers: list[bool] = []
    for subtotal in ("1.00", "1.00", "2.00"):
        with (
            suppress(IdempotencyConflict),
            books.database.transaction(Role.OPERATOR) as connection,
        ):
            answers.append(ledger.post(connection, transaction(subtotal), now=now))
    assert answers == [True, False]
    with books.database.transaction(Role.OPERATOR) as connection:
        assert ledger.totals(connection) == {
            ("accounts_receivable", "USD"): Decimal("1.19"),
            ("tax_payable", "USD"): Decimal("-0.19"),
            ("unbilled_receivable", "USD"): Decimal("-1.00"),
        }
        assert ledger.balance(connection, of_acme.account(AccountCode.RECEIVABLE)) == Decimal(
            "1.19"
        )
