"""Verify balances of tenants: credit against its events, what they owe against their invoices.

Four figures of each tenant are kept for reading, and follow from rows elsewhere: what is left of a
grant (C1), what paid credit is still owed, what is open on a document, and the receivable. Each
finding names the place and both figures.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from decimal import Decimal

import sqlalchemy as sa

from billing.ledger.account import AccountCode
from billing.ledger.credit_grant import owed_of
from billing.money import EXACT, plain
from billing.operations.seal.verify import Finding
from billing.store import balance_tie_outs as store
from billing.store.balance_tie_outs import AccountOf, FigureDifference
from billing.store.tenancy import legal_entities, tenants

_NOTHING = Decimal(0)


def verify_balances(connection: sa.Connection) -> list[Finding]:
    """Every balance of credit or of receivables that is not what it comes from."""
    return [
        *_figures("credit", store.grant_differences(connection), "by its events"),
        *(
            Finding(
                kind="credit", subject=each, problem="its balance or events are another tenant's"
            )
            for each in store.grants_of_others(connection)
        ),
        *_figures("receivable", store.document_differences(connection), "by what was posted"),
        *_accounts(connection),
    ]


def _figures(kind: str, differences: list[FigureDifference], where: str) -> list[Finding]:
    return [
        Finding(
            kind=kind,
            subject=each.subject,
            problem=f"{each.figure}: {each.kept} is kept, and {where} it is {each.told}",
        )
        for each in differences
    ]


def _accounts(connection: sa.Connection) -> list[Finding]:
    """The books against what stands beside them: grants, and invoices less what was paid."""
    entities = {each.id: each.slug for each in legal_entities(connection)}
    slugs = {each.id: each.slug for each in tenants(connection)}
    told = {
        AccountCode.CONTRACT_LIABILITY: (_owed(connection), "by grants"),
        AccountCode.RECEIVABLE: (store.open_amounts(connection), "by invoices and payments"),
    }
    found: list[Finding] = []
    for code, (amounts, where) in told.items():
        for place, kept, follows in _unequal(store.balances_of(connection, code), amounts):
            entity, tenant, currency = place
            found.append(
                Finding(
                    kind="account",
                    subject=f"{code.value} of {slugs.get(tenant, tenant)} "
                    f"at {entities.get(entity, entity)} in {currency}",
                    problem=f"{plain(kept)} is its balance, and {where} it is {plain(follows)}",
                )
            )
    return found


def _owed(connection: sa.Connection) -> dict[AccountOf, Decimal]:
    """What is owed for credit that remains: a liability, so below zero."""
    owed: defaultdict[AccountOf, Decimal] = defaultdict(Decimal)
    for each in store.owed_credits(connection):
        place = (each.legal_entity_id, each.tenant_id, each.currency)
        part = owed_of(cost_basis=each.cost_basis, amount=each.amount, remaining=each.remaining)
        owed[place] = EXACT.subtract(owed[place], part)
    return owed


def _unequal(
    kept: Mapping[AccountOf, Decimal], told: Mapping[AccountOf, Decimal]
) -> list[tuple[AccountOf, Decimal, Decimal]]:
    places = [
        (place, kept.get(place, _NOTHING), told.get(place, _NOTHING)) for place in {**kept, **told}
    ]
    return sorted(each for each in places if each[1] != each[2])
