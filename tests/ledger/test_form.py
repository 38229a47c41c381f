"""What a transaction may look like: versions without gaps, mirrors, exchanges, normal sides."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from uuid import uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError

from billing.errors import AmountOutOfRange, Conflict, InvalidInput, LedgerError, NotFound
from billing.ledger.account import Account, AccountCode, AccountKind, Side
from billing.ledger.cash_template import Exchange, fx_exchanged
from billing.ledger.posting import LineRef, Posting, Transaction, mirrored, postings_digest
from billing.ledger.template import Books, invoice_issued, lines_accrued
from billing.money import EXACT, LEDGER_LIMIT, Money, currency
from billing.operations.ledger.reverse_transaction import INSTEAD, reverse_transaction
from billing.store import books as store
from billing.store import ledger
from billing.store.database import Database, Role, only, run
from billing.tenancy.tenant import Tenant
from tests.world import make_world

USD, JPY = currency("USD"), currency("JPY")


@pytest.fixture
def acme(database: Database, now: datetime) -> Tenant:
    return make_world(database, now).tenant("acme")


def transaction(
    postings: tuple[Posting, ...], now: datetime, *, tenant: Tenant | None, rate: str | None = None
) -> Transaction:
    return Transaction(
        id=uuid4(),
        legal_entity_id=1,
        tenant_id=None if tenant is None else tenant.id,
        kind="posted",
        idempotency_key=str(uuid4()),
        effective_at=now,
        postings=postings,
        fx_rate=None if rate is None else Decimal(rate),
    )


def exchange(sold: int, bought: int, rate: str) -> Exchange:
    return Exchange(
        legal_entity_id=1,
        code=AccountCode.BANK,
        sold=Money(minor=sold, currency=USD),
        bought=Money(minor=bought, currency=JPY),
        rate=Decimal(rate),
    )


def test_every_account_of_the_chart_has_a_kind_and_a_side() -> None:
    sides = {code: (code.kind, code.normal_side) for code in AccountCode}
    assert sides[AccountCode.BAD_DEBT] == (AccountKind.EXPENSE, Side.DEBIT)
    assert sides[AccountCode.CONTRACT_LIABILITY] == (AccountKind.LIABILITY, Side.CREDIT)
    assert sides[AccountCode.CONTRA_SLA] == (AccountKind.INCOME, Side.DEBIT)
    assert {code for code in AccountCode if not code.per_tenant} == {
        AccountCode.BANK,
        AccountCode.FEES,
        AccountCode.FX_POSITION,
        AccountCode.STRIPE_CLEARING,
        AccountCode.TAX_PAYABLE,
    }


def test_B4_9_an_exchange_sums_to_zero_in_each_currency_and_keeps_its_rate(
    database: Database, acme: Tenant, now: datetime
) -> None:
    postings = fx_exchanged(exchange(1000, 1501, "150.12"))
    posted = transaction(postings, now, tenant=None, rate="150.12")
    with database.transaction(Role.OPERATOR) as connection:
        assert ledger.post(connection, posted, now=now)
        assert ledger.stored_transaction(connection, posted.id) == posted
        assert ledger.totals(connection) == {
            ("bank", "USD"): Decimal(-10),
            ("fx_position", "USD"): Decimal(10),
            ("bank", "JPY"): Decimal(1501),
            ("fx_position", "JPY"): Decimal(-1501),
        }
    assert acme.id


@pytest.mark.parametrize(
    ("sold", "bought", "rate"), [(1000, 1503, "150.12"), (0, 1, "150"), (1000, 1500, "-150")]
)
def test_an_exchange_follows_from_its_rate(sold: int, bought: int, rate: str) -> None:
    with pytest.raises(InvalidInput):
        exchange(sold, bought, rate)


def test_B4_9_only_the_two_fx_accounts_cross_currencies(
    database: Database, acme: Tenant, now: datetime
) -> None:
    dollars, yen = (Books(legal_entity_id=1, tenant_id=acme.id, currency=c) for c in ("USD", "JPY"))
    both = (
        *invoice_issued(dollars, subtotal=Decimal(1), tax=Decimal(0)),
        *invoice_issued(yen, subtotal=Decimal(1), tax=Decimal(0)),
    )
    with pytest.raises(LedgerError):
        transaction(both, now, tenant=acme)
    with pytest.raises(LedgerError):
        transaction(both, now, tenant=acme, rate="1")
    with pytest.raises(LedgerError):
        transaction(fx_exchanged(exchange(100, 150, "150")), now, tenant=None)
    # By direct SQL each currency sums to zero, and still the two are in one transaction.
    for tenant_currency in ("USD", "JPY"):
        books = Books(legal_entity_id=1, tenant_id=acme.id, currency=tenant_currency)
        with database.transaction(Role.OPERATOR) as connection:
            single = invoice_issued(books, subtotal=Decimal(1), tax=Decimal(0))
            assert ledger.post(connection, transaction(single, now, tenant=acme), now=now)
    with (
        pytest.raises(IntegrityError, match="crosses currencies"),
        database.transaction(Role.OPERATOR) as connection,
    ):
        _insert_by_hand(connection, both, acme, now)


def test_B4_4_no_writer_states_a_version_or_skips_one(
    database: Database, acme: Tenant, now: datetime
) -> None:
    books = Books(legal_entity_id=1, tenant_id=acme.id, currency="USD")
    postings = invoice_issued(books, subtotal=Decimal(1), tax=Decimal(0))
    with database.transaction(Role.OPERATOR) as connection:
        ledger.post(connection, transaction(postings, now, tenant=acme), now=now)
        _insert_by_hand(connection, postings, acme, now, stated_version=9)
        assert store.account_differences(connection) == []
        held = store.balances(connection, legal_entity_id=1)
        assert [(each.version, abs(each.amount)) for each in held] == [(2, 2), (2, 2)]

    def insert_twice() -> None:
        with database.transaction(Role.OPERATOR) as connection:
            _insert_by_hand(connection, postings, acme, now)
            run(
                connection,
                "INSERT INTO posting (transaction_id, ordinal, account_id, tenant_id, currency, "
                "amount) SELECT transaction_id, ordinal, account_id, p.tenant_id, currency, amount "
                "FROM posting p JOIN ledger_transaction t ON t.id = p.transaction_id "
                "WHERE t.written_by = pg_current_xact_id() ON CONFLICT DO NOTHING",
            )

    # Inserting nothing over a row that exists would take a version and leave a gap.
    with pytest.raises(IntegrityError, match="already"):
        insert_twice()
    for attempt in ("UPDATE account_balance SET balance = 0", "DELETE FROM account_balance"):
        with (
            pytest.raises(DBAPIError, match="permission denied"),
            database.transaction(Role.OPERATOR) as connection,
        ):
            run(connection, attempt)


def test_B4_10_a_reversal_takes_back_everything_once(
    database: Database, acme: Tenant, now: datetime
) -> None:
    books = Books(legal_entity_id=1, tenant_id=acme.id, currency="USD")
    line = LineRef(contract_id=1, period_start=now, line_key="k")
    earned = lines_accrued(books, [(line, AccountCode.REVENUE, Decimal("1.5"))])
    posted = transaction(earned, now, tenant=acme)
    with database.transaction(Role.OPERATOR) as connection:
        ledger.post(connection, posted, now=now)
        undone = reverse_transaction(connection, posted.id, now=now)
        assert set(ledger.totals(connection).values()) == {Decimal(0)}
        assert ledger.accrued(connection, contract_id=1, period_start=now) == {
            ("k", AccountCode.REVENUE): Decimal(0)
        }
        with pytest.raises(Conflict):
            reverse_transaction(connection, posted.id, now=now)
        with pytest.raises(LedgerError):
            reverse_transaction(connection, undone.id, now=now)
        with pytest.raises(NotFound):
            reverse_transaction(connection, uuid4(), now=now)


@pytest.mark.parametrize("kind", sorted(INSTEAD))
def test_B4_10_what_follows_from_a_state_of_its_own_is_not_reversed(
    database: Database, acme: Tenant, now: datetime, kind: str
) -> None:
    books = Books(legal_entity_id=1, tenant_id=acme.id, currency="USD")
    postings = invoice_issued(books, subtotal=Decimal(1), tax=Decimal(0))
    posted = replace(transaction(postings, now, tenant=acme), kind=kind)
    with database.transaction(Role.OPERATOR) as connection:
        ledger.post(connection, posted, now=now)
        with pytest.raises(Conflict) as refused:
            reverse_transaction(connection, posted.id, now=now)
        assert refused.value.remedy == INSTEAD[kind]
        assert set(ledger.totals(connection).values()) == {Decimal(1), Decimal(-1)}


def test_an_amount_that_the_ledger_cannot_keep_is_out_of_range() -> None:
    bank = Account(legal_entity_id=1, code=AccountCode.BANK, tenant_id=None, currency="USD")
    for amount in (LEDGER_LIMIT, -LEDGER_LIMIT, LEDGER_LIMIT * 1000):
        with pytest.raises(AmountOutOfRange):
            Posting(account=bank, amount=amount)
    largest = EXACT.subtract(LEDGER_LIMIT, Decimal("0.000000000001"))
    assert Posting(account=bank, amount=largest).amount == largest


def test_B4_10_the_database_takes_only_a_mirror(
    database: Database, acme: Tenant, now: datetime
) -> None:
    books = Books(legal_entity_id=1, tenant_id=acme.id, currency="USD")
    one, two = (
        transaction(invoice_issued(books, subtotal=Decimal(n), tax=Decimal(0)), now, tenant=acme)
        for n in (1, 2)
    )
    with database.transaction(Role.OPERATOR) as connection:
        for each in (one, two):
            ledger.post(connection, each, now=now)
    lie = mirrored(two, new_id=uuid4(), at=now)
    with (
        pytest.raises(IntegrityError, match="does not mirror"),
        database.transaction(Role.OPERATOR) as connection,
    ):
        _insert_by_hand(connection, lie.postings, acme, now, reverses=str(one.id))


def _insert_by_hand(
    connection: sa.Connection,
    postings: tuple[Posting, ...],
    tenant: Tenant,
    now: datetime,
    *,
    stated_version: int = 1,
    reverses: str | None = None,
) -> None:
    ids: list[int] = []
    for posting in postings:
        found = ledger.account_id(connection, posting.account)
        assert found is not None
        ids.append(found)
    amounts = [posting.amount for posting in postings]
    header = only(
        connection,
        "INSERT INTO ledger_transaction (id, legal_entity_id, tenant_id, kind, idempotency_key, "
        "reference, effective_at, posted_at, posting_count, postings_hash, reverses) VALUES "
        "(gen_random_uuid(), 1, :tenant, 'posted', gen_random_uuid(), '', :now, :now, :count, "
        ":hash, CAST(:reverses AS uuid)) RETURNING id",
        tenant=tenant.id,
        now=now,
        count=len(postings),
        hash=postings_digest(list(zip(ids, amounts, strict=True))),
        reverses=reverses,
    )
    for ordinal, (account, posting) in enumerate(zip(ids, postings, strict=True)):
        run(
            connection,
            "INSERT INTO posting (transaction_id, ordinal, account_id, tenant_id, currency, "
            "amount, account_version, balance_after) VALUES (:id, :ordinal, :account, :tenant, "
            ":currency, :amount, :version, 0)",
            id=header.id,
            ordinal=ordinal,
            account=account,
            tenant=posting.account.tenant_id,
            currency=posting.account.currency,
            amount=posting.amount,
            version=stated_version,
        )
