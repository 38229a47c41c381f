"""What the contracts of a tenant say about its requests, as admission needs it.

Decides: which facts of a contract the request path can see. Does not decide how they are read from
plans: the control side of the proxy does, and hands over the frozen result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from billing.admission.amounts import PICO, Rates
from billing.admission.limit import Limit
from billing.metering.token_class import TokenClass
from billing.metering.unit_meter import UnitMeter


class Payment(StrEnum):
    """Whether a tenant pays before it uses or after."""

    POSTPAID = "postpaid"
    PREPAID = "prepaid"


class HoldSize(StrEnum):
    """How much a request sets aside: all that it can cost, or what it is likely to."""

    LIKELY = "likely"
    WORST_CASE = "worst_case"


class OnLoss(StrEnum):
    """What becomes of requests while limits cannot be asked for."""

    OPEN = "open"
    CLOSED = "closed"


class OnClientLeft(StrEnum):
    """Whether the engine is stopped when the client leaves, or read to its end."""

    CLOSE = "close"
    DRAIN = "drain"


class Unpriced(StrEnum):
    """What becomes of a request that has no price."""

    REFUSE = "refuse"
    FREE = "free"


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionPolicy:
    """How the requests of a tenant are admitted.

    Attributes:
        payment: prepaid requests draw on the tenant's credit.
        hold_size: what a request sets aside of its limits.
        on_database_loss: what happens when the leases are spent and no new ones can be had.
        max_exposure: what all processes together admit while open, in 10⁻¹² of the major unit.
        shadow: limits count and tell, but refuse nothing.
        drain_ms: longest time that an engine is read on after its client left.
    """

    payment: Payment = Payment.POSTPAID
    hold_size: HoldSize = HoldSize.WORST_CASE
    on_database_loss: OnLoss = OnLoss.OPEN
    max_exposure: int = 100 * PICO
    shadow: bool = False
    on_client_left: OnClientLeft = OnClientLeft.CLOSE
    drain_ms: int = 30_000
    unpriced: Unpriced = Unpriced.REFUSE


def _no_classes() -> Mapping[str, frozenset[TokenClass]]:
    return MappingProxyType({})


def _no_units() -> Mapping[str, frozenset[UnitMeter]]:
    return MappingProxyType({})


def _no_rates() -> Mapping[str, Rates]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantTerms:
    """What the contracts of a tenant that are in force now price, and how they admit.

    Attributes:
        price_version_id: recorded on every event that is admitted under these terms.
        priced: model name → token classes with a price.
        priced_units: model name → meters beside tokens with a price.
        policy: the strictest of the contracts.
        rates: model name → the highest prices that can apply.
        currency: code of the contracts' currency.
        limits: those in force, in order of id; the credit is not among them.
        prepaid: id of the credit that prepaid requests draw on; None for postpaid tenants.
    """

    tenant_id: int
    price_version_id: int
    priced: Mapping[str, frozenset[TokenClass]] = field(default_factory=_no_classes)
    priced_units: Mapping[str, frozenset[UnitMeter]] = field(default_factory=_no_units)
    policy: AdmissionPolicy = AdmissionPolicy()
    rates: Mapping[str, Rates] = field(default_factory=_no_rates)
    currency: str = ""
    limits: tuple[Limit, ...] = ()
    prepaid: int | None = None
