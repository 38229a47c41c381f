"""The frozen picture of keys, contracts and models against which a request is admitted.

Decides: what admission can see. Does not decide when a picture is replaced: the control side of
the proxy builds a new one and swaps it whole, so that a request never sees half of a change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from billing.metering.token_class import TokenClass


def _no_members() -> Mapping[str, frozenset[TokenClass]]:
    return MappingProxyType({})


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """One inference server that serves a model.

    Attributes:
        base_url: `http://host:port` with an optional path prefix; `/v1/…` is appended to it.
        engine: name of the adapter (`vllm`, `sglang`, `llama_cpp`, `generic`, …).
        model: the server's own name of the model; None where it is the same as ours.
        api_key: credential for the server, never shown.
    """

    name: str
    base_url: str
    engine: str = "generic"
    model: str | None = None
    api_key: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A model that tenants can name, and where it runs.

    Attributes:
        backends: in order of preference, never empty.
        classes: token classes that its routes can yield (chat: input, cached_input, output;
            embeddings: input).
        created_at_us: when it was registered, in µs since 1970 UTC; shown by the model list.
    """

    id: int
    name: str
    backends: tuple[Backend, ...]
    classes: frozenset[TokenClass]
    created_at_us: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Everything that admission needs, at one version.

    Attributes:
        version: grows with every swap.
        keys: SHA-256 of the whole key text (32 bytes) → grant.
        terms: tenant id → terms; a tenant without a contract in force is absent.
        models: name that tenants use → model.
    """

    version: int
    keys: Mapping[bytes, KeyGrant] = field(repr=False)
    terms: Mapping[int, TenantTerms]
    models: Mapping[str, ServedModel]
