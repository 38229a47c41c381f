"""The chart of accounts.

An account is (legal entity, code, tenant or none, currency). Codes say what the money is; tenants
have sub-accounts of the codes marked `per tenant`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class AccountCode(StrEnum):
    """What an account holds. Debits are positive, credits negative, everywhere."""

    UNBILLED = "unbilled_receivable"
    """Asset, per tenant: earned and not yet invoiced; what stays after an invoice is residual."""
    RECEIVABLE = "accounts_receivable"
    """Asset, per tenant: invoiced and not yet paid, whole minor units."""
    STRIPE_CLEARING = "stripe_clearing"
    """Asset, operator: captured by Stripe and not yet paid out."""
    BANK = "bank"
    """Asset, operator: money received outside Stripe."""
    TAX_PAYABLE = "tax_payable"
    """Liability, operator: tax invoiced and owed to the authority."""
    REVENUE = "revenue"
    """Income, per tenant: usage, fees and outcomes earned, exact to 12 decimals."""
    ROUNDING = "rounding"
    """Expense, per tenant: what remains at the end of an account, at most half a minor unit."""

    @property
    def per_tenant(self) -> bool:
        """True if every tenant has its own account of this code."""
        return self in {
            AccountCode.UNBILLED,
            AccountCode.RECEIVABLE,
            AccountCode.REVENUE,
            AccountCode.ROUNDING,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One account's identity.

    Attributes:
        tenant_id: the tenant whose account it is; None for the operator's own.
    """

    legal_entity_id: int
    code: AccountCode
    tenant_id: int | None
    currency: str

    def __post_init__(self) -> None:
        # A tenant's balance without a tenant could be shown to anybody, or to nobody.
        assert self.code.per_tenant == (self.tenant_id is not None), self.code
