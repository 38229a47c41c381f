"""Golden cases of credit: what grants pay, in which order, and what is left."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import pytest

from billing.ledger.breakage import lapse
from billing.ledger.credit_grant import (
    ANYTHING,
    CreditGrant,
    CreditLot,
    CreditScope,
    DayCharge,
    GrantKind,
)
from billing.ledger.credit_order import Drawn, draw
from billing.ledger.credit_recurrence import CreditSpan, Overage, draw_in_turn
from billing.period import Period
from tests.rating.golden.cases import (
    ZERO,
    cases_of,
    charge_of,
    exact_of,
    name_of,
    plan_of,
    rated,
    used,
)

AMOUNTS = ("grant_burndown", "credit_collection", "credit_breakage", "credit_then_invoice")
OTHERS = ("prepaid_credits", "prepaid_credits_targeted", "grant_recurrence", "credit_purchase")
CATEGORIES = (*AMOUNTS, *OTHERS)
START = datetime(2024, 1, 1, tzinfo=UTC)
DAY = Period(start=START, end=START + timedelta(days=1))


def lot(
    amount: str,
    *,
    number: int = 0,
    priority: int = 1,
    expires: datetime | None = None,
    scope: CreditScope = ANYTHING,
) -> CreditLot:
    """A promotional grant of which nothing is used; `number` is its place in time."""
    grant = CreditGrant(
        id=UUID(int=number),
        tenant_id=1,
        legal_entity_id=1,
        currency="USD",
        amount=Decimal(amount),
        kind=GrantKind.PROMOTIONAL,
        taxed_at=None,
        paid_from=None,
        cost_basis=ZERO,
        counts_toward_commitment=False,
        priority=priority,
        starts_at=START - timedelta(hours=1) + timedelta(seconds=number),
        expires_at=expires,
        scope=scope,
        source="golden",
        idempotency_key=str(number),
    )
    return CreditLot(grant=grant, remaining=grant.amount)


def charge(amount: str | Decimal, *, meter: str | None = "requests", during: Period = DAY):
    return DayCharge(
        contract_id=1,
        period_start=START,
        line_key=meter or "fee",
        day=date(during.start.year, during.start.month, during.start.day),
        during=during,
        plan="golden",
        meter=meter,
        models=None,
        amount=Decimal(amount),
    )


def remaining(drawn: Drawn, lots: list[CreditLot]) -> list[Decimal]:
    left = {each.grant.id: each.remaining for each in lots}
    left.update({each.grant.id: each.remaining for each in drawn.applications})
    return [left[each.grant.id] for each in lots]


def taken(drawn: Drawn, lots: list[CreditLot]) -> list[Decimal]:
    left = remaining(drawn, lots)
    return [each.remaining - rest for each, rest in zip(lots, left, strict=True)]


def uncovered(drawn: Drawn) -> Decimal:
    return sum((left for _, left in drawn.uncovered), ZERO)


def lots_of(case) -> list[CreditLot]:
    price, given = case["price"], case["input"]
    if "credits" in given:
        sources = [{"amount": amount} for amount in given["credits"]]
    else:
        sources = price.get("wallets") or price.get("grants") or price.get("sources")
    return [
        lot(
            each.get("balance") or each["amount"],
            number=number,
            priority=each.get("priority", 1),
            expires=_expiry(each),
        )
        for number, each in enumerate(sources)
    ]


def _expiry(source) -> datetime | None:
    if "expires_in_h" in source:
        return START + timedelta(hours=source["expires_in_h"])
    if "expires" in source:
        return datetime.fromisoformat(source["expires"]).replace(tzinfo=UTC)
    return None


def due_of(case) -> Decimal:
    given = case["input"]
    if "quantity" in given:
        return exact_of(rated(plan_of(case, charge_of(case)), used(given["quantity"])))
    return Decimal(next(given[name] for name in ("amount", "usage", "collect") if name in given))


@pytest.mark.parametrize("case", cases_of(["prepaid_credits"]), ids=name_of)
def test_golden_prepaid_credit(case):
    lots = lots_of(case)
    drawn = draw(lots, [charge(due_of(case))])

    assert uncovered(drawn) == Decimal(case["expected"]["due"])
    if "consumed" in case["expected"]:
        assert taken(drawn, lots) == [Decimal(text) for text in case["expected"]["consumed"]]


@pytest.mark.parametrize("case", cases_of(["grant_burndown"]), ids=name_of)
def test_C1_golden_balances(case):
    lots = lots_of(case)
    drawn = draw(lots, [charge(due_of(case))])

    assert remaining(drawn, lots) == [Decimal(text) for text in case["expected"]["balances"]]
    assert uncovered(drawn) == Decimal(case["expected"]["overage"])


@pytest.mark.parametrize("case", cases_of(["credit_collection", "credit_breakage"]), ids=name_of)
def test_golden_order_of_collection(case):
    lots = lots_of(case)
    drawn = draw(lots, [charge(due_of(case))])

    names = [source["id"] for source in case["price"]["sources"]]
    for name, amount in zip(names, taken(drawn, lots), strict=True):
        assert amount == Decimal(case["expected"][name])
    if "planned_breakage_left" in case["expected"]:
        broken = [
            lapse(CreditLot(grant=each.grant, remaining=rest)).broken
            for each, rest in zip(lots, remaining(drawn, lots), strict=True)
        ]
        assert sum(broken) == Decimal(case["expected"]["planned_breakage_left"])


@pytest.mark.parametrize("case", cases_of(["credit_then_invoice"]), ids=name_of)
def test_golden_invoice_of_the_rest(case):
    lots = [lot(case["input"]["credit_balance"])]
    drawn = draw(lots, [charge(case["input"]["charge"])])

    assert taken(drawn, lots) == [Decimal(case["expected"]["credits"])]
    assert uncovered(drawn) == Decimal(case["expected"]["invoice"])


@pytest.mark.parametrize("case", cases_of(["prepaid_credits_targeted"]), ids=name_of)
def test_golden_credit_for_some_charges(case):
    """Five wallets pay for anything, one for usage alone; the total is what is stated."""
    (wallet,) = case["price"]["wallets"]
    fees = case["input"]["fees"]
    usage_only = CreditScope(meters=frozenset({"requests"}))
    lots = [
        lot(
            wallet["balance"],
            number=number,
            priority=0 if number == 0 else 1,
            scope=usage_only if number == 0 else ANYTHING,
        )
        for number in range(wallet["count"])
    ]

    drawn = draw(lots, [charge(fees["charge"]), charge(fees["subscription"], meter=None)])

    assert sum(taken(drawn, lots)) == Decimal(case["expected"]["total"])
    assert all(
        each.charge.meter == "requests"
        for each in drawn.applications
        if each.grant.scope is usage_only
    )


@pytest.mark.parametrize(
    ("overage", "carried"), [(Overage.CARRIED, True), (Overage.DROPPED, False)]
)
@pytest.mark.parametrize("case", cases_of(["grant_recurrence"]), ids=name_of)
def test_golden_recurring_credit(case, overage, carried):
    """The default drops what exceeds a grant; the case carries it into the next."""
    days = [
        Period(start=DAY.start + timedelta(days=n), end=DAY.end + timedelta(days=n))
        for n in range(2)
    ]
    amount = case["price"]["grant"]["amount"]
    lots = [lot(amount, number=number, expires=day.end) for number, day in enumerate(days)]
    spent = charge(case["input"]["usage_first_hour"])
    assert case["policy"]["overage_carries_into_recurrence"]

    *_, today = draw_in_turn(
        [
            CreditSpan(during=days[0], lots=(lots[0],), charges=(spent,)),
            CreditSpan(during=days[1], lots=(lots[1],), charges=()),
        ],
        overage=overage,
    )

    (balance,) = remaining(today, [lots[1]])
    assert (balance == Decimal(case["expected"]["balance"])) is carried
    assert carried or balance == Decimal(amount)


@pytest.mark.parametrize("case", cases_of(["credit_purchase"]), ids=name_of)
def test_golden_price_of_credits(case):
    bought = charge_of({**case, "price": {"unit": case["price"]["cost_basis_per_credit"]}})

    rating = rated(plan_of(case, bought), used(case["input"]["credits"]))

    assert exact_of(rating) == Decimal(case["expected"]["invoice"])
