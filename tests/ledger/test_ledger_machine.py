"""Invariants 1, 2, 4, 5, 7, 9, 10, 11, 12 and 20 of the books, in any order of events.

Two tenants of one legal entity post, repeat, reverse, exchange and close, four at once, and die
between any two statements; a model in memory runs beside them. After every step every balance is
the model's, read three ways: from the projection, from the postings, and as the tenant itself.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import count
from os import environ
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from billing.errors import Conflict, IdempotencyConflict, LedgerError
from billing.ledger.account import Account, AccountCode
from billing.ledger.cash_template import Exchange, fx_exchanged, payment_received
from billing.ledger.credit_template import (
    credits_bought,
    paid_credits_used,
    promotional_credits_used,
)
from billing.ledger.posting import LineRef, Posting, Transaction
from billing.ledger.template import Books, invoice_issued, usage_accrued
from billing.money import Money, currency
from billing.operations.ledger.accounting_periods import close_period, verify_closed_periods
from billing.operations.ledger.read_books import read_balances
from billing.operations.ledger.reverse_transaction import reverse_transaction
from billing.operations.tenancy.tenants import create_legal_entity, create_tenant
from billing.period import Period, month, zone
from billing.store import books as store
from billing.store import ledger
from billing.store.database import Database, Role, query
from billing.tenancy.tenant import LegalEntity, Tenant
from tests.operations.crash_points import Crash, crash_before
from tests.world import World, make_world

FULL = environ.get("STEELYARD_ROUNDS") == "full"
SETTINGS = settings(
    max_examples=150 if FULL else 8,
    stateful_step_count=40 if FULL else 15,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    # Every try costs seconds; a failing run is short enough to read as it is.
    phases=(Phase.explicit, Phase.generate),
)

UTC_ZONE = zone("UTC")
MONTHS = tuple(month(2026, number, UTC_ZONE) for number in (9, 10, 11, 12))
NOW = datetime.fromisoformat("2027-01-20T12:00:00Z")

_names = (f"books-{number}" for number in count(1))

which = st.integers(0, 1)
boundaries = st.integers(1, 8)
instants = st.builds(
    lambda period, days: period.start + timedelta(days=days),
    st.sampled_from(MONTHS),
    st.integers(0, 27),
)
cents = st.integers(1, 10**6).map(lambda minor: Decimal(minor).scaleb(-2))
exact = st.integers(1, 10**18).map(lambda units: Decimal(units).scaleb(-12))

Template = Callable[[Books], tuple[Posting, ...]]


@st.composite
def _templates(draw: st.DrawFn) -> Template:
    amount, fine = draw(cents), draw(exact)
    line = LineRef(contract_id=1, period_start=MONTHS[0].start, line_key="k")
    return draw(
        st.sampled_from(
            [
                lambda books: usage_accrued(books, [(line, fine), (line, -amount)]),
                lambda books: invoice_issued(books, subtotal=amount, tax=amount),
                lambda books: payment_received(books, amount=amount, into=AccountCode.BANK),
                lambda books: credits_bought(
                    books, amount=amount, paid_from=AccountCode.STRIPE_CLEARING
                ),
                lambda books: paid_credits_used(books, amount=fine),
                lambda books: promotional_credits_used(books, amount=fine),
            ]
        )
    )


templates = _templates()


class LedgerMachine(RuleBasedStateMachine):
    """Rules are what posters, closers and crashes do; invariants look at everything."""

    world: World

    def __init__(self) -> None:
        super().__init__()
        self.entity, self.tenants = self._begin()
        self.balances: dict[Account, Decimal] = {}
        self.posted: list[Transaction] = []
        self.reversed: set[UUID] = set()
        self.closed: list[Period] = []
        self.closed_with: dict[datetime, list[store.Balance]] = {}

    # what is done

    @rule(whose=which, template=templates, at=instants)
    def post(self, whose: int, template: Template, at: datetime) -> None:
        transaction = self._transaction(whose, template, at)
        assert self._post(transaction)
        self._count(transaction)

    @rule(whose=which, template=templates, at=instants, boundary=boundaries)
    def post_and_die(self, whose: int, template: Template, at: datetime, boundary: int) -> None:
        transaction = self._transaction(whose, template, at)
        with suppress(Crash), crash_before(self.world.database.engine, boundary):
            self._post(transaction)
        self._post(transaction)
        self._count(transaction)

    @rule(pick=st.integers(0, 99), template=templates)
    def post_again(self, pick: int, template: Template) -> None:
        if not self.posted:
            return
        before = self.posted[pick % len(self.posted)]
        if before.reverses is not None or before.tenant_id is None:
            return
        assert not self._post(before)
        whose = [tenant.id for tenant in self.tenants].index(before.tenant_id)
        other = self._transaction(whose, template, before.effective_at, before.idempotency_key)
        amounts = [(posting.account, posting.amount) for posting in before.postings]
        if [(posting.account, posting.amount) for posting in other.postings] != amounts:
            with pytest.raises(IdempotencyConflict):
                self._post(other)

    @rule(made=st.lists(st.tuples(which, templates, instants), min_size=4, max_size=12))
    def post_four_at_once(self, made: list[tuple[int, Template, datetime]]) -> None:
        transactions = [self._transaction(*each) for each in made]
        with ThreadPoolExecutor(4) as threads:
            assert all(threads.map(self._post, transactions))
        for transaction in transactions:
            self._count(transaction)

    @rule(sold=st.integers(1, 10**6), at=instants)
    def exchange(self, sold: int, at: datetime) -> None:
        transaction = Transaction(
            id=uuid4(),
            legal_entity_id=self.entity.id,
            tenant_id=None,
            kind="fx_exchanged",
            idempotency_key=str(uuid4()),
            effective_at=at,
            postings=fx_exchanged(
                Exchange(
                    legal_entity_id=self.entity.id,
                    code=AccountCode.BANK,
                    sold=Money(minor=sold, currency=currency("USD")),
                    bought=Money(minor=2 * sold, currency=currency("EUR")),
                    rate=Decimal(2),
                )
            ),
            fx_rate=Decimal(2),
        )
        assert self._post(transaction)
        self._count(transaction)

    @rule(pick=st.integers(0, 99))
    def reverse(self, pick: int) -> None:
        if not self.posted:
            return
        before = self.posted[pick % len(self.posted)]
        refused = before.reverses is not None or before.id in self.reversed
        with self.world.database.transaction(Role.OPERATOR) as connection:
            if refused:
                with pytest.raises((Conflict, LedgerError)):
                    reverse_transaction(connection, before.id, now=NOW)
                return
            undone = reverse_transaction(connection, before.id, now=NOW)
        self.reversed.add(before.id)
        self._count(undone)

    @rule(boundary=st.one_of(st.none(), boundaries))
    def close(self, boundary: int | None) -> None:
        left = [period for period in MONTHS if period not in self.closed]
        if not left:
            return
        period = left[0]
        if not self.closed:
            with self.world.database.transaction(Role.OPERATOR) as connection:
                oldest = store.first_effective_at(connection, self.entity.id)
            period = next(each for each in MONTHS if oldest is None or oldest < each.end)
        with suppress(Crash), crash_before(self.world.database.engine, boundary):
            self._close(period)
        with suppress(Conflict):  # closed, and nobody heard of it
            self._close(period)
        self.closed = [each for each in MONTHS if each.end <= period.end]
        self.closed_with[period.end] = self._as_of(period.end)

    # what holds

    @invariant()
    def balances_are_the_models(self) -> None:
        with self.world.database.transaction(Role.OPERATOR) as connection:
            held = read_balances(connection, entity=self.entity, now=NOW)
            summed = read_balances(
                connection, entity=self.entity, before=NOW + timedelta(days=1), now=NOW
            )
            assert store.account_differences(connection) == []
        assert {each.account: each.amount for each in held} == self.balances
        assert summed == held

    @invariant()
    def every_currency_sums_to_zero(self) -> None:
        sums: dict[str, Decimal] = {}
        for account, amount in self.balances.items():
            sums[account.currency] = sums.get(account.currency, Decimal(0)) + amount
        assert not any(sums.values())

    @invariant()
    def a_tenant_reads_its_own_balances(self) -> None:
        for tenant in self.tenants:
            with self.world.database.transaction(Role.TENANT, tenant_id=tenant.id) as connection:
                rows = query(connection, "SELECT account_id, balance FROM account_balance")
            own = [
                total for account, total in self.balances.items() if account.tenant_id == tenant.id
            ]
            assert sorted(row.balance for row in rows) == sorted(own)

    @invariant()
    def what_is_closed_stays(self) -> None:
        for end, balances in self.closed_with.items():
            assert self._as_of(end) == balances
        with self.world.database.transaction(Role.OPERATOR) as connection:
            assert verify_closed_periods(connection, entity=self.entity) == len(self.closed_with)

    # how

    def _begin(self) -> tuple[LegalEntity, tuple[Tenant, Tenant]]:
        name = next(_names)
        with self.world.database.transaction(Role.OPERATOR) as connection:
            entity = create_legal_entity(
                connection,
                slug=name,
                name=name,
                country="US",
                currency_code="USD",
                zone_name="UTC",
                invoice_prefix=f"{name.upper()}-",
                now=self.world.now,
            )
            first, second = (
                create_tenant(
                    connection,
                    slug=f"{name}-{letter}",
                    name=letter,
                    legal_entity=name,
                    now=self.world.now,
                )
                for letter in "ab"
            )
        return entity, (first, second)

    def _transaction(
        self, whose: int, template: Template, at: datetime, key: str | None = None
    ) -> Transaction:
        tenant = self.tenants[whose]
        books = Books(legal_entity_id=self.entity.id, tenant_id=tenant.id, currency="USD")
        return Transaction(
            id=uuid4(),
            legal_entity_id=self.entity.id,
            tenant_id=tenant.id,
            kind="posted",
            idempotency_key=key or str(uuid4()),
            effective_at=at,
            postings=template(books),
        )

    def _post(self, transaction: Transaction) -> bool:
        return self.world.database.retrying(
            Role.OPERATOR, lambda connection: ledger.post(connection, transaction, now=NOW)
        )

    def _close(self, period: Period) -> None:
        with self.world.database.transaction(Role.OPERATOR) as connection:
            close_period(
                connection, entity=self.entity, period=period, closed_by="controller", now=NOW
            )

    def _count(self, transaction: Transaction) -> None:
        with self.world.database.transaction(Role.OPERATOR) as connection:
            stored = ledger.stored_transaction(connection, transaction.id)
        assert stored is not None
        assert stored.postings == transaction.postings
        open_from = max((period.end for period in self.closed), default=None)
        if open_from is not None and transaction.effective_at < open_from:
            assert (stored.effective_at, stored.originated_at) == (
                open_from,
                transaction.effective_at,
            )
        else:
            assert (stored.effective_at, stored.originated_at) == (transaction.effective_at, None)
        self.posted.append(transaction)
        for posting in transaction.postings:
            before = self.balances.get(posting.account, Decimal(0))
            self.balances[posting.account] = before + posting.amount

    def _as_of(self, end: datetime) -> list[store.Balance]:
        with self.world.database.transaction(Role.OPERATOR) as connection:
            return read_balances(connection, entity=self.entity, before=end, now=NOW)


def test_B4_the_books_hold_in_any_order_of_events(database: Database, now: datetime) -> None:
    world = make_world(database, now)
    world.tenant("first-contract")
    LedgerMachine.world = world
    run_state_machine_as_test(LedgerMachine, settings=SETTINGS)
