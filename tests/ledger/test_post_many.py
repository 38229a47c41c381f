"""Transactions posted together: what posting them one by one leaves, under the same refusals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from billing.errors import IdempotencyConflict
from billing.ledger.account import AccountCode
from billing.ledger.posting import LineRef, Posting, Transaction
from billing.ledger.template import Books, invoice_issued, lines_accrued
from billing.operations.catalog.contracts import list_contracts
from billing.store import books as store
from billing.store import ledger
from billing.store.database import Database, Role
from billing.store.ledger_pages import post_many
from billing.tenancy.tenant import Tenant
from tests.world import World, make_world

LEFT = sa.text(
    "SELECT t.idempotency_key, p.ordinal, a.code, p.tenant_id, p.currency, p.amount, "
    "p.contract_id, p.period_start, p.line_key, p.account_version, p.balance_after, p.reached_at, "
    "p.known_at, p.out_of_order, t.effective_at, b.version, b.balance "
    "FROM posting p JOIN ledger_transaction t ON t.id = p.transaction_id "
    "JOIN account a ON a.id = p.account_id JOIN account_balance b ON b.account_id = a.id "
    "ORDER BY 1, 2"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Two:
    """A world with two tenants."""

    world: World
    tenants: list[Tenant]
    contracts: dict[int, int]

    def accrual(self, tenant: Tenant, key: str, *amounts: str, days: int = 0) -> Transaction:
        start = tenant.billing_period(self.world.now).start
        lines = [
            (
                LineRef(
                    contract_id=self.contracts[tenant.id], period_start=start, line_key=f"k{number}"
                ),
                AccountCode.REVENUE,
                Decimal(amount),
            )
            for number, amount in enumerate(amounts)
        ]
        return self.posted(tenant, key, lines_accrued(self.books(tenant), lines), days=days)

    def books(self, tenant: Tenant) -> Books:
        return Books(legal_entity_id=1, tenant_id=tenant.id, currency="USD")

    def posted(
        self, tenant: Tenant, key: str, postings: tuple[Posting, ...], *, days: int = 0
    ) -> Transaction:
        return Transaction(
            id=uuid4(),
            legal_entity_id=1,
            tenant_id=tenant.id,
            kind="posted",
            idempotency_key=key,
            effective_at=self.world.now + timedelta(days=days),
            postings=postings,
        )

    def page(self) -> list[Transaction]:
        """Corrections, shared accounts, and what comes out of order, of one tenant and another."""
        acme, birch = self.tenants
        taxed = invoice_issued(self.books(birch), subtotal=Decimal(5), tax=Decimal(1))
        return [
            self.accrual(acme, "a1", "1.000000000001", "-2.5", "7", days=3),
            self.accrual(birch, "b1", "0.5"),
            self.accrual(acme, "a2", "4", "-4", days=1),
            self.posted(birch, "b2", taxed, days=2),
            self.accrual(birch, "b3", "3", days=1),
        ]


@pytest.fixture
def two(database: Database, now: datetime) -> Two:
    world = make_world(database, now)
    tenants = [world.tenant(slug) for slug in ("acme", "birch")]
    with database.transaction(Role.OPERATOR) as connection:
        contracts = {each.tenant_id: each.id for each in list_contracts(connection)}
    return Two(world=world, tenants=tenants, contracts=contracts)


def left_by(two: Two, write: Callable[[sa.Connection], object]) -> list[tuple[object, ...]]:
    """What postings a transaction would leave; it is rolled back."""
    with two.world.database.engine.connect() as connection, connection.begin() as running:
        connection.execute(sa.text("SET LOCAL ROLE steelyard_operator"))
        write(connection)
        connection.execute(sa.text("SET CONSTRAINTS ALL IMMEDIATE"))
        assert store.account_differences(connection) == []
        rows = [tuple(row) for row in connection.execute(LEFT)]
        running.rollback()
    return rows


def test_L1_a_page_leaves_what_its_transactions_leave_one_by_one(two: Two) -> None:
    page, now = two.page(), two.world.now

    def one_by_one(connection: sa.Connection) -> None:
        for each in page:
            assert ledger.post(connection, each, now=now)

    expected = left_by(two, one_by_one)
    assert len(expected) == 13
    assert left_by(two, lambda connection: post_many(connection, page, now=now)) == expected
    # Behind postings of before, some of which were effective later.
    with two.world.database.transaction(Role.OPERATOR) as connection:
        post_many(connection, [two.accrual(two.tenants[0], "a0", "9", days=2)], now=now)
        post_many(connection, [two.accrual(two.tenants[0], "a9", "9")], now=now)
    expected = left_by(two, one_by_one)
    assert left_by(two, lambda connection: post_many(connection, page, now=now)) == expected
    for earlier in (now - timedelta(seconds=1), now + timedelta(seconds=1)):
        left_by(two, lambda connection, at=earlier: post_many(connection, page, now=at))


def test_L3_what_was_posted_before_changes_nothing(two: Two) -> None:
    page, now = two.page(), two.world.now
    with two.world.database.transaction(Role.OPERATOR) as connection:
        assert post_many(connection, page[:2], now=now) == {each.id for each in page[:2]}
    again = [replace(each, id=uuid4()) for each in page]
    with two.world.database.transaction(Role.OPERATOR) as connection:
        assert post_many(connection, again, now=now) == {each.id for each in again[2:]}
        assert post_many(connection, page, now=now) == frozenset()
        assert post_many(connection, [], now=now) == frozenset()
        assert store.account_differences(connection) == []
    other = [two.accrual(two.tenants[0], "new", "1"), two.accrual(two.tenants[0], "a1", "1.5")]
    with (
        pytest.raises(IdempotencyConflict),
        two.world.database.transaction(Role.OPERATOR) as connection,
    ):
        post_many(connection, other, now=now)
    assert len(left_by(two, lambda _: None)) == 13


def test_L1_a_page_with_a_foreign_line_or_account_is_refused_whole(two: Two) -> None:
    acme, birch = two.tenants
    now = two.world.now
    theirs = two.accrual(birch, "theirs", "1")
    line = replace(theirs, tenant_id=acme.id, postings=two.accrual(acme, "", "1").postings)
    assert line.postings[1].line is not None
    foreign = replace(line.postings[1].line, contract_id=two.contracts[birch.id])
    on_line = (line.postings[0], replace(line.postings[1], line=foreign))
    for page in (
        [two.accrual(acme, "own", "1"), replace(line, postings=on_line)],
        [replace(line, postings=on_line)],
    ):
        with (
            pytest.raises(IntegrityError, match="do not belong together"),
            two.world.database.transaction(Role.OPERATOR) as connection,
        ):
            post_many(connection, page, now=now)
    assert left_by(two, lambda _: None) == []
    with two.world.database.transaction(Role.OPERATOR) as connection:
        ledger.post(connection, theirs, now=now)
    # The header is one tenant's, the accounts are the other's.
    with (
        pytest.raises(IntegrityError, match="do not belong together"),
        two.world.database.transaction(Role.OPERATOR) as connection,
    ):
        connection.execute(
            sa.text(
                "SELECT post_together(now(), ARRAY[gen_random_uuid()], ARRAY[1], ARRAY[:acme], "
                "ARRAY['x'], ARRAY['x'], ARRAY['x'], ARRAY[now()], ARRAY[NULL::timestamptz], "
                "ARRAY[2], ARRAY[sha256('x')], ARRAY(SELECT account_id FROM account_balance), "
                "ARRAY[]::int[], ARRAY[]::timestamptz[], ARRAY[]::text[], ARRAY[1, 1], "
                "ARRAY[0, 1], ARRAY[1, 2], ARRAY[1, -1], ARRAY[NULL, NULL]::int[], "
                "ARRAY[NULL, NULL]::int[], ARRAY[NULL, NULL]::int[])"
            ),
            {"acme": acme.id},
        )


OWN = "FROM account WHERE code <> 'fx_position'"
HASH = (
    "(SELECT sha256(convert_to('0|' || min(id) || '|1.000000000000' || chr(10) || "
    f"'1|' || max(id) || '|-1.000000000000', 'UTF8')) {OWN})"
)
RAW = (
    "SELECT post_together(now(), ARRAY[gen_random_uuid()], ARRAY[1], ARRAY[:tenant], ARRAY['x'], "
    "ARRAY['x'], ARRAY['x'], ARRAY[now()], ARRAY[NULL::timestamptz], ARRAY[2], ARRAY[{hash}], "
    "ARRAY(SELECT id {own} ORDER BY id), ARRAY[]::int[], ARRAY[]::timestamptz[], ARRAY[]::text[], "
    "ARRAY[1, 1], {ordinals}, ARRAY[1, 2], ARRAY[1, CAST({credit} AS numeric)], "
    "ARRAY[NULL, NULL]::int[], "
    "ARRAY[NULL, NULL]::int[], ARRAY[NULL, NULL]::int[])"
)


@pytest.mark.parametrize(
    ("changed", "refused"),
    [
        ({}, None),
        ({"credit": "-0.5"}, "does not sum to zero"),
        ({"credit": "'NaN'"}, "does not sum to zero"),
        ({"hash": "sha256('x')"}, "does not have the postings that its header states"),
        ({"ordinals": "ARRAY[0, 2]"}, "do not belong together"),
        ({"own": "FROM account"}, "crosses currencies outside the two FX accounts"),
    ],
)
def test_L1_a_page_by_hand_is_checked_before_it_commits(
    two: Two, changed: dict[str, str], refused: str | None
) -> None:
    tenant = two.tenants[0]
    stated = {"hash": HASH, "ordinals": "ARRAY[0, 1]", "credit": "-1", "own": OWN, **changed}
    with two.world.database.transaction(Role.OPERATOR) as connection:
        post_many(connection, [two.accrual(tenant, "first", "1")], now=two.world.now)
        connection.execute(
            sa.text(
                "INSERT INTO account (legal_entity_id, code, tenant_id, currency) "
                "VALUES (1, 'fx_position', NULL, 'USD')"
            )
        )

    def write() -> None:
        with two.world.database.transaction(Role.OPERATOR) as connection:
            connection.execute(sa.text(RAW.format(**stated)), {"tenant": tenant.id})
            # Nothing of it is left to find out at commit.
            connection.execute(sa.text("SET CONSTRAINTS ALL IMMEDIATE"))

    if refused is None:
        write()
        with two.world.database.transaction(Role.OPERATOR) as connection:
            assert store.account_differences(connection) == []
    else:
        with pytest.raises(IntegrityError, match=refused):
            write()
    assert len(left_by(two, lambda _: None)) == (4 if refused is None else 2)
