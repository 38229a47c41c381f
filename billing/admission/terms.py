"""What the contracts of a tenant say about its requests, as admission needs it.

Decides: which facts of a contract the request path can see. Does not decide how they are read from
plans: the control side of the proxy does, and hands over the frozen result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from billing.metering.token_class import TokenClass


def _no_members() -> Mapping[str, frozenset[TokenClass]]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantTerms:
    """What the contracts of a tenant that are in force now price.

    Attributes:
        price_version_id: recorded on every event that is admitted under these terms.
        priced: model name → token classes with a price.
    """

    tenant_id: int
    price_version_id: int
    priced: Mapping[str, frozenset[TokenClass]] = field(default_factory=_no_members)
