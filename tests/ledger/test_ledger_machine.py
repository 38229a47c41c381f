"""Invariants 1 to 5, 7, 9 to 12, 20, 23 and 26 of the books, in any order of events.

Two tenants of one legal entity post, repeat, reverse, exchange, close and seal; each of it dies
between any two statements or races others on connections of their own. A model in memory runs
beside it. After every step every balance is the model's, read three ways: from the projection,
from the postings, and as the tenant itself; at the end also from the exported journal.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import count
from os import environ
from pathlib import Path
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from billing.catalog.contract import Contract
from billing.errors import Conflict, IdempotencyConflict, LedgerError
from billing.exports.journal_rows import Names
from billing.ledger.account import Account
from billing.ledger.posting import Transaction
from billing.operations.catalog.contracts import bind_contract
from billing.operations.ledger.accounting_periods import close_period, verify_closed_periods
from billing.operations.ledger.read_books import read_balances
from billing.operations.ledger.reverse_transaction import reverse_transaction
from billing.operations.seal.fold import seal_all
from billing.operations.seal.verify import verify_books, verify_seal
from billing.operations.tenancy.tenants import create_legal_entity, create_tenant
from billing.period import Period
from billing.signing.ed25519 import SealKey, load_or_make
from billing.store import books as store
from billing.store import ledger
from billing.store.database import Database, Role, query
from billing.store.embedded.address import ServerAddress
from billing.store.seal.folds import newest_fold
from billing.tenancy.tenant import LegalEntity, Tenant
from tests.ledger.ledger_checks import CHANGES, at_once, exported, findings_after, named, rows_of
from tests.ledger.ledger_moves import MONTHS, Move, exchanges, moves
from tests.operations.crash_points import Crash, crash_before, dying_everywhere
from tests.world import World, make_world

FULL = environ.get("STEELYARD_ROUNDS") == "full"
SETTINGS = settings(
    max_examples=150 if FULL else 6,
    stateful_step_count=40 if FULL else 15,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    # Every try costs seconds; a failing run is short enough to read as it is.
    phases=(Phase.explicit, Phase.generate),
)

NOW = datetime.fromisoformat("2027-01-20T12:00:00Z")
WHENEVER = Period(start=MONTHS[0].start, end=NOW + timedelta(days=1))

_names = (f"books-{number}" for number in count(1))

picks = st.integers(0, 99)


class LedgerMachine(RuleBasedStateMachine):
    """Rules are what posters, closers, sealers and crashes do; invariants look at everything."""

    world: World
    key: SealKey
    owner: sa.Engine

    def __init__(self) -> None:
        super().__init__()
        self.entity, self.tenants, self.parties = self._begin()
        self.balances: dict[Account, Decimal] = {}
        self.posted: list[Transaction] = []
        self.reversed: set[UUID] = set()
        self.closed: list[Period] = []
        self.closed_with: dict[datetime, list[store.Balance]] = {}
        self.rows: dict[str, str] = {}
        with self.world.database.transaction(Role.OPERATOR) as connection:
            fold = newest_fold(connection)
        self.sealed_before = fold.size if fold else 0

    def teardown(self) -> None:
        self._seal()
        self.inv26_the_exported_journal_has_the_same_balances()
        self.L7_one_byte_that_the_owner_changes_is_named()

    # what is done

    @rule(move=moves)
    def post(self, move: Move) -> None:
        transaction = self._made(move)
        assert self._post(transaction)
        self._count(transaction)

    @rule(move=moves)
    def post_and_die(self, move: Move) -> None:
        transaction = self._made(move)
        assert dying_everywhere(self.world.database.engine, lambda: self._post(transaction))
        assert not self._post(transaction)
        self._count(transaction)

    @rule(pick=picks, move=moves)
    def post_again(self, pick: int, move: Move) -> None:
        originals = [each for each in self.posted if each.reverses is None]
        if not originals:
            return
        before = originals[pick % len(originals)]
        assert not self._post(before)
        other = move.transaction(self.entity, self.parties, key=before.idempotency_key)
        amounts = [(posting.account, posting.amount) for posting in before.postings]
        if [(posting.account, posting.amount) for posting in other.postings] != amounts:
            with pytest.raises(IdempotencyConflict):
                self._post(other)

    @rule(made=st.lists(moves, min_size=4, max_size=12))
    def post_four_at_once(self, made: list[Move]) -> None:
        transactions = [self._made(move) for move in made]
        with ThreadPoolExecutor(4) as threads:
            assert all(threads.map(self._post, transactions))
        for transaction in transactions:
            self._count(transaction)

    @rule(made=st.lists(exchanges, min_size=2, max_size=4))
    def exchange_at_once(self, made: list[Move]) -> None:
        self.post_four_at_once(made)

    @rule(move=moves)
    def post_one_key_from_three_writers(self, move: Move) -> None:
        made = self._made(move)
        # Each writer mints an id of its own: only the key says that they are one.
        copies = [replace(made, id=uuid4()) for _ in range(3)]
        answers = at_once([lambda each=each: self._post(each) for each in copies])
        assert answers.count(False) == 2
        self._count(copies[answers.index(True)])

    @rule(pick=picks)
    def reverse(self, pick: int) -> None:
        if not self.posted:
            return
        before = self.posted[pick % len(self.posted)]
        if before.reverses is not None or before.id in self.reversed:
            with pytest.raises((Conflict, LedgerError)):
                self._reverse(before)
            return
        self._count_reversal(before, self._reverse(before))

    @rule(pick=picks)
    def reverse_and_die(self, pick: int) -> None:
        if not (left := self._not_reversed()):
            return
        before = left[pick % len(left)]
        undone = dying_everywhere(self.world.database.engine, lambda: self._reverse(before))
        with pytest.raises(Conflict):
            self._reverse(before)
        self._count_reversal(before, undone)

    @rule(pick=picks, move=moves)
    def reverse_one_from_three_writers(self, pick: int, move: Move) -> None:
        if not (left := self._not_reversed()):
            return
        before, other = left[pick % len(left)], self._made(move)
        answers = at_once([lambda: self._reverse(before)] * 3 + [lambda: self._post(other)])
        (undone,) = (each for each in answers if isinstance(each, Transaction))
        assert [type(each) for each in answers].count(Conflict) == 2
        self._count_reversal(before, undone)
        self._count(other)

    @rule(dies=st.booleans())
    def close(self, dies: bool) -> None:
        if (period := self._next_period()) is None:
            return
        if dies:
            dying_everywhere(self.world.database.engine, lambda: self._close(period))
        else:
            self._close(period)
        with pytest.raises(Conflict):
            self._close(period)
        self._count_closed(period)

    @rule(made=st.lists(moves, min_size=2, max_size=3), pick=picks)
    def post_reverse_and_close_at_once(self, made: list[Move], pick: int) -> None:
        if not (left := self._not_reversed()) or (period := self._next_period()) is None:
            return
        before, transactions = left[pick % len(left)], [self._made(move) for move in made]
        posts = [lambda each=each: self._post(each) for each in transactions]
        answers = at_once([*posts, lambda: self._reverse(before), lambda: self._close(period)])
        assert answers[: len(posts)] == [True] * len(posts)
        undone, refused = answers[-2:]
        assert isinstance(undone, Transaction)
        if refused is None:
            self._count_closed(period)
        else:
            # What was posted first is older than the month that was to be closed first.
            assert isinstance(refused, Conflict)
            assert not self.closed
            assert any(each.effective_at < period.start for each in transactions)
        self._count_reversal(before, undone, raced=True)
        for transaction in transactions:
            self._count(transaction, raced=True)

    @rule(boundary=st.integers(1, 30))
    def seal_and_die(self, boundary: int) -> None:
        with suppress(Crash), crash_before(self.world.database.engine, boundary):
            seal_all(self.world.database, self.key, now=NOW)
        self._seal()

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

    @invariant()
    def L2_no_row_that_was_seen_is_gone_or_changed(self) -> None:
        with self.world.database.transaction(Role.OPERATOR) as connection:
            found = rows_of(connection, self.entity)
        assert self.rows.items() <= found.items()
        self.rows = found

    def inv26_the_exported_journal_has_the_same_balances(self) -> None:
        names = Names(
            legal_entities={self.entity.id: self.entity.slug},
            tenants={tenant.id: tenant.slug for tenant in self.tenants},
        )
        with self.world.database.transaction(Role.OPERATOR) as connection:
            sums = exported(connection, self.entity, names, WHENEVER)
        assert sums == named(self.balances, names)

    def L7_one_byte_that_the_owner_changes_is_named(self) -> None:
        if not self.posted:
            return
        changed = self.posted[len(self.rows) % len(self.posted)].id
        for change in CHANGES.values():
            found = findings_after(self.owner, change, changed, above=self.sealed_before)
            assert any(str(changed) in finding.subject for finding in found), found

    # how

    def _begin(self) -> tuple[LegalEntity, list[Tenant], list[Contract]]:
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
            tenants = [
                create_tenant(
                    connection,
                    slug=f"{name}-{letter}",
                    name=letter,
                    legal_entity=name,
                    now=self.world.now,
                )
                for letter in "ab"
            ]
            parties = [
                bind_contract(
                    connection,
                    tenant=tenant.slug,
                    plan="standard",
                    valid_from=MONTHS[0].start,
                    now=self.world.now,
                ).contract
                for tenant in tenants
            ]
        return entity, tenants, parties

    def _made(self, move: Move) -> Transaction:
        return move.transaction(self.entity, self.parties)

    def _post(self, transaction: Transaction) -> bool:
        return self.world.database.retrying(
            Role.OPERATOR, lambda connection: ledger.post(connection, transaction, now=NOW)
        )

    def _reverse(self, before: Transaction) -> Transaction:
        return self.world.database.retrying(
            Role.OPERATOR, lambda connection: reverse_transaction(connection, before.id, now=NOW)
        )

    def _not_reversed(self) -> list[Transaction]:
        left = (each for each in self.posted if each.reverses is None)
        return [each for each in left if each.id not in self.reversed]

    def _next_period(self) -> Period | None:
        left = [period for period in MONTHS if period not in self.closed]
        if not left or self.closed:
            return left[0] if left else None
        with self.world.database.transaction(Role.OPERATOR) as connection:
            oldest = store.first_effective_at(connection, self.entity.id)
        return next(each for each in MONTHS if oldest is None or oldest < each.end)

    def _close(self, period: Period) -> None:
        with self.world.database.transaction(Role.OPERATOR) as connection:
            close_period(
                connection, entity=self.entity, period=period, closed_by="controller", now=NOW
            )

    def _seal(self) -> None:
        """Seal what is there; the seal then verifies, and nothing of it is left to fold."""
        database = self.world.database
        seal_all(database, self.key, now=NOW)
        assert seal_all(database, self.key, now=NOW) == []
        with database.transaction(Role.OPERATOR) as connection:
            assert verify_books(connection) == []
            assert verify_seal(connection, above=self.sealed_before) == []

    def _count_closed(self, period: Period) -> None:
        self.closed = [each for each in MONTHS if each.end <= period.end]
        self.closed_with[period.end] = self._as_of(period.end)

    def _count_reversal(
        self, before: Transaction, undone: Transaction, *, raced: bool = False
    ) -> None:
        assert undone.reverses == before.id
        self.reversed.add(before.id)
        self._count(undone, raced=raced)

    def _count(self, transaction: Transaction, *, raced: bool = False) -> None:
        """Add what was posted to the model; one that raced a close may have come before it."""
        with self.world.database.transaction(Role.OPERATOR) as connection:
            stored = ledger.stored_transaction(connection, transaction.id)
        assert stored is not None
        assert stored.postings == transaction.postings
        opens = [None, *sorted(self.closed_with)][-2 if raced else -1 :]
        at = transaction.effective_at
        expected = [
            (at, None) if begins is None or at >= begins else (begins, at) for begins in opens
        ]
        assert (stored.effective_at, stored.originated_at) in expected
        self.posted.append(transaction)
        for posting in transaction.postings:
            before = self.balances.get(posting.account, Decimal(0))
            self.balances[posting.account] = before + posting.amount

    def _as_of(self, end: datetime) -> list[store.Balance]:
        with self.world.database.transaction(Role.OPERATOR) as connection:
            return read_balances(connection, entity=self.entity, before=end, now=NOW)


@pytest.mark.timeout(3600 if FULL else 300)
def test_B4_the_books_hold_in_any_order_of_events(
    database: Database, database_name: str, postgres: ServerAddress, now: datetime, tmp_path: Path
) -> None:
    LedgerMachine.world = make_world(database, now)
    LedgerMachine.key = load_or_make(tmp_path / "seal.key")
    LedgerMachine.owner = sa.create_engine(postgres.owner_url(database_name))
    try:
        run_state_machine_as_test(LedgerMachine, settings=SETTINGS)
    finally:
        LedgerMachine.owner.dispose()
