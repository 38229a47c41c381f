"""Strategies of what is posted: templates for a tenant, and exchanges of the operator's money."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import uuid4

from hypothesis import strategies as st

from billing.catalog.contract import Contract
from billing.ledger.account import AccountCode
from billing.ledger.cash_template import Exchange, fx_exchanged, payment_received
from billing.ledger.credit_template import (
    credits_bought,
    paid_credits_used,
    promotional_credits_used,
)
from billing.ledger.posting import LineRef, Posting, Transaction
from billing.ledger.template import Books, invoice_issued, lines_accrued
from billing.money import Money, currency
from billing.period import month, zone
from billing.tenancy.tenant import LegalEntity

UTC_ZONE = zone("UTC")
MONTHS = tuple(month(2026, number, UTC_ZONE) for number in (9, 10, 11, 12))

which = st.integers(0, 1)
instants = st.builds(
    lambda period, days: period.start + timedelta(days=days),
    st.sampled_from(MONTHS),
    st.integers(0, 27),
)
cents = st.integers(1, 10**6).map(lambda minor: Decimal(minor).scaleb(-2))
exact = st.integers(1, 10**18).map(lambda units: Decimal(units).scaleb(-12))

Template = Callable[[Books, LineRef], tuple[Posting, ...]]
"""Makes postings for a tenant; the line is one of its own contract."""


@st.composite
def _templates(draw: st.DrawFn) -> Template:
    amount, fine = draw(cents), draw(exact)
    return draw(
        st.sampled_from(
            [
                lambda books, line: lines_accrued(
                    books, [(line, AccountCode.REVENUE, each) for each in (fine, -amount)]
                ),
                lambda books, line: invoice_issued(books, subtotal=amount, tax=amount),
                lambda books, line: payment_received(books, amount=amount, into=AccountCode.BANK),
                lambda books, line: credits_bought(
                    books, amount=amount, paid_from=AccountCode.STRIPE_CLEARING
                ),
                lambda books, line: paid_credits_used(books, amount=fine),
                lambda books, line: promotional_credits_used(books, amount=fine),
            ]
        )
    )


templates = _templates()


@dataclass(frozen=True, slots=True)
class Move:
    """What is to be posted: by a template for a tenant, or an exchange of so many cents."""

    at: datetime
    whose: int = 0
    template: Template | None = None
    sold: int = 0

    def transaction(
        self, entity: LegalEntity, parties: Sequence[Contract], *, key: str | None = None
    ) -> Transaction:
        """The transaction, made anew with an id of its own and, unless given, such a key."""
        party = parties[self.whose] if self.template else None
        return Transaction(
            id=uuid4(),
            legal_entity_id=entity.id,
            tenant_id=party.tenant_id if party else None,
            kind="posted" if party else "fx_exchanged",
            idempotency_key=key or str(uuid4()),
            effective_at=self.at,
            postings=self._postings(entity, party),
            fx_rate=None if party else Decimal(2),
        )

    def _postings(self, entity: LegalEntity, party: Contract | None) -> tuple[Posting, ...]:
        if self.template is not None and party is not None:
            books = Books(legal_entity_id=entity.id, tenant_id=party.tenant_id, currency="USD")
            line = LineRef(contract_id=party.id, period_start=MONTHS[0].start, line_key="k")
            return self.template(books, line)
        exchange = Exchange(
            legal_entity_id=entity.id,
            code=AccountCode.BANK,
            sold=Money(minor=self.sold, currency=currency("USD")),
            bought=Money(minor=2 * self.sold, currency=currency("EUR")),
            rate=Decimal(2),
        )
        return fx_exchanged(exchange)


exchanges = st.builds(Move, instants, sold=st.integers(1, 10**6))
moves = st.one_of(
    st.builds(Move, instants, which, templates),
    st.builds(Move, instants, which, templates),
    exchanges,
)
