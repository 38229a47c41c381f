"""The chart of accounts.

An account is (legal entity, code, tenant or none, currency). Codes say what the money is; tenants
have sub-accounts of the codes marked `per tenant`. Decides no posting: templates do.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class AccountKind(StrEnum):
    """Where an account stands in a balance sheet or an income statement."""

    ASSET = "asset"
    LIABILITY = "liability"
    EQUITY = "equity"
    INCOME = "income"
    EXPENSE = "expense"


class Side(StrEnum):
    """On which side an account's balance normally stands."""

    DEBIT = "debit"
    CREDIT = "credit"


class AccountCode(StrEnum):
    """What an account holds. Debits are positive, credits negative, everywhere."""

    UNBILLED = "unbilled_receivable"
    """Earned and not yet invoiced; what stays after an invoice is residual."""
    CONTRACT_ASSET = "contract_asset"
    """Earned on outcomes that are expected and not yet confirmed."""
    RECEIVABLE = "accounts_receivable"
    """Invoiced and not yet paid, whole minor units."""
    DISPUTED = "disputed_receivable"
    """Taken back by a card network, and not yet decided."""
    STRIPE_CLEARING = "stripe_clearing"
    """Captured by Stripe and not yet paid out."""
    BANK = "bank"
    """Money on the operator's own account."""
    CONTRACT_LIABILITY = "contract_liability"
    """Paid credits that are not used yet."""
    CUSTOMER_CREDIT = "customer_credit_balance"
    """What is owed to a tenant and will be set off against its invoices."""
    REFUND_LIABILITY = "refund_liability"
    """What is expected to be given back."""
    UNCLAIMED_PROPERTY = "unclaimed_property"
    """Expired paid credits that the law gives to somebody else."""
    TAX_PAYABLE = "tax_payable"
    """Tax invoiced and owed to the authority."""
    FX_POSITION = "fx_position"
    """Currencies that were exchanged: one account per currency, and nothing else crosses."""
    REVENUE = "revenue"
    """Usage, fees and outcomes earned, exact to 12 decimals."""
    UNUSED_COMMITMENT = "revenue_unused_commitment"
    """Committed and not used."""
    BREAKAGE = "breakage_revenue"
    """Paid credits that nobody will use."""
    CONTRA_PROMOTION = "contra_revenue_promotion"
    """Revenue given away as promotional credits."""
    CONTRA_SLA = "contra_revenue_sla"
    """Revenue given back because a service level was missed."""
    CONTRA_GOODWILL = "contra_revenue_goodwill"
    """Revenue given back without obligation."""
    FEES = "payment_fees"
    """What the payment provider keeps."""
    BAD_DEBT = "bad_debt"
    """Receivables that will not be paid."""
    ROUNDING = "rounding"
    """What remains at the end of an account, at most half a minor unit."""

    @property
    def per_tenant(self) -> bool:
        """True if every tenant has its own account of this code."""
        return self not in _OPERATORS_OWN

    @property
    def kind(self) -> AccountKind:
        """Where it stands in the statements."""
        return _KINDS[self]

    @property
    def normal_side(self) -> Side:
        """The side on which it grows; contra revenue is income that grows by debits."""
        if self in _CONTRA or self.kind in {AccountKind.ASSET, AccountKind.EXPENSE}:
            return Side.DEBIT
        return Side.CREDIT


_OPERATORS_OWN = frozenset(
    {
        AccountCode.STRIPE_CLEARING,
        AccountCode.BANK,
        AccountCode.TAX_PAYABLE,
        AccountCode.FX_POSITION,
        AccountCode.FEES,
    }
)
_CONTRA = frozenset(
    {AccountCode.CONTRA_PROMOTION, AccountCode.CONTRA_SLA, AccountCode.CONTRA_GOODWILL}
)
_KINDS = {
    AccountCode.UNBILLED: AccountKind.ASSET,
    AccountCode.CONTRACT_ASSET: AccountKind.ASSET,
    AccountCode.RECEIVABLE: AccountKind.ASSET,
    AccountCode.DISPUTED: AccountKind.ASSET,
    AccountCode.STRIPE_CLEARING: AccountKind.ASSET,
    AccountCode.BANK: AccountKind.ASSET,
    AccountCode.CONTRACT_LIABILITY: AccountKind.LIABILITY,
    AccountCode.CUSTOMER_CREDIT: AccountKind.LIABILITY,
    AccountCode.REFUND_LIABILITY: AccountKind.LIABILITY,
    AccountCode.UNCLAIMED_PROPERTY: AccountKind.LIABILITY,
    AccountCode.TAX_PAYABLE: AccountKind.LIABILITY,
    AccountCode.FX_POSITION: AccountKind.EQUITY,
    AccountCode.REVENUE: AccountKind.INCOME,
    AccountCode.UNUSED_COMMITMENT: AccountKind.INCOME,
    AccountCode.BREAKAGE: AccountKind.INCOME,
    AccountCode.CONTRA_PROMOTION: AccountKind.INCOME,
    AccountCode.CONTRA_SLA: AccountKind.INCOME,
    AccountCode.CONTRA_GOODWILL: AccountKind.INCOME,
    AccountCode.FEES: AccountKind.EXPENSE,
    AccountCode.BAD_DEBT: AccountKind.EXPENSE,
    AccountCode.ROUNDING: AccountKind.EXPENSE,
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
