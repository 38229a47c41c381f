"""The frozen picture of keys, contracts and models against which a request is admitted.

Decides: what admission can see. Does not decide when a picture is replaced: the control side of
the proxy builds a new one and swaps it whole, so that a request never sees half of a change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from billing.admission.backend import ServedModel
from billing.admission.route import Route
from billing.admission.terms import TenantTerms


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyGrant:
    """What one API key may do, and for whom.

    Attributes:
        may_infer: whether the key may send inference requests at all.
        expires_at_us: instant of expiry in µs since 1970 UTC (exclusive), or None. A revoked key
            is simply absent from the snapshot.
    """

    key_id: int
    tenant_id: int
    project_id: int
    may_infer: bool
    expires_at_us: int | None = None

    def is_over(self, now_us: int) -> bool:
        """Whether it has expired."""
        return self.expires_at_us is not None and now_us >= self.expires_at_us


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """A request that may run."""

    grant: KeyGrant
    terms: TenantTerms
    model: ServedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Everything that admission needs, at one version.

    Attributes:
        version: grows with every swap.
        taken_at_us: when the database said so, in µs since 1970 UTC; None: it never goes stale.
        keys: SHA-256 of the whole key text (32 bytes) → grant.
        terms: tenant id → terms; a tenant without a contract in force is absent.
        models: name that tenants use → model.
        admitted: what was decided over this picture, by key, name of the model and route: the
            same again, but for the expiry of the key. A new picture begins without.
    """

    version: int
    keys: Mapping[bytes, KeyGrant] = field(repr=False)
    terms: Mapping[int, TenantTerms]
    models: Mapping[str, ServedModel]
    taken_at_us: int | None = None
    admitted: dict[tuple[bytes, str, Route], Admission] = field(
        default_factory=dict[tuple[bytes, str, Route], Admission],
        init=False,
        compare=False,
        repr=False,
    )
