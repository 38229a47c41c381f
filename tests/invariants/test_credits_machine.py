"""Invariants 4, 5, 7, 8, 13, 15, 16, 18, 20 and 24, C1, L6 and R1 of credits, in any order.

One tenant is granted credit, uses, is billed, redeems, holds and lets lapse; every step is also
done again, dies between any two of its statements and is done anew, or races others on connections
of their own. A model in memory runs beside it: after every step all rows are the model's, and what
raced came out as if one had followed the other in some order.
"""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import count, permutations
from os import environ
from threading import Barrier
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from billing.errors import SteelyardError
from billing.ledger.account import AccountCode
from billing.ledger.credit_grant import GrantKind
from billing.ledger.hold import CREDIT, SpendLimit
from billing.operations.catalog.contracts import bind_contract
from billing.operations.credits.grant_credit import GrantTerms, grant_credit
from billing.operations.credits.read_credits import read_credit
from billing.operations.holds import holds as operations
from billing.operations.ledger.verify_balances import verify_balances
from billing.operations.tenancy.tenants import create_legal_entity, create_tenant
from billing.store import holds as hold_store
from billing.store.database import Database, Role
from billing.tenancy.tenant import Tenant
from tests.invariants.credits_model import CreditBooks
from tests.invariants.credits_state import (
    projection_differences,
    read_state,
    rows_of,
    unbilled,
)
from tests.invariants.credits_steps import (
    TWINS,
    Recipe,
    Result,
    Scene,
    Step,
    Wish,
    cents,
    picks,
    quantities,
    recipes,
    spans,
    wishes,
)
from tests.invariants.lots_model import CALENDAR, METERS, month_of
from tests.operations.crash_points import Crash, crash_before, dying_everywhere
from tests.world import World, make_world

FULL = environ.get("STEELYARD_ROUNDS") == "full"
SETTINGS = settings(
    max_examples=150 if FULL else 5,
    stateful_step_count=40 if FULL else 15,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    # Every try costs seconds; a failing run is short enough to read as it is.
    phases=(Phase.explicit, Phase.generate),
)

PLAN = """
slug: fractions
name: Fractions
currency: USD
charges:
  - {type: per_unit, key: input, description: In, meter: tokens.input, price: "0.000001000003"}
  - {type: per_unit, key: output, description: Out, meter: tokens.output,
     price: "0.000000333333333"}
"""
LAST = datetime.fromisoformat("2027-03-20T00:00:00Z")
"""Until when usage can be reported: partitions are made for these months."""

BUDGET = Decimal(40)
_names = (f"credits-{number}" for number in count(1))

boundaries = st.integers(1, 70)


