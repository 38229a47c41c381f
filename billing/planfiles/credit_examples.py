"""Credit and holds on the page of policies: who pays first, what recurs, what is set aside.

Decides: what `rating/POLICIES.md` shows of them. Every figure comes from what draws credit and
bounds requests, so that the page says what the program does; which orders and bounds there are is
decided there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from billing.admission.amounts import PICO, Rates
from billing.admission.backend import Backend, ServedModel
from billing.admission.bound import RequestSize, bound_of
from billing.catalog.rates import proxy_rates, rates_of
from billing.ledger.account import AccountCode
from billing.ledger.credit_grant import (
    CreditGrant,
    CreditLot,
    CreditScope,
    DayCharge,
    GrantKind,
    TaxedAt,
)
from billing.ledger.credit_order import Drawn, draw
from billing.ledger.credit_recurrence import CreditSpan, Overage, draw_in_turn
from billing.metering.token_class import TokenClass
from billing.money import EXACT, plain
from billing.period import Period
from billing.planfiles.plan_file import EXAMPLES, read_plan

_NOVEMBER = datetime(2026, 11, 1, tzinfo=UTC)
_DAY = timedelta(days=1)
_MODEL = "sim-large"

_CREDIT = """\

## Credit

Grants of 10 each pay a charge of 12 for tokens of `sim-large` on 3 November. They are alike but for
the terms that are named; the one that is drawn on first would be so in whichever order they were
given. Grants have terms of their own (`steelyard credit grant --help`), plans have none of them.

| Point | One grant | The other | One pays | The other pays | Left to bill |
|---|---|---|---:|---:|---:|
"""
_RECURRING = """\

A recurring grant (`--monthly`) begins anew with each billing period. What a period uses beyond it
is billed, and not taken from the next one; what is left lapses.

| Month | Granted | Used | Paid by credit | Billed | Lapses |
|---|---:|---:|---:|---:|---:|
"""
_HOLDS = """\

## Holds

What a request to `sim-large` sets aside of the credit of a tenant on `examples/prepaid.yaml`
(`payment: prepaid`, `hold: worst_case`), until it is known what it came to: the highest price of
each class, no included usage. A byte of the prompt may be a token; its template takes 256.

| Request | Tokens at most | Sets aside |
|---|---:|---:|
"""


def section() -> str:
    """The part of the page."""
    rows = (_CREDIT, *_orders(), _RECURRING, *_months(), _HOLDS, *_holds())
    return "".join(rows)


def _orders() -> Iterator[str]:
    ends = {"expires_at": _NOVEMBER + 14 * _DAY}
    paid: dict[str, Any] = {
        "kind": GrantKind.PAID,
        "taxed_at": TaxedAt.PURCHASE,
        "paid_from": AccountCode.BANK,
        "cost_basis": Decimal(10),
    }
    small = {"scope": CreditScope(models=frozenset({"sim-small"})), "priority": 10}
    yield _order("priority", "priority 10", {"priority": 10}, "priority 100, ends first", ends)
    yield _order("end", "ends on 15 November", ends, "does not end", {})
    yield _order("kind", "promotional", {}, "paid", paid)
    older = {"starts_at": _NOVEMBER - 31 * _DAY}
    yield _order("age", "from 1 October on", older, "from 1 November on", {})
    yield _order("scope", "for any usage", {}, "for `sim-small` only, priority 10", small)


def _order(
    point: str, one: str, terms: Mapping[str, Any], other: str, others: Mapping[str, Any]
) -> str:
    first, second = _lot(1, terms), _lot(2, others)
    drawn = draw([second, first], [_charge(_NOVEMBER + 2 * _DAY, Decimal(12))])
    paid = [_paid(drawn, lot) for lot in (first, second)]
    left = _sum(amount for _, amount in drawn.uncovered)
    figures = " | ".join(plain(amount) for amount in (*paid, left))
    return f"| {point} | {one} | {other} | {figures} |\n"


def _months() -> Iterator[str]:
    spans: list[CreditSpan] = []
    for number, (begins, ends, used) in enumerate(((9, 10, 14), (10, 11, 6), (11, 12, 10))):
        during = Period(
            start=datetime(2026, begins, 1, tzinfo=UTC), end=datetime(2026, ends, 1, tzinfo=UTC)
        )
        terms = {"starts_at": during.start, "expires_at": during.end}
        charge = _charge(during.start + 2 * _DAY, Decimal(used))
        spans.append(CreditSpan(during=during, lots=(_lot(number, terms),), charges=(charge,)))
    for span, drawn in zip(spans, draw_in_turn(spans, overage=Overage.DROPPED), strict=True):
        (lot,), (charge,) = span.lots, span.charges
        paid = _paid(drawn, lot)
        billed = _sum(amount for _, amount in drawn.uncovered)
        figures = (lot.grant.amount, charge.amount, paid, billed, lot.grant.amount - paid)
        yield f"| {span.during.start:%B} | {' | '.join(map(plain, figures))} |\n"


def _holds() -> Iterator[str]:
    plan = read_plan(EXAMPLES.joinpath("prepaid.yaml").read_bytes())
    rates = proxy_rates(rates_of([plan], _MODEL))
    model = ServedModel(
        id=1,
        name=_MODEL,
        backends=(Backend(name="example", base_url="http://127.0.0.1:1"),),
        classes=frozenset({TokenClass.INPUT, TokenClass.CACHED_INPUT, TokenClass.OUTPUT}),
    )
    asked = "prompt of 4,000 bytes"
    yield _hold(f"{asked}, `max_tokens: 500`", rates, model, max_tokens=500)
    yield _hold(f"{asked}, `max_tokens: 500`, `n: 3`", rates, model, max_tokens=500, choices=3)
    yield _hold(f"{asked}, no `max_tokens`; the model makes 4,096 at most", rates, model)
    yield _hold(f"{asked}, embedded", rates, model, generates=False)


def _hold(asked: str, rates: Rates, model: ServedModel, **size: Any) -> str:
    bound = bound_of(rates, model, RequestSize(prompt_bytes=4000, **size))
    money = plain(EXACT.divide(Decimal(bound.money), Decimal(PICO)))
    return f"| {asked} | {bound.tokens:,} | {money} USD |\n"


def _lot(number: int, terms: Mapping[str, Any]) -> CreditLot:
    said: dict[str, Any] = {
        "kind": GrantKind.PROMOTIONAL,
        "taxed_at": None,
        "paid_from": None,
        "cost_basis": Decimal(0),
        "priority": 100,
        "starts_at": _NOVEMBER,
        "expires_at": None,
    }
    grant = CreditGrant(
        **{**said, **terms},
        id=UUID(int=number),
        tenant_id=1,
        legal_entity_id=1,
        currency="USD",
        amount=Decimal(10),
        counts_toward_commitment=False,
        source="example",
        idempotency_key=f"example-{number}",
    )
    return CreditLot(grant=grant, remaining=grant.amount)


def _charge(at: datetime, amount: Decimal) -> DayCharge:
    return DayCharge(
        contract_id=1,
        period_start=at.replace(day=1),
        line_key="output",
        day=at.date(),
        during=Period(start=at, end=at + _DAY),
        plan="example",
        meter=TokenClass.OUTPUT.meter,
        models=frozenset({_MODEL}),
        amount=amount,
    )


def _paid(drawn: Drawn, lot: CreditLot) -> Decimal:
    return _sum(each.amount for each in drawn.applications if each.grant.id == lot.grant.id)


def _sum(amounts: Iterator[Decimal]) -> Decimal:
    return sum(amounts, Decimal(0))
