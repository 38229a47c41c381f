"""What may be done about one tenant's credit: each step in the database and in the model.

Decides which steps there are and what is drawn for them. That they agree is decided by the machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import count
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from hypothesis import strategies as st

from billing.ledger.account import AccountCode
from billing.ledger.credit_grant import CreditScope, GrantKind, Rollover, TaxedAt
from billing.ledger.hold import SpendLimit
from billing.operations.credits.apply_credits import apply_credits
from billing.operations.credits.grant_credit import GrantTerms, grant_credit, void_grant
from billing.operations.credits.lapse_credits import expire_grants, issue_recurring
from billing.operations.holds import holds as operations
from billing.operations.invoicing.issue_invoice import issue_invoice
from billing.operations.metering.ingest_usage import ingest_usage
from billing.operations.minting import mint_id
from billing.operations.rating.accrue_usage import accrue_usage
from billing.period import Period
from billing.store.database import Role
from billing.tenancy.tenant import Tenant
from tests.invariants.credits_model import CreditBooks
from tests.invariants.lots_model import METERS, Lot, month_of
from tests.world import MONTH_START, usage_report

_serials = count(1)

Result = Any
"""What a step answered: its own answer, or the name of the error that refused it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Something that somebody does, in the database and in the model."""

    name: str
    do: Callable[[sa.Connection], Result]
    expect: Callable[[CreditBooks], Result]
    role: Role = Role.OPERATOR


Recipe = Callable[["Scene"], Step]

cents = st.integers(1, 3_000).map(lambda minor: Decimal(minor).scaleb(-2))
exact = st.integers(1, 30 * 10**12).map(lambda units: Decimal(units).scaleb(-12))
spans = st.sampled_from([timedelta(hours=1), timedelta(days=1), timedelta(days=9)])
soon = st.sampled_from([timedelta(microseconds=1), timedelta(minutes=30), timedelta(days=2)])
picks = st.integers(0, 99)
quantities = st.integers(1, 20_000_000)


@dataclass(frozen=True, slots=True)
class Wish:
    """Terms of a grant; its end is counted from when it is made."""

    terms: dict[str, Any]
    lasts: timedelta | None

    def at(self, now: datetime) -> GrantTerms:
        ends = None if self.lasts is None else now + self.lasts
        return GrantTerms(currency="USD", source="test", expires_at=ends, **self.terms)


@dataclass(slots=True, kw_only=True)
class Scene:
    """A tenant, its limits by name, and what must be true of it; methods make steps."""

    tenant: Tenant
    limits: dict[str, SpendLimit]
    books: CreditBooks

    # credit

    def grant(self, wish: Wish) -> Step:
        return self._grant(f"grant-{next(_serials)}", wish.at(self.books.now))

    def grant_again(self, pick: int, other: bool) -> Step:
        given = [lot for lot in self.books.lots.values() if "/" not in lot.key]
        if not given:
            return self.sweep()
        lot = given[pick % len(given)]
        more = Decimal("0.01") if other else Decimal(0)
        return self._grant(lot.key, replace(lot.terms, amount=lot.terms.amount + more))

    def _grant(self, key: str, terms: GrantTerms) -> Step:
        def do(connection: sa.Connection) -> Result:
            row = grant_credit(
                connection,
                tenant=self.tenant,
                terms=terms,
                idempotency_key=key,
                now=self.books.now,
            )
            return row.grant.idempotency_key

        return Step(name=f"grant {key}", do=do, expect=lambda books: books.grant(key, terms))

    def void(self, pick: int) -> Step:
        lots = list(self.books.lots.values())
        return self.void_lot(lots[pick % len(lots)]) if lots else self.sweep()

    def void_lot(self, lot: Lot) -> Step:
        def do(connection: sa.Connection) -> Result:
            row = void_grant(connection, grant_id=lot.id, now=self.books.now)
            return row.grant.idempotency_key

        return Step(name=f"void {lot.key}", do=do, expect=lambda books: books.void(lot.key))

    def expire(self, into: AccountCode) -> Step:
        def do(connection: sa.Connection) -> Result:
            rows = expire_grants(connection, now=self.books.now, into=into)
            own = [row.grant for row in rows if row.grant.tenant_id == self.tenant.id]
            return sorted(grant.idempotency_key for grant in own)

        return Step(name="expire", do=do, expect=lambda books: books.expire(into))

    def renew(self) -> Step:
        def do(connection: sa.Connection) -> Result:
            made = issue_recurring(connection, now=self.books.now)
            own = [grant for grant in made if grant.tenant_id == self.tenant.id]
            return sorted(grant.idempotency_key for grant in own)

        return Step(name="renew", do=do, expect=CreditBooks.renew)

    # usage and invoices

    def use(self, line: str, quantity: int) -> Step:
        name = f"usage-{next(_serials)}"
        report = usage_report(
            foreign_id=name,
            meter=METERS[line],
            quantity=quantity,
            occurred_at=self.books.now,
        )

        def do(connection: sa.Connection) -> Result:
            ingest_usage(connection, [report], tenant=self.tenant, now=self.books.now)

        return Step(
            name=f"use {quantity} of {line}",
            do=do,
            expect=lambda books: books.use(name, line, quantity),
            role=Role.INGEST,
        )

    def accrue(self, pick: int) -> Step:
        month = self._month(pick)

        def do(connection: sa.Connection) -> Result:
            accrue_usage(connection, tenant=self.tenant, period=month, now=self.books.now)

        return Step(name="accrue", do=do, expect=lambda books: books.accrue(month.start))

    def apply(self, pick: int, settle: bool) -> Step:
        month = self._month(pick)

        def do(connection: sa.Connection) -> Result:
            apply_credits(
                connection,
                tenant=self.tenant,
                period=month,
                settled_through=self.books.now if settle else None,
                now=self.books.now,
            )

        return Step(
            name="apply", do=do, expect=lambda books: books.apply(month.start, settle=settle)
        )

    def issue(self) -> Step:
        """The oldest month without an invoice, which may not be over."""
        start = month_of(MONTH_START + timedelta(days=1))[0]
        while start in self.books.invoices:
            start = month_of(start)[1]
        month = Period(start=start, end=month_of(start)[1])

        def do(connection: sa.Connection) -> Result:
            row = issue_invoice(connection, tenant=self.tenant, period=month, now=self.books.now)
            return row.total_minor, row.amount_due_minor, row.residual_after

        return Step(name="issue", do=do, expect=lambda books: books.issue(month.start))

    def _month(self, pick: int) -> Period:
        """This month, or one `pick` before it."""
        start, end = month_of(self.books.now)
        for _ in range(pick % 3):
            if start > MONTH_START + timedelta(days=1):
                start, end = month_of(start - timedelta(days=1))
        return Period(start=start, end=end)

    # holds

    def take(self, limit: str, amount: Decimal, lasts: timedelta) -> Step:
        hold, until = mint_id(self.books.now), self.books.now + lasts

        def do(connection: sa.Connection) -> Result:
            operations.take_hold(
                connection,
                hold_id=hold,
                limit=self.limits[limit],
                amount=amount,
                expires_at=until,
                now=self.books.now,
            )

        return Step(
            name=f"take {amount} of {limit}",
            do=do,
            expect=lambda books: books.take(hold, limit, amount, until),
        )

    def extend(self, pick: int, more: Decimal, lasts: timedelta) -> Step:
        (hold, limit), extension = self._hold(pick), mint_id(self.books.now)
        until = self.books.now + lasts

        def do(connection: sa.Connection) -> Result:
            operations.extend_hold(
                connection,
                hold_id=hold,
                extension_id=extension,
                limit=limit,
                more=more,
                expires_at=until,
                now=self.books.now,
            )

        return Step(
            name=f"extend by {more}",
            do=do,
            expect=lambda books: books.extend(hold, extension, more, until),
        )

    def resolve(self, pick: int, share: Decimal | None) -> Step:
        """Post a share of a hold, or void it."""
        hold, limit = self._hold(pick)
        if share is None:

            def void(connection: sa.Connection) -> Result:
                operations.void_hold(connection, hold_id=hold, limit=limit, now=self.books.now)

            return Step(
                name="void a hold",
                do=void,
                expect=lambda books: books.resolve(hold, "voided", Decimal(0)),
            )
        held = self.books.holds[hold].amount if hold in self.books.holds else Decimal(1)
        used = (held * share).quantize(Decimal("1e-12"))

        def post(connection: sa.Connection) -> Result:
            operations.post_hold(
                connection, hold_id=hold, limit=limit, used=used, now=self.books.now
            )

        return Step(
            name=f"post {used}", do=post, expect=lambda books: books.resolve(hold, "posted", used)
        )

    def sweep(self) -> Step:
        def do(connection: sa.Connection) -> Result:
            return operations.expire_holds(connection, now=self.books.now)

        return Step(name="sweep", do=do, expect=CreditBooks.sweep)

    def _hold(self, pick: int) -> tuple[UUID, SpendLimit]:
        """An open hold if there is one, or another, or one that nobody took."""
        holds = [hold for hold in self.books.holds.values() if not hold.resolved]
        holds = holds if holds and pick % 5 else list(self.books.holds.values())
        if not holds:
            return UUID(int=pick), self.limits["credit"]
        hold = holds[pick % len(holds)]
        return hold.id, self.limits[hold.limit]


@st.composite
def _wishes(draw: st.DrawFn) -> Wish:
    terms: dict[str, Any] = {
        "amount": draw(st.one_of(cents, exact)),
        "kind": GrantKind.PROMOTIONAL,
        "priority": draw(st.integers(0, 1)),
        "scope": draw(
            st.sampled_from([CreditScope(), CreditScope(meters=frozenset({"tokens.output"}))])
        ),
        "cost_basis": Decimal(0),
    }
    if draw(st.booleans()):
        cost = draw(cents)
        terms |= {
            "kind": GrantKind.PAID,
            "amount": cost + draw(st.one_of(st.just(Decimal(0)), exact)),
            "cost_basis": cost,
            "taxed_at": draw(st.sampled_from(TaxedAt)),
            "paid_from": draw(st.sampled_from([AccountCode.BANK, AccountCode.STRIPE_CLEARING])),
        }
    elif draw(st.booleans()):
        terms["recurs"] = True
    lasts = None if terms.get("recurs") else draw(st.one_of(st.none(), spans))
    if lasts is not None or terms.get("recurs"):
        fraction = draw(st.sampled_from([Decimal(1), Decimal("0.3333")]))
        maximum = draw(st.one_of(st.none(), cents))
        rule = Rollover(fraction=fraction, maximum=maximum)
        terms["rollover"] = draw(st.sampled_from([None, rule]))
    return Wish(terms, lasts)


wishes = _wishes()
_ALIKE: dict[str, Any] = {"amount": Decimal(1), "scope": CreditScope(), "priority": 0}
TWINS = (
    Wish(
        {
            **_ALIKE,
            "kind": GrantKind.PAID,
            "cost_basis": Decimal(1),
            "taxed_at": TaxedAt.PURCHASE,
            "paid_from": AccountCode.BANK,
        },
        None,
    ),
    Wish({**_ALIKE, "kind": GrantKind.PROMOTIONAL, "cost_basis": Decimal(0)}, None),
)
"""Two grants that only their kind puts in an order."""

recipes: st.SearchStrategy[Recipe] = st.one_of(
    st.builds(lambda wish: lambda s: s.grant(wish), wishes),
    st.builds(lambda pick: lambda s: s.void(pick), picks),
    st.builds(lambda pick, more: lambda s: s.grant_again(pick, more), picks, st.booleans()),
    st.builds(
        lambda line, quantity: lambda s: s.use(line, quantity),
        st.sampled_from(list(METERS)),
        quantities,
    ),
    st.builds(lambda pick: lambda s: s.accrue(pick), picks),
    st.builds(lambda pick, settle: lambda s: s.apply(pick, settle), picks, st.booleans()),
    st.just(lambda s: s.apply(0, False)),
    st.just(lambda s: s.issue()),
    st.just(lambda s: s.renew()),
    st.builds(
        lambda into: lambda s: s.expire(into),
        st.sampled_from([AccountCode.BREAKAGE, AccountCode.UNCLAIMED_PROPERTY]),
    ),
    st.builds(
        lambda limit, amount, lasts: lambda s: s.take(limit, amount, lasts),
        st.sampled_from(["credit", "budget"]),
        st.one_of(cents, exact),
        soon,
    ),
    st.builds(
        lambda pick, more, lasts: lambda s: s.extend(pick, more, lasts),
        picks,
        st.one_of(st.just(Decimal(0)), cents),
        soon,
    ),
    st.builds(
        lambda pick, share: lambda s: s.resolve(pick, share),
        picks,
        st.sampled_from([None, Decimal(0), Decimal("0.5"), Decimal(1), Decimal("1.1")]),
    ),
    st.just(lambda s: s.sweep()),
)
