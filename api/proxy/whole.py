"""Relay of answers that are not streams.

Decides: the order read, meter, make durable, send. The one wait is for the usage event: when a
client has its answer, the event is on the disk, and when the event could not be written, there
is no answer. Bytes pass unchanged, but for usage that only the meter asked a stream for. Where a
contract has the backend read on, a complete answer is billed to a client that has gone. An error
that says it is an answer (status 200) costs what other refusals cost: nothing.
"""

from __future__ import annotations

from api.proxy.answer_head import concerns_us
from api.proxy.client_request import ClientRequest
from api.proxy.exchange import Exchange
from api.proxy.prompt_bounds import floor_of, learn_from
from api.proxy.stored_responses import bind_answer
from api.proxy.upstream_connection import UpstreamConnection
from billing.engines.whole_answer import Reading, read_whole
from billing.errors import JournalError, SteelyardError, UpstreamError, UpstreamUnavailable


async def relay_whole(
    exchange: Exchange, connection: UpstreamConnection, client: ClientRequest, *, limit_bytes: int
) -> None:
    """Relay an answer of the backend and bill it.

    Raises:
        UpstreamError: it broke off; nothing was sent, and a void is journaled.
        Unavailable: it is stored, and its id cannot be bound; nothing was sent.
        JournalError: its usage cannot be made durable; nothing was sent.
    """
    body = await read_body(exchange, connection, limit_bytes=limit_bytes)
    if exchange.stopped is not None:
        exchange.void(exchange.stopped)
        raise UpstreamUnavailable("The exchange was ended.")
    reading = _read(exchange, body)
    if reading.refused:
        exchange.void("upstream_refused")
        _send(exchange, connection, client, body)
        return
    if exchange.keeper is not None:
        try:
            await bind_answer(exchange, reading.object_ids)
        except SteelyardError:
            exchange.void("unbound")
            raise
    usage = exchange.usage(
        reading.counts,
        units=reading.units,
        tier=reading.tier,
        raw=reading.raw,
        cause=exchange.cause("completed"),
        estimated=not reading.exact,
    )
    try:
        await exchange.plant.journal.append(usage)
    except JournalError:
        exchange.void("journal_refused")
        raise
    if not exchange.left:
        _send(exchange, connection, client, body if reading.shown is None else reading.shown)


async def relay_refusal(
    exchange: Exchange, connection: UpstreamConnection, client: ClientRequest, *, limit_bytes: int
) -> None:
    """Relay an error answer of the backend unchanged. It is not billed; its cost is scrap.

    Raises:
        UpstreamError: it broke off or is not the client's to see; nothing was sent, and a void
            is journaled.
    """
    body = await read_body(exchange, connection, limit_bytes=limit_bytes)
    exchange.void(exchange.stopped or "upstream_refused")
    if exchange.stopped is not None:
        raise UpstreamUnavailable("The exchange was ended.")
    if concerns_us(connection.status):
        raise UpstreamError("The inference backend does not serve this proxy.")
    _send(exchange, connection, client, body)


async def read_body(
    exchange: Exchange, connection: UpstreamConnection, *, limit_bytes: int
) -> bytes:
    """The whole body.

    Raises:
        UpstreamError: it broke off or is too large; a void is journaled.
    """
    parts: list[bytes] = []
    size = 0
    try:
        while part := await connection.read():
            exchange.course.note_first_byte()
            size += len(part)
            if size > limit_bytes:
                raise UpstreamUnavailable("The inference backend's answer is too large.")
            parts.append(part)
            if connection.ended:
                break
    except UpstreamError as failure:
        exchange.void(exchange.reason(failure))
        raise
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _read(exchange: Exchange, body: bytes) -> Reading:
    """What a complete answer costs; a lower bound, flagged, where the engine does not say."""
    request = exchange.request
    reading = read_whole(
        body,
        route=request.route,
        engine=exchange.engine,
        request=request,
        prompt_floor=floor_of(exchange),
    )
    anomalies = exchange.plant.tally.anomalies
    for anomaly in reading.anomalies:
        anomalies[anomaly] += 1
    if reading.exact:
        learn_from(exchange, reading.counts)
    return reading


def _send(
    exchange: Exchange, connection: UpstreamConnection, client: ClientRequest, body: bytes
) -> None:
    client.answer_with(connection.status, exchange.answer_lines(connection.answer), body)
