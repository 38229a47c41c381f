"""How a plan wants the requests of its tenants admitted.

Decides: what a plan may say about it, what follows where it says nothing, and which of several
contracts counts. Does not decide about any request: admission does, from the frozen form.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import TypeVar

from billing.admission import terms
from billing.admission.amounts import PICO
from billing.admission.terms import HoldSize, OnClientLeft, OnLoss, Payment, Unpriced
from billing.errors import InvalidPlan
from billing.money import EXACT, LEDGER_DECIMALS, decimals_of

MAX_EXPOSURE_LIMIT = Decimal(10) ** 12
DRAIN_MS_LIMIT = 3_600_000


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionPolicy:
    """One plan's choices.

    Attributes:
        payment: prepaid requests draw on the tenant's credit.
        hold: what a request sets aside of its limits.
        on_database_loss: what happens when no leases can be had; None: closed if prepaid.
        max_exposure: what is admitted while open, in major units of the plan's currency.
        on_client_left: whether the engine is read to its end.
        drain_ms: for how long at most.
        unpriced: what becomes of requests that the plan has no price for.
        shadow: limits count and tell, but refuse nothing.

    Raises:
        InvalidPlan: an amount or a time out of range.
    """

    payment: Payment = Payment.POSTPAID
    hold: HoldSize = HoldSize.WORST_CASE
    on_database_loss: OnLoss | None = None
    max_exposure: Decimal = Decimal(100)
    on_client_left: OnClientLeft = OnClientLeft.CLOSE
    drain_ms: int = 30_000
    unpriced: Unpriced = Unpriced.REFUSE
    shadow: bool = False

    def __post_init__(self) -> None:
        exposure = self.max_exposure
        if not exposure.is_finite() or not 0 <= exposure <= MAX_EXPOSURE_LIMIT:
            raise InvalidPlan(
                "amount out of range",
                field="max_exposure",
                remedy=f"use zero to {MAX_EXPOSURE_LIMIT:f}",
            )
        if decimals_of(exposure) > LEDGER_DECIMALS:
            raise InvalidPlan(
                f"more than {LEDGER_DECIMALS} decimals", field="max_exposure", remedy="shorten it"
            )
        if not 0 <= self.drain_ms <= DRAIN_MS_LIMIT:
            raise InvalidPlan(
                "time out of range",
                field="drain_ms",
                remedy=f"use 0 to {DRAIN_MS_LIMIT} milliseconds",
            )

    @property
    def loss(self) -> OnLoss:
        """What happens when no leases can be had, said or not."""
        if self.on_database_loss is not None:
            return self.on_database_loss
        return OnLoss.CLOSED if self.payment is Payment.PREPAID else OnLoss.OPEN


def strictest(policies: Iterable[AdmissionPolicy]) -> terms.AdmissionPolicy:
    """What several contracts of one tenant admit together: in each point the strictest of them.

    A tenant that one contract lets use first and pay later could otherwise use up what another
    wants paid before.

    Raises:
        ValueError: no policies.
    """
    several = tuple(policies)
    if not several:
        raise ValueError("no policies")  # a tenant without contracts has no terms at all
    exposure = min(policy.max_exposure for policy in several)
    return terms.AdmissionPolicy(
        payment=_either(Payment.PREPAID, Payment.POSTPAID, {each.payment for each in several}),
        hold_size=_either(HoldSize.WORST_CASE, HoldSize.LIKELY, {each.hold for each in several}),
        on_database_loss=_either(OnLoss.CLOSED, OnLoss.OPEN, {each.loss for each in several}),
        max_exposure=int(EXACT.multiply(exposure, Decimal(PICO))),
        shadow=all(policy.shadow for policy in several),
        on_client_left=_either(
            OnClientLeft.CLOSE, OnClientLeft.DRAIN, {each.on_client_left for each in several}
        ),
        drain_ms=min(policy.drain_ms for policy in several),
        unpriced=_either(Unpriced.REFUSE, Unpriced.FREE, {each.unpriced for each in several}),
    )


_Choice = TypeVar("_Choice")


def _either(strict: _Choice, lenient: _Choice, chosen: set[_Choice]) -> _Choice:
    return strict if strict in chosen else lenient
