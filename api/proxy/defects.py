"""The last line of every request: a defect of ours fails that one, not the process."""

from __future__ import annotations

import logging
from collections.abc import Callable

from api.proxy.client_connection import ClientConnection
from api.proxy.client_request import ClientRequest
from billing.errors import SteelyardError

log = logging.getLogger("steelyard.proxy")


def end_for_defect(
    error: Exception,
    name: str,
    request: ClientRequest,
    client: ClientConnection,
    refuse: Callable[[SteelyardError], None],
) -> None:
    """Log what nobody foresaw, and let the client know: by a refusal, or by a cut behind a head.

    Args:
        name: of the request, in the log.
        refuse: answers with an error.
    """
    # The type only: a message could carry bytes of the request.
    log.error("%s failed: %s", name, type(error).__name__)
    if client.lost:
        return
    if request.status:
        client.cut(flush=False)
    else:
        refuse(SteelyardError("internal"))