class CreditsMachine(RuleBasedStateMachine):
    """Rules are how steps meet: alone, again, dying, racing; invariants look at everything."""

    world: World

    def __init__(self) -> None:
        super().__init__()
        tenant, self.bystander = self._begin()
        books = CreditBooks(self.world.now, BUDGET)
        self.scene = Scene(tenant=tenant, limits=self._limits(tenant), books=books)
        self.done: list[Step] = []
        self.rows: dict[Any, str] = {}
        self.elsewhere = self._state(self.bystander)

    def teardown(self) -> None:
        """Let everything lapse: what is still owed is for what never ends."""
        self.scene.books.now = LAST + timedelta(days=400)
        self.run_one(self.scene.sweep())
        for lot in [lot for lot in self.scene.books.lots.values() if lot.heads_series]:
            self.run_one(self.scene.void_lot(lot))
        while self.run_one(self.scene.expire(AccountCode.BREAKAGE)):
            pass
        self.all_rows_are_the_models()
        lots = self.scene.books.lots.values()
        assert all(lot.expires is None for lot in lots if lot.remaining)
        assert self.run_one(self.scene.renew()) == []

    # how steps meet

    @initialize(
        wishes=st.lists(wishes, min_size=2, max_size=3),
        line=st.sampled_from(list(METERS)),
        quantity=quantities,
        bills=st.booleans(),
    )
    def begins(self, wishes: list[Wish], line: str, quantity: int, bills: bool) -> None:
        """Credit that pays usage, so that whatever follows has something to break."""
        self.credit_is_granted([*wishes, *TWINS])
        self.usage_is_paid(line, quantity, settle=False)
        if bills:
            self.scene.books.now = month_of(self.scene.books.now)[1]
            self.run_one(self.scene.issue())

    @rule(recipe=recipes)
    def alone(self, recipe: Recipe) -> None:
        self.run_one(recipe(self.scene))

    @rule(line=st.sampled_from(list(METERS)), quantity=quantities, settle=st.booleans())
    def usage_is_paid(self, line: str, quantity: int, settle: bool) -> None:
        self.run_one(self.scene.use(line, quantity))
        self.run_one(self.scene.accrue(0))
        self.run_one(self.scene.apply(0, settle))

    @rule(wishes=st.lists(wishes, min_size=2, max_size=4))
    def credit_is_granted(self, wishes: list[Wish]) -> None:
        for wish in wishes:
            self.run_one(self.scene.grant(wish))

    @rule(meanwhile=recipes, dies=st.booleans())
    def month_ends(self, meanwhile: Recipe, dies: bool) -> None:
        self.scene.books.now = min(month_of(self.scene.books.now)[1], LAST)
        if dies:
            self.dies_before_each_statement_in_turn(Scene.issue)
        self._race([self.scene.issue(), self.scene.issue(), meanwhile(self.scene)])

    @rule(pick=picks)
    def again(self, pick: int) -> None:
        if self.done:
            self.run_one(self.done[pick % len(self.done)])

    @rule(recipe=recipes, boundary=boundaries)
    def dies_and_is_done_anew(self, recipe: Recipe, boundary: int) -> None:
        step, first = recipe(self.scene), None
        with suppress(Crash), crash_before(self.world.database.engine, boundary):
            first = [self._do(step)]
        if first is not None:
            self._expect(step, first[0])
        self.run_one(step)

    @rule(recipe=recipes)
    def dies_before_each_statement_in_turn(self, recipe: Recipe) -> None:
        step = recipe(self.scene)
        answer = dying_everywhere(self.world.database.engine, lambda: self._do(step))
        self._expect(step, answer)

    @rule(first=recipes, second=recipes)
    def two_at_once(self, first: Recipe, second: Recipe) -> None:
        self._race([first(self.scene), second(self.scene)])

    @rule(recipe=recipes)
    def one_by_two_at_once(self, recipe: Recipe) -> None:
        step = recipe(self.scene)
        self._race([step, step])

    @rule(
        limit=st.sampled_from(["credit", "budget"]),
        amounts=st.lists(cents, min_size=3, max_size=3),
        other=recipes,
    )
    def holds_race_for_what_is_left(
        self, limit: str, amounts: list[Decimal], other: Recipe
    ) -> None:
        takes = [self.scene.take(limit, amount, timedelta(minutes=30)) for amount in amounts]
        self._race([*takes, other(self.scene)])

    @rule(lasts=spans)
    def time_passes(self, lasts: timedelta) -> None:
        self.scene.books.now = min(self.scene.books.now + lasts, LAST)

    # what holds

    @invariant()
    def all_rows_are_the_models(self) -> None:
        state = self._state(self.scene.tenant)
        model = self.scene.books.state()
        for part, expected in model.items():
            assert state[part] == expected, part
        assert state.keys() == model.keys()

    @invariant()
    def C1_L6_R1_projections_are_the_sums_of_their_events(self) -> None:
        with self.world.database.transaction(Role.OPERATOR) as connection:
            assert projection_differences(connection, self.scene.tenant) == []
            assert verify_balances(connection) == []
        budget = self.scene.books.limits["budget"]
        assert budget.spent + self.scene.books.held("budget") <= BUDGET

    @invariant()
    def inv13_rated_less_invoiced_is_what_unbilled_holds(self) -> None:
        state = self._state(self.scene.tenant)
        accounts = state["accounts"]
        assert accounts.get(AccountCode.UNBILLED, 0) == unbilled(state)
        due = sum(due for _, due, _ in state["invoices"].values())
        assert accounts.get(AccountCode.RECEIVABLE, Decimal(0)) * 100 == due

    @invariant()
    def inv24_what_is_owed_is_billed_less_used_less_given_back(self) -> None:
        state = self._state(self.scene.tenant)
        owed = sum((lot.owed(lot.remaining) for lot in self.scene.books.lots.values()), Decimal(0))
        assert -state["accounts"].get(AccountCode.CONTRACT_LIABILITY, Decimal(0)) == owed
        assert sum(state["deferred"].values(), Decimal(0)) == owed

    @invariant()
    def inv20_nobody_else_is_touched(self) -> None:
        own = {name: part for name, part in self.elsewhere.items() if name != "accounts"}
        now = self._state(self.bystander)
        assert {name: now[name] for name in own} == own

    @invariant()
    def L2_no_row_that_was_seen_is_gone_or_changed(self) -> None:
        with self.world.database.transaction(Role.OPERATOR) as connection:
            found = rows_of(connection, self.scene.tenant)
        assert self.rows.items() <= found.items()
        self.rows = found

    @invariant()
    def T1_a_tenant_reads_its_own_credit(self) -> None:
        database = self.world.database
        with database.transaction(Role.TENANT, tenant_id=self.scene.tenant.id) as connection:
            view = read_credit(connection, tenant=self.scene.tenant, now=self.scene.books.now)
            other = read_credit(connection, tenant=self.bystander, now=self.scene.books.now)
        assert {row.grant.id for row in view.grants} == {
            lot.id for lot in self.scene.books.lots.values()
        }
        assert all(each.available == self.scene.books.available("credit") for each in view.balances)
        assert (other.grants, other.holds) == ([], [])

    # how steps are done

    def run_one(self, step: Step) -> Result:
        answer = self._do(step)
        self._expect(step, answer)
        return answer

    def _do(self, step: Step) -> Result:
        try:
            return self.world.database.retrying(step.role, step.do)
        except SteelyardError as refused:
            return type(refused).__name__

    def _expect(self, step: Step, answer: Result) -> None:
        self._learn()
        assert step.expect(self.scene.books) == answer, step.name
        self.done.append(step)

    def _race(self, steps: list[Step]) -> None:
        """All at once; afterwards all is as if they had been done in one order or another."""
        start = Barrier(len(steps))

        def run(step: Step) -> Result:
            start.wait()
            return self._do(step)

        with ThreadPoolExecutor(len(steps)) as threads:
            answers = list(threads.map(run, steps))
        self._learn()
        found = self._state(self.scene.tenant)
        for order in permutations(range(len(steps))):
            books = copy.deepcopy(self.scene.books)
            expected = {place: steps[place].expect(books) for place in order}
            if books.state() == found and all(
                expected[n] == each for n, each in enumerate(answers)
            ):
                self.scene.books = books
                self.done += steps
                return
        pytest.fail(f"in no order: {[step.name for step in steps]} gave {answers}, {found}")

    def _learn(self) -> None:
        """Ids are drawn by the database's writers; the model is told which they are."""
        self.scene.books.ids = {
            key: lot[0] for key, lot in self._state(self.scene.tenant)["lots"].items()
        }

    def _state(self, tenant: Tenant) -> dict[str, Any]:
        with self.world.database.transaction(Role.OPERATOR, snapshot=True) as connection:
            return read_state(connection, tenant)

    def _begin(self) -> tuple[Tenant, Tenant]:
        name, now = next(_names), self.world.now
        with self.world.database.transaction(Role.OPERATOR) as connection:
            create_legal_entity(
                connection,
                slug=name,
                name=name,
                country="US",
                currency_code="USD",
                zone_name=CALENDAR.key,
                invoice_prefix=f"{name.upper()}-",
                now=now,
            )
            tenants = [
                create_tenant(
                    connection, slug=f"{name}-{each}", name=each, legal_entity=name, now=now
                )
                for each in ("own", "other")
            ]
            for tenant in tenants:
                start = month_of(now)[0]
                bind_contract(
                    connection, tenant=tenant.slug, plan="fractions", valid_from=start, now=now
                )
            gift = GrantTerms(
                currency="USD", amount=Decimal(9), kind=GrantKind.PROMOTIONAL, source="test"
            )
            grant_credit(connection, tenant=tenants[1], terms=gift, idempotency_key="k", now=now)
        return tenants[0], tenants[1]

    def _limits(self, tenant: Tenant) -> dict[str, SpendLimit]:
        with self.world.database.transaction(Role.OPERATOR) as connection:
            hold_store.ensure_credit(connection, tenant_id=tenant.id, currency="USD")
            asked = {"tenant": tenant, "currency_code": "USD", "now": self.world.now}
            budget = operations.set_limit(connection, **asked, name="budget", capacity=BUDGET)
            return {
                "credit": operations.require_limit(connection, **asked, name=CREDIT),
                "budget": budget,
            }


@pytest.mark.timeout(3600 if FULL else 300)
def test_C1_L6_credit_holds_and_invoices_are_the_models_whatever_happens(
    database: Database, now: datetime
) -> None:
    CreditsMachine.world = make_world(database, now, plan=PLAN)
    run_state_machine_as_test(CreditsMachine, settings=SETTINGS)
