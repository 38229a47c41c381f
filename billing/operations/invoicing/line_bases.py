"""What an invoice rests on: the period's rated lines, and corrections of earlier periods.

Credit that was applied to a contract's period is a line per grant, below zero, and settled like any
other: what is applied later is on the next invoice.

Usage that arrives after its period was invoiced is rated in that period, under the prices of
that time. The next invoice bills the difference to what was settled, as a correction line that
names the period; what did not change yields no line (R4).

A fee that is billed in advance is settled on its own period's key, as billed and as accrued: that
period's invoice finds it paid. The ledger accrues it when its period does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import assert_never

import sqlalchemy as sa

from billing.catalog.price_plan import LINE_SUFFIXES, CorrectionBy, PricePlan
from billing.invoicing.document_kind import LineGroup
from billing.invoicing.invoice import InvoiceDraft, LineBasis, LineKind, due_on_line
from billing.money import EXACT
from billing.operations.rating.rate_period import RatedContract, RatedPeriod, rate_period
from billing.rating.line import RatedLine
from billing.store import credit_lines as credit_store
from billing.store import invoices as store
from billing.store.changed_periods import changed_periods
from billing.store.credit_lines import UsedRow
from billing.store.invoices import SettlementRow

_ZERO = Decimal(0)


class Origin(StrEnum):
    """Why the lines of a period are on a document."""

    OWN = "own"
    """It is the document's period."""
    CORRECTED = "corrected"
    """It was invoiced before, and changed."""
    AHEAD = "ahead"
    """Its fees are billed in advance."""
    UNEARNED = "unearned"
    """Its fees were billed in advance, for a contract that ended before."""

    @property
    def is_correction(self) -> bool:
        """Whether the period was billed before."""
        return self in {Origin.CORRECTED, Origin.UNEARNED}

    @property
    def rates_usage(self) -> bool:
        """Whether all of the period is rated, and not its fees alone."""
        return self in {Origin.OWN, Origin.CORRECTED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The rated periods that documents are made of, by why they are.

    Attributes:
        own: the period that is invoiced; None for corrections, or fees in advance, alone.
    """

    own: RatedPeriod | None = None
    corrected: tuple[RatedPeriod, ...] = ()
    ahead: tuple[RatedPeriod, ...] = ()
    unearned: tuple[RatedPeriod, ...] = ()

    def by_origin(self) -> Iterator[tuple[Origin, RatedPeriod]]:
        """All of them, in the order of their lines."""
        if self.own is not None:
            yield Origin.OWN, self.own
        for origin, parts in (
            (Origin.CORRECTED, self.corrected),
            (Origin.UNEARNED, self.unearned),
            (Origin.AHEAD, self.ahead),
        ):
            for rated in parts:
                yield origin, rated

    def with_usage(self) -> tuple[RatedPeriod, ...]:
        """Those that are rated whole: what they earned is posted before they are billed."""
        return tuple(rated for origin, rated in self.by_origin() if origin.rates_usage)


@dataclass(frozen=True, slots=True, kw_only=True)
class Basis:
    """One line key of an invoice with where it comes from.

    Attributes:
        line: as rated now; None for credit, and for a key that was settled and is rated no more.
    """

    basis: LineBasis
    rated: RatedPeriod
    contract: RatedContract
    line_key: str
    line: RatedLine | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ContractLines:
    """The lines of one contract in one billing period.

    Attributes:
        origin: why they are on a document.
    """

    rated: RatedPeriod
    contract: RatedContract
    origin: Origin
    bases: tuple[Basis, ...]

    @property
    def group(self) -> LineGroup:
        """What decides on which document they go."""
        policies = self.contract.bound.plan.policies
        return LineGroup(
            bases=tuple(entry.basis for entry in self.bases),
            is_correction=self.origin.is_correction,
            by_credit_note=policies.correction is CorrectionBy.CREDIT_NOTE,
        )


def rated_again(connection: sa.Connection, rated: RatedPeriod) -> list[RatedPeriod]:
    """Earlier periods that were invoiced and got usage or contracts since then, rated again.

    Periods in another currency are left for an invoice in theirs: to put one among the scopes of
    this invoice would settle its usage without billing it.
    """
    changed = changed_periods(connection, tenant_id=rated.tenant.id, before=rated.period.start)
    again = [rate_period(connection, tenant=rated.tenant, period=period) for period in changed]
    return [part for part in again if currencies(part) <= currencies(rated)]


def groups_of(connection: sa.Connection, parts: Parts) -> list[ContractLines]:
    """The period's own lines by contract, then all others, in a stable order."""
    return [
        ContractLines(
            rated=rated,
            contract=contract,
            origin=origin,
            bases=tuple(_of_contract(connection, rated, contract, origin)),
        )
        for origin, rated in parts.by_origin()
        for contract in rated.contracts
    ]


def currencies(rated: RatedPeriod) -> set[str]:
    """Codes of the currencies that a period's contracts are in; more than one cannot be billed."""
    return {contract.bound.contract.currency.code for contract in rated.contracts}


def settlements(draft: InvoiceDraft, bases: Sequence[Basis]) -> tuple[SettlementRow, ...]:
    """What a draft settles on each line of each period, zeros left out.

    Credit that was cut to the invoice's charges is settled whole: the residual carries what was
    cut, so the key must not bill it once more.
    """
    accrued = {accrual.key: accrual.amount for accrual in draft.accruals}
    billed = {
        entry.basis.key: due_on_line(entry.basis.exact, entry.basis.invoiced_minor, draft.currency)
        for entry in bases
    }
    return tuple(
        SettlementRow(
            contract_id=entry.contract.bound.contract.id,
            period_start=entry.rated.period.start,
            line_key=entry.line_key,
            accrued=accrued.get(entry.basis.key, _ZERO),
            amount_minor=billed[entry.basis.key],
        )
        for entry in bases
        if entry.basis.key in accrued or billed[entry.basis.key]
    )


def _of_contract(
    connection: sa.Connection, rated: RatedPeriod, contract: RatedContract, origin: Origin
) -> list[Basis]:
    contract_id = contract.bound.contract.id
    start = rated.period.start
    settled = store.settled(connection, contract_id=contract_id, period_start=start)
    lines = {line.key: line for line in contract.rating.lines}
    paid: dict[str, UsedRow] = {}
    dropped: list[str] = []
    # What else was billed in a period whose fees are billed in advance is not looked at here.
    if origin is not Origin.AHEAD:
        used_rows = credit_store.used_by_grant(
            connection, contract_id=contract_id, period_start=start
        )
        paid = {used.line_key: used for used in used_rows}
        dropped = [key for key in settled if key not in lines and key not in paid]
    bases: list[Basis] = []
    for key in [*lines, *dropped, *paid]:
        line, used = lines.get(key), paid.get(key)
        accrued, billed_minor = settled.get(key, (_ZERO, 0))
        name = line.description if line else f"Credit: {used.source}" if used else key
        exact = line.exact if line else EXACT.minus(used.amount) if used else _ZERO
        bases.append(
            Basis(
                basis=LineBasis(
                    key=f"contract-{contract_id}/{key}"
                    + ("" if origin is Origin.OWN else f"@{start:%Y-%m-%d}"),
                    description=_described(name, origin, start),
                    quantity=line.quantity if line else None,
                    exact=exact,
                    invoiced_minor=billed_minor,
                    accrued_before=accrued,
                    kind=_kind(contract.bound.plan, key, line, used),
                ),
                rated=rated,
                contract=contract,
                line_key=key,
                line=line,
            )
        )
    return bases


def _described(name: str, origin: Origin, start: datetime) -> str:
    match origin:
        case Origin.OWN:
            return name
        case Origin.CORRECTED | Origin.UNEARNED:
            return f"Correction of the period from {start:%Y-%m-%d}: {name}"
        case Origin.AHEAD:
            return f"In advance for the period from {start:%Y-%m-%d}: {name}"
        case _:
            assert_never(origin)


def _kind(plan: PricePlan, key: str, line: RatedLine | None, used: UsedRow | None) -> LineKind:
    if used is not None:
        return LineKind.CREDIT
    if line is not None:
        return LineKind(line.kind.value)
    # Of a line that is rated no more, nothing but the key tells what it was.
    if key in {coupon.key for coupon in plan.coupons}:
        return LineKind.COUPON
    if key in {commitment.key for commitment in plan.commitments}:
        return LineKind.TRUE_UP
    _, colon, suffix = key.rpartition(":")
    return LineKind(suffix) if colon and suffix in LINE_SUFFIXES else LineKind.CHARGE
