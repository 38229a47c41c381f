"""The body of a client's request.

Decides: how large it may be, and that it is not compressed: a small body could become a large one
in memory, and backends are asked in plain text.
"""

from __future__ import annotations

from api.proxy.client_request import ClientRequest
from api.proxy.openai_errors import TooLarge
from billing.errors import InvalidInput


async def read_body(request: ClientRequest, limit_bytes: int) -> bytes:
    """The whole body.

    Raises:
        TooLarge: it is longer than the limit, or says so.
        InvalidInput: it is compressed.
        ClientLeft, TooSlow: as `ClientRequest.body`.
    """
    for name, value in request.headers:
        if name == b"content-length" and int(value) > limit_bytes:
            raise TooLarge(f"The request body is larger than {limit_bytes} bytes.")
        if name == b"content-encoding" and value.lower() != b"identity":
            raise InvalidInput("Compressed request bodies are not taken.")
    return await request.body(limit_bytes)
