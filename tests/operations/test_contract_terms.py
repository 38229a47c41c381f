"""Terms of a contract on real invoices, for its tenant alone, refused where they do not fit."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from billing.catalog.contract_terms import ContractTerms
from billing.errors import InvalidInput, InvalidPlan
from billing.operations.catalog.contracts import bind_contract, bound_plans
from billing.operations.invoicing.issue_invoice import issue_invoice
from billing.operations.invoicing.read_invoices import InvoiceView, require_invoice
from billing.planfiles.contract_file import dump_terms, read_terms, terms_digest
from billing.store.database import Database, Role
from billing.tenancy.tenant import Tenant
from tests.world import MONTH_END, MONTH_START, make_world

JANUARY = datetime(2027, 1, 1, tzinfo=UTC)
TERMS = """
overrides:
  - {charge: input, price: "0.10"}
  - {charge: platform, price: 15}
phases:
  - from: "2026-12-01"
    overrides: [{charge: platform, price: 18}]
"""


def _issue(database: Database, tenant: Tenant, end: datetime) -> InvoiceView:
    period = tenant.billing_period(end - timedelta(days=1))
    with database.transaction(Role.OPERATOR) as connection:
        issued = issue_invoice(connection, tenant=tenant, period=period, now=end)
        return require_invoice(connection, str(issued.id), tenant_id=None)


def test_each_period_is_invoiced_under_its_own_terms(database: Database, now: datetime) -> None:
    world = make_world(database, now)
    terms = read_terms(TERMS)
    acme, birch = world.tenant(terms=terms), world.tenant("birch")
    for tenant in (acme, birch):
        world.use(tenant, {"tokens.input": 10_000_000})
    november = _issue(database, acme, MONTH_END)
    make_world(database, JANUARY).use(acme, {"tokens.input": 10_000_000}, occurred_at=MONTH_END)
    december = _issue(database, acme, JANUARY)
    assert {line.key.partition("/")[2]: line.amount_minor for line in november.lines} == {
        "platform": 1500,
        "input": 100,
    }
    assert [line.amount_minor for line in december.lines] == [1800, 100]
    assert [line.amount_minor for line in _issue(database, birch, MONTH_END).lines] == [2000, 200]
    [named] = november.invoice.inputs["contracts"]
    assert named["terms"] == terms_digest(terms)


def test_a_tenant_sees_its_own_terms_only(database: Database, now: datetime) -> None:
    world = make_world(database, now)
    terms = read_terms(TERMS)
    acme, birch = world.tenant(terms=terms), world.tenant("birch")
    for tenant, seen in ((acme, [terms]), (birch, [ContractTerms()])):
        with database.transaction(Role.TENANT, tenant_id=tenant.id) as connection:
            assert [entry.terms for entry in bound_plans(connection)] == seen


@pytest.mark.parametrize(
    ("text", "error", "field"),
    [
        ("overrides: [{charge: nothing, price: 1}]", InvalidPlan, "overrides[0].charge"),
        ('phases: [{from: "2026-12-02"}]', InvalidInput, "phases[0].from"),
    ],
)
def test_terms_that_do_not_fit_bind_nothing(
    database: Database, now: datetime, text: str, error: type[InvalidInput], field: str
) -> None:
    world = make_world(database, now)
    world.tenant(plan=None)
    with (
        pytest.raises(error) as refused,
        database.transaction(Role.OPERATOR) as connection,
    ):
        bind_contract(
            connection,
            tenant="acme",
            plan="standard",
            valid_from=MONTH_START,
            terms=read_terms(text),
            now=now,
        )
    assert refused.value.field == field
    with database.transaction(Role.OPERATOR) as connection:
        assert bound_plans(connection) == []


def test_prices_asked_for_at_an_instant_are_those_of_its_period(
    database: Database, now: datetime
) -> None:
    world = make_world(database, now)
    world.tenant(terms=read_terms(TERMS))
    with database.transaction(Role.OPERATOR) as connection:
        fees = [
            next(charge for charge in entry.plan.charges if charge.key == "platform").price
            for at in (MONTH_END - timedelta(minutes=15), MONTH_END)
            for entry in bound_plans(connection, at=at)
        ]
        [plain] = bound_plans(connection)
    assert [getattr(fee, "amount", None) for fee in fees] == [Decimal(15), Decimal(18)]
    assert dump_terms(plain.terms)["phases"] == [
        {"from": "2026-12-01", "overrides": [{"charge": "platform", "price": "18"}]}
    ]
