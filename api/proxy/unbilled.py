"""Relay of answers that cost next to nothing, such as counts of tokens.

Decides: that they pass without a usage event. They are admitted like every other request, and
count as one where requests are limited.
"""

from __future__ import annotations

from api.proxy.answer_head import concerns_us
from api.proxy.client_request import ClientRequest
from api.proxy.exchange import Exchange
from api.proxy.upstream_connection import UpstreamConnection
from api.proxy.whole import read_body
from billing.errors import UpstreamError, UpstreamUnavailable


async def relay_unbilled(
    exchange: Exchange, connection: UpstreamConnection, client: ClientRequest, *, limit_bytes: int
) -> None:
    """Relay an answer of the backend unchanged.

    Raises:
        UpstreamError: it broke off or is not the client's to see; nothing was sent.
    """
    body = await read_body(exchange, connection, limit_bytes=limit_bytes)
    if exchange.stopped is not None:
        raise UpstreamUnavailable("The exchange was ended.")
    if concerns_us(connection.status):
        raise UpstreamError("The inference backend does not serve this proxy.")
    if 200 <= connection.status < 300:
        exchange.count_unbilled()
    client.answer_with(connection.status, exchange.answer_lines(connection.answer), body)
