"""Sizes and deadlines of the data plane.

Decides: the defaults. Every wait and every buffer in the proxy is bounded by one of these.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds; `_ms` are milliseconds, `_bytes` bytes.

    Attributes:
        head_bytes, head_fields: request line and headers of a client.
        head_ms, body_ms: from the first byte of a head, and from its end, to the last byte.
        idle_ms: a client's connection without a request.
        body_bytes: a request's body.
        connections: open client connections; more are closed at once.
        in_flight: requests being served; more are answered 503.
        connect_ms: to a backend.
        first_byte_ms: from dispatch to the backend's response head and first stream event.
        stalled_ms: between two reads of a backend's answer.
        client_stalled_ms: a client that does not read what was written to it.
        answer_bytes: an answer that is held until its usage is durable.
        pool_idle_ms: an unused connection to a backend; below the 5 s after which uvicorn, on
            which most engines stand, closes it from its side.
        pool_size: unused connections kept per backend.
        checkpoint_ms: how often the delivered counts of open streams are journaled.
        drain_ms: how long open requests may go on after a stop was asked for; well below the
            20 s after which whoever started us kills us, with streams cut by estimate.
        unknown_key_ms: how long a key that was looked up in vain is refused unasked.
        unknown_keys: how many such keys are remembered.
        look_ups_per_second: look-ups of unknown keys over all clients.
        file_bytes: a file that is uploaded; it passes through, never whole in memory.
        upload_ms: from the head of an upload to its last byte.
        object_bytes: an answer that shows a stored object, and a request that makes one.
        batch_lines: lines of a batch.
        stored_in_flight: requests about stored objects; more are answered 503.
        known_keys_ms: how long known keys work after the last news of the database; 0: for ever.
    """

    head_bytes: int = 32 << 10
    head_fields: int = 100
    head_ms: int = 10_000
    body_ms: int = 60_000
    idle_ms: int = 75_000
    body_bytes: int = 32 << 20
    connections: int = 8_192
    in_flight: int = 4_096
    connect_ms: int = 3_000
    first_byte_ms: int = 600_000
    stalled_ms: int = 120_000
    client_stalled_ms: int = 120_000
    answer_bytes: int = 256 << 20
    pool_idle_ms: int = 4_000
    pool_size: int = 512
    checkpoint_ms: int = 200
    drain_ms: int = 12_000
    unknown_key_ms: int = 2_000
    unknown_keys: int = 10_000
    look_ups_per_second: int = 50
    file_bytes: int = 512 << 20
    upload_ms: int = 600_000
    object_bytes: int = 1 << 20
    batch_lines: int = 50_000
    stored_in_flight: int = 256
    known_keys_ms: int = 3_600_000
