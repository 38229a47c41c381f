"""That every limit can be kept before a request is admitted under it.

Decides: which limits the proxy could not keep as they are written down. None of them is left out:
whoever set it counts on it, and would learn of its absence from the bill. Definitions are checked
when they are made, too; but a currency, a zone, a model or a version can change under them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import sqlalchemy as sa

from billing.admission.limit import Limit
from billing.errors import ConfigurationError, InvalidInput
from billing.money import currency
from billing.period import zone
from billing.store import tenancy
from billing.store.database import Role, acting_as


class LimitNotWired(ConfigurationError):
    """A limit is in force that the proxy cannot keep."""

    code = "limit_not_wired"


def require_wired(
    connection: sa.Connection,
    limits: Mapping[int, tuple[Limit, ...]],
    *,
    currencies: Mapping[int, str],
    served: Collection[int] | None,
) -> None:
    """Make sure of the limits by tenant.

    Args:
        currencies: in which tenants with a contract in force are charged.
        served: row ids of the models that backends serve; None: not all backends have said.

    Raises:
        LimitNotWired: the first one that cannot be kept.
    """
    for tenant_id, those in limits.items():
        for limit in those:
            broken = _broken(limit, currencies.get(tenant_id), served)
            if broken is not None:
                reason, remedy = broken
                with acting_as(connection, Role.OPERATOR):
                    slug = tenancy.tenant_by_id(connection, tenant_id).slug
                raise LimitNotWired(
                    f"the limit `{limit.name}` of tenant `{slug}` {reason}",
                    field="limit",
                    remedy=f"{remedy}; or end it: `steelyard limit end {slug} {limit.name}`",
                )


def _broken(
    limit: Limit, charged_in: str | None, served: Collection[int] | None
) -> tuple[str, str] | None:
    """Why a limit cannot be kept, and what mends it; None where it can."""
    try:
        zone(limit.zone)
    except InvalidInput:
        return "counts in a time zone that does not exist", "give the tenant a zone that exists"
    if limit.currency:
        try:
            currency(limit.currency)
        except InvalidInput:
            return "counts in a currency that is not supported", "use another currency"
        if charged_in is not None and charged_in != limit.currency:
            return (
                f"counts in {limit.currency}, but its tenant is charged in {charged_in}",
                "set another one in that currency",
            )
    if served is not None and limit.model_id is not None and limit.model_id not in served:
        return "counts requests for a model that no backend serves", "serve the model"
    return None
