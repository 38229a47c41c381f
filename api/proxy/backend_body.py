"""What a backend gets of a request.

Decides: which of its traits and whose tenant the body depends on. What is done to the body is the
engine's adapter's to decide (`billing.engines.engine_request`).
"""

from __future__ import annotations

from api.proxy.exchange import Exchange
from billing.admission.backend import Backend, ServedModel
from billing.engines.capabilities import engine_named
from billing.engines.engine_request import tenant_cache_salt, upstream_body


def body_for(exchange: Exchange, backend: Backend, model: ServedModel) -> bytes:
    """The body for one backend of a model.

    Raises:
        InvalidInput: its engine does not take the request.
    """
    salt = None
    if backend.cache_salt:
        salt = tenant_cache_salt(exchange.admission.grant.tenant_id)
    return upstream_body(
        exchange.request,
        engine_named(backend.engine),
        upstream_model=backend.model or model.name,
        cover=None if exchange.holding is None else exchange.holding.cover,
        cache_salt=salt,
        media_hosts=backend.media_hosts,
        keeps_responses=exchange.keeper is not None and "responses" in backend.stores,
    )
