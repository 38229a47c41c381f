"""A Hypothesis strategy for small journals, made by the real templates."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

from hypothesis import strategies as st

from billing.exports.journal_rows import Names
from billing.ledger.account import AccountCode
from billing.ledger.cash_template import payment_received
from billing.ledger.posting import LineRef, Posting, Transaction
from billing.ledger.template import Books, invoice_issued, lines_accrued

NAMES = Names(legal_entities={1: "default"}, tenants={1: "acme", 2: "globex"})
START = datetime(2026, 11, 1, tzinfo=UTC)

EXACT_AMOUNTS = st.decimals(
    Decimal("-1E+9"), Decimal("1E+9"), places=12, allow_nan=False, allow_infinity=False
).filter(bool)
CENTS = st.integers(1, 10**9).map(lambda minor: Decimal(minor).scaleb(-2))


@st.composite
def _postings(draw: st.DrawFn, books: Books) -> tuple[Posting, ...]:
    match draw(st.sampled_from(["usage", "invoice", "payment"])):
        case "usage":
            keys = draw(st.lists(st.sampled_from(["a", "b;c", "d\ne"]), min_size=1, max_size=3))
            lines = [LineRef(contract_id=7, period_start=START, line_key=key) for key in keys]
            earned = [(line, AccountCode.REVENUE, draw(EXACT_AMOUNTS)) for line in lines]
            return lines_accrued(books, earned)
        case "invoice":
            return invoice_issued(books, subtotal=draw(CENTS), tax=draw(CENTS))
        case _:
            return payment_received(books, amount=draw(CENTS), into=AccountCode.STRIPE_CLEARING)


@st.composite
def _transactions(draw: st.DrawFn) -> Transaction:
    tenant = draw(st.sampled_from([1, 2]))
    currency = draw(st.sampled_from(["USD", "EUR"]))
    number = draw(st.integers(1, 2**64))
    books = Books(legal_entity_id=1, tenant_id=tenant, currency=currency)
    return Transaction(
        id=UUID(int=number),
        legal_entity_id=1,
        tenant_id=tenant,
        kind="posted",
        idempotency_key=str(number),
        effective_at=START + timedelta(seconds=draw(st.integers(0, 10**7))),
        postings=draw(_postings(books)),
        reference=draw(st.sampled_from(["", "INV-1", "=1+1", "a\nb ; c"])),
    )


JOURNALS = st.lists(_transactions(), max_size=6, unique_by=lambda found: found.id)
