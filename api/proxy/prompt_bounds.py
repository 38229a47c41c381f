"""What is known of a prompt before its engine has counted it.

Decides: which exchanges need a lower bound of their prompt, and that exact answers teach it. Where
the engine says the prompt with the first event, nothing is judged and nothing is learned.
"""

from __future__ import annotations

from api.proxy.exchange import Exchange
from billing.admission.route import Dialect
from billing.engines.prompt_floor import Ratio, learn_prompt, prompt_floor
from billing.metering.token_class import TokenCounts


def floor_of(exchange: Exchange) -> int:
    """Tokens that the prompt has at least."""
    ratio = _ratio(exchange)
    return 0 if ratio is None else prompt_floor(exchange.request, ratio)


def learn_from(exchange: Exchange, counts: TokenCounts) -> None:
    """Learn from an exact answer."""
    ratio = _ratio(exchange)
    if ratio is not None:
        prompt = counts.input + counts.cached_input + counts.cache_write
        learn_prompt(exchange.request, ratio, prompt)


def _ratio(exchange: Exchange) -> Ratio | None:
    route = exchange.request.route
    if exchange.engine.continuous_usage and route.spec.dialect is Dialect.CHUNKS:
        return None
    if not route.generates:
        return None
    return exchange.plant.ratios.of(exchange.backend.name, exchange.model.id)
