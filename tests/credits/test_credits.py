"""Grants on a real database: once per key, paid by day, expired, rolled over, renewed, ledgered."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date, datetime, timedelta
from decimal import Decimal

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError

from billing.errors import Conflict, IdempotencyConflict, InvalidInput
from billing.ledger.account import AccountCode
from billing.ledger.credit_grant import CreditScope, Rollover
from billing.ledger.hold import CREDIT
from billing.ledger.template import Books
from billing.ledger.top_up import TopUpAnswer
from billing.operations.credits.apply_credits import apply_credits
from billing.operations.credits.grant_credit import require_grant, void_grant
from billing.operations.credits.lapse_credits import expire_grants, issue_recurring
from billing.operations.credits.read_credits import read_credit
from billing.operations.credits.top_ups import (
    consider_top_up,
    decline_top_up,
    list_top_ups,
    pay_top_up,
    set_top_up_policy,
)
from billing.operations.holds.holds import require_limit, take_hold
from billing.operations.minting import mint_id
from billing.operations.rating.accrue_usage import accrue_usage
from billing.store import credits as store
from billing.store import ledger
from billing.store.database import Database, Role, only
from billing.tenancy.tenant import Tenant
from tests.credits.grants import POLICY, give, require_ties, terms
from tests.operations.crash_points import Crash, crash_before
from tests.world import MONTH_END, World, make_world

EVENT = (
    "INSERT INTO credit_event SELECT id, id, {tenant}, 'expired', {amount}, NULL, NULL, NULL, "
    "NULL, 'x', granted_at FROM credit_grant"
)


@pytest.fixture
def world(database: Database, now: datetime) -> World:
    return make_world(database, now)


@pytest.fixture
def acme(world: World) -> Tenant:
    return world.tenant("acme")


def balance(connection: sa.Connection, tenant: Tenant, code: AccountCode) -> Decimal:
    entity = only(connection, "SELECT id FROM legal_entity").id
    books = Books(legal_entity_id=entity, tenant_id=tenant.id, currency="USD")
    return ledger.balance(connection, books.account(code))


def accrue_and_apply(connection: sa.Connection, tenant: Tenant, now: datetime) -> None:
    period = tenant.billing_period(now)
    accrue_usage(connection, tenant=tenant, period=period, now=now)
    apply_credits(connection, tenant=tenant, period=period, now=now)


def test_L3_one_key_one_grant_other_terms_are_refused(world: World, acme: Tenant) -> None:
    with world.database.transaction(Role.OPERATOR) as connection:
        first = give(connection, acme, "5.00", key="k", now=world.now, paid=True)
        later = world.now + timedelta(minutes=1)
        assert give(connection, acme, "5.00", key="k", now=later, paid=True) == first
        with pytest.raises(IdempotencyConflict):
            give(connection, acme, "6.00", key="k", now=world.now, paid=True)
        assert balance(connection, acme, AccountCode.BANK) == 5
        require_ties(connection, acme)


def test_row_29_two_real_top_ups_in_one_minute_both_count(world: World, acme: Tenant) -> None:
    with world.database.transaction(Role.OPERATOR) as connection:
        for key in ("order-1", "order-2"):
            give(connection, acme, "5.00", key=key, now=world.now, paid=True)
        assert read_credit(connection, tenant=acme, now=world.now).balances[0].available == 10


def test_C1_usage_is_paid_by_day_once_and_posted(world: World, acme: Tenant) -> None:
    world.use(acme, {"tokens.input": 5_000_000})
    with world.database.transaction(Role.OPERATOR) as connection:
        promotional = give(connection, acme, "2.00", key="promo", now=world.now)
        paid = give(
            connection,
            acme,
            "7.00",
            key="paid",
            now=world.now,
            paid=True,
            cost_basis=Decimal("6.3"),
        )
        for _ in range(2):
            accrue_and_apply(connection, acme, world.now)
            require_ties(connection, acme)
        earned = -balance(connection, acme, AccountCode.REVENUE)
        assert earned > 9
        assert require_grant(connection, promotional.grant.id).used == 2
        assert require_grant(connection, paid.grant.id).used == 7
        # What it got beyond what it paid is promotion: 2.00 and a tenth of 7.00.
        assert balance(connection, acme, AccountCode.CONTRA_PROMOTION) == Decimal("2.7")
        assert balance(connection, acme, AccountCode.UNBILLED) == earned - 9


def test_C1_a_scoped_grant_pays_only_its_scope(world: World, acme: Tenant) -> None:
    world.use(acme, {"tokens.input": 5_000_000})
    with world.database.transaction(Role.OPERATOR) as connection:
        scope = CreditScope(meters=frozenset({"tokens.input"}), models=frozenset({"tiny"}))
        scoped = give(connection, acme, "50.00", key="s", now=world.now, scope=scope)
        other = CreditScope(models=frozenset({"large"}))
        unused = give(connection, acme, "50.00", key="o", now=world.now, scope=other)
        accrue_and_apply(connection, acme, world.now)
        assert require_grant(connection, scoped.grant.id).used == 1
        assert require_grant(connection, unused.grant.id).used == 0
        assert read_credit(connection, tenant=acme, now=world.now).balances[0].available == 0


def test_C1_what_expires_is_broken_and_a_part_rolls_over_once(world: World, acme: Tenant) -> None:
    ends = world.now + timedelta(days=1)
    rule = Rollover(fraction=Decimal("0.5"), maximum=Decimal(3))
    with world.database.transaction(Role.OPERATOR) as connection:
        give(
            connection,
            acme,
            "8.00",
            key="r",
            now=world.now,
            paid=True,
            expires_at=ends,
            rollover=rule,
        )
        assert expire_grants(connection, now=ends - timedelta(microseconds=1)) == []
        assert len(expire_grants(connection, now=ends)) == 1
        assert expire_grants(connection, now=ends) == []
        _, rolled = store.grants(connection, tenant_id=acme.id)
        assert (rolled.grant.amount, rolled.grant.cost_basis) == (3, 3)
        assert rolled.grant.expires_at == ends + timedelta(days=1)
        assert -balance(connection, acme, AccountCode.BREAKAGE) == 5
        require_ties(connection, acme)
        into = AccountCode.UNCLAIMED_PROPERTY
        assert len(expire_grants(connection, now=ends + timedelta(days=1), into=into)) == 1
        assert len(store.grants(connection, tenant_id=acme.id)) == 2
        require_ties(connection, acme)


def test_a_date_of_expiry_is_midnight_in_the_tenants_zone(world: World) -> None:
    paris = world.tenant("paris", zone="Europe/Paris")
    with world.database.transaction(Role.OPERATOR) as connection:
        row = give(connection, paris, "1.00", key="d", now=world.now, expires_at=date(2026, 12, 1))
    assert row.grant.expires_at == datetime.fromisoformat("2026-11-30T23:00:00Z")


def test_a_recurring_grant_is_given_once_per_period_and_its_rest_dropped(
    world: World, acme: Tenant
) -> None:
    with world.database.transaction(Role.OPERATOR) as connection:
        head = give(connection, acme, "4.00", key="m", now=world.now, recurs=True)
        assert head.grant.expires_at == MONTH_END
        january = MONTH_END + timedelta(days=40)
        assert len(issue_recurring(connection, now=january)) == 2
        assert issue_recurring(connection, now=january) == []
        assert len(expire_grants(connection, now=january)) == 2
        assert read_credit(connection, tenant=acme, now=january).balances[0].available == 4
        void_grant(connection, grant_id=head.grant.id, now=january)
        assert issue_recurring(connection, now=january + timedelta(days=40)) == []
        require_ties(connection, acme)


def test_a_voided_grant_is_paid_back_and_not_while_it_is_held(world: World, acme: Tenant) -> None:
    with world.database.transaction(Role.OPERATOR) as connection:
        row = give(connection, acme, "5.00", key="v", now=world.now, paid=True)
        limit = require_limit(
            connection, tenant=acme, name=CREDIT, currency_code="USD", now=world.now
        )
        ends = world.now + timedelta(minutes=1)
        take_hold(
            connection,
            hold_id=mint_id(world.now),
            limit=limit,
            amount=Decimal(1),
            expires_at=ends,
            now=world.now,
        )
        with pytest.raises(Conflict, match="hold"):
            void_grant(connection, grant_id=row.grant.id, now=world.now)
        voided = void_grant(connection, grant_id=row.grant.id, now=ends)
        assert (voided.expired, voided.remaining) == (5, 0)
        assert balance(connection, acme, AccountCode.BANK) == 0
        with pytest.raises(Conflict, match="nothing remains"):
            void_grant(connection, grant_id=row.grant.id, now=ends)
        require_ties(connection, acme)


def test_row_11_100_concurrent_spends_never_go_below_zero(world: World, acme: Tenant) -> None:
    world.use(acme, {"tokens.input": 50_000_000})
    period = acme.billing_period(world.now)
    with world.database.transaction(Role.OPERATOR) as connection:
        row = give(connection, acme, "3.00", key="c", now=world.now)
        accrue_usage(connection, tenant=acme, period=period, now=world.now)

    def spend(number: int) -> None:
        def work(connection: sa.Connection) -> None:
            if number % 10:
                apply_credits(connection, tenant=acme, period=period, now=world.now)
            else:
                insert_applied(connection)

        try:
            world.database.retrying(Role.OPERATOR, work)
        except IntegrityError:
            refused.append(number)

    def insert_applied(connection: sa.Connection) -> None:
        store.insert_event(
            connection,
            event_id=mint_id(world.now),
            grant=row.grant,
            kind="expired",
            amount=Decimal(1),
            idempotency_key=str(mint_id(world.now)),
            now=world.now,
        )

    refused: list[int] = []
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(spend, range(100)))
    assert len(refused) >= 7
    with world.database.transaction(Role.OPERATOR) as connection:
        after = require_grant(connection, row.grant.id)
        assert after.remaining == 0
        require_ties(connection, acme)


def test_C1_no_role_can_write_a_balance_or_spend_below_zero(world: World, acme: Tenant) -> None:
    with world.database.transaction(Role.OPERATOR) as connection:
        row = give(connection, acme, "3.00", key="c", now=world.now)
    for change in (
        "UPDATE credit_balance SET remaining = 4, granted = 4",
        "DELETE FROM credit_balance",
        "UPDATE spend_limit SET held = 0, spent = 0",
        "INSERT INTO open_hold SELECT id, 1, 1, 1, 'infinity' FROM credit_grant",
        EVENT.format(tenant="tenant_id", amount="3.000000000001"),
        EVENT.format(tenant="tenant_id + 1", amount="1"),
    ):
        with pytest.raises(DBAPIError), world.database.transaction(Role.OPERATOR) as connection:
            connection.execute(sa.text(change))
    with world.database.transaction(Role.OPERATOR) as connection:
        assert require_grant(connection, row.grant.id).remaining == 3


def test_L5_a_crash_at_any_statement_and_a_second_run_give_the_same(
    world: World, acme: Tenant
) -> None:
    world.use(acme, {"tokens.input": 50_000_000})
    ends = world.now + timedelta(hours=1)

    def work() -> None:
        with world.database.transaction(Role.OPERATOR) as connection:
            give(connection, acme, "3.00", key="a", now=world.now, paid=True)
            give(connection, acme, "90.00", key="b", now=world.now, paid=True, expires_at=ends)
            accrue_and_apply(connection, acme, world.now)
            expire_grants(connection, now=ends)

    number = 0
    while True:
        number += 1
        try:
            with crash_before(world.database.engine, number):
                work()
        except Crash:
            with world.database.transaction(Role.OPERATOR) as connection:
                assert store.grants(connection, tenant_id=acme.id) == []
            continue
        break
    assert number > 20
    work()
    with world.database.transaction(Role.OPERATOR) as connection:
        used = {
            row.grant.idempotency_key: row.used
            for row in store.grants(connection, tenant_id=acme.id)
        }
        assert used == {"a": 0, "b": -balance(connection, acme, AccountCode.REVENUE)}
        require_ties(connection, acme)


def test_the_burst_limit_of_top_ups_is_exact_under_100_calls(world: World, acme: Tenant) -> None:
    with world.database.transaction(Role.OPERATOR) as connection:
        set_top_up_policy(
            connection, tenant=acme, currency_code="USD", policy=POLICY, now=world.now
        )

    def ask(_: int) -> TopUpAnswer:
        return world.database.retrying(
            Role.OPERATOR,
            lambda connection: consider_top_up(
                connection, tenant=acme, currency_code="USD", now=world.now
            ),
        )

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(100)))
    assert answers.count(TopUpAnswer.REQUESTED) == 3
    assert answers.count(TopUpAnswer.BURST) == 97


def test_a_top_up_is_paid_once_and_a_declined_one_cools_down(world: World, acme: Tenant) -> None:
    asked = {"tenant": acme, "currency_code": "USD"}
    policy = replace(POLICY, threshold=Decimal(60), count_max=9, amount_max=Decimal(900))
    with world.database.transaction(Role.OPERATOR) as connection:
        set_top_up_policy(connection, **asked, policy=policy, now=world.now)
        assert consider_top_up(connection, **asked, now=world.now) is TopUpAnswer.REQUESTED
        assert consider_top_up(connection, **asked, now=world.now) is TopUpAnswer.REQUESTED
        # 100 are on their way: enough, though none arrived.
        assert consider_top_up(connection, **asked, now=world.now) is TopUpAnswer.ENOUGH
        first, second = list_top_ups(connection, **asked)
        decline_top_up(connection, top_up_id=first.id, now=world.now)
        assert consider_top_up(connection, **asked, now=world.now) is TopUpAnswer.COOLING_DOWN
        bought = terms("50.00", paid=True)
        assert bought.taxed_at is not None
        assert bought.paid_from is not None
        paid = pay_top_up(
            connection,
            top_up_id=second.id,
            taxed_at=bought.taxed_at,
            paid_from=bought.paid_from,
            now=world.now,
        )
        assert paid.remaining == 50
        same = pay_top_up(
            connection,
            top_up_id=second.id,
            taxed_at=bought.taxed_at,
            paid_from=bought.paid_from,
            now=world.now,
        )
        assert same.grant.id == paid.grant.id
        decline_top_up(connection, top_up_id=first.id, now=world.now)
        with pytest.raises(Conflict):
            decline_top_up(connection, top_up_id=second.id, now=world.now)
        cooled = world.now + timedelta(milliseconds=policy.cool_down_ms)
        assert consider_top_up(connection, **asked, now=cooled) is TopUpAnswer.REQUESTED


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({"recurs": True, "paid": True}, "recurs"),
        ({"paid": True, "cost_basis": Decimal("0.001")}, "cost_basis"),
        ({"paid": True, "cost_basis": Decimal(9)}, "cost_basis"),
        ({"paid": True, "taxed_at": None}, "taxed_at"),
        ({"paid_from": AccountCode.BANK}, "paid_from"),
        ({"rollover": Rollover()}, "expires_at"),
        ({"expires_at": date(2026, 11, 1)}, "expires_at"),
        ({"priority": -1}, "priority"),
        ({"source": " "}, "source"),
        ({"currency": "XXX"}, "currency"),
    ],
)
def test_terms_that_do_not_fit_are_refused_by_field(
    world: World, acme: Tenant, members: dict[str, object], field: str
) -> None:
    with world.database.transaction(Role.OPERATOR) as connection:
        with pytest.raises(InvalidInput) as refused:
            give(connection, acme, "1.00", key="x", now=world.now, **members)
        assert refused.value.field == field
        assert read_credit(connection, tenant=acme, now=world.now).grants == []
