"""What of a client's request is read, and what of it goes on to a backend.

Decides: which headers pass, how large a body may be, that it is not compressed (a small body could
become a large one in memory, and backends are asked in plain text). Does not decide what the body
says, nor whose the stored objects are that it names (`stored_responses.py`).
"""

from __future__ import annotations

from api.proxy.client_request import ClientRequest
from api.proxy.headers import Headers, lines_of
from api.proxy.openai_errors import TooLarge
from billing.admission.route import BodyForm, Dialect, Route
from billing.engines.messages_request import passed_betas
from billing.engines.read_request import JSON_TYPE, InferenceRequest, read_request
from billing.errors import InvalidInput

_FORWARDED = (b"accept", b"user-agent")
_VERSION = b"anthropic-version"
_BETA = b"anthropic-beta"


def forwarded_lines(request: ClientRequest, route: Route) -> bytes:
    """The lines of the client's head that a backend gets."""
    facts = request.facts
    if facts.forwarded is None:
        facts.forwarded = lines_of(_forwarded(request, route))
    return facts.forwarded


def _forwarded(request: ClientRequest, route: Route) -> Headers:
    fields = request.fields
    forwarded = [
        (name, value) for name in _FORWARDED if name in fields for value in request.all_of(name)
    ]
    if route.spec.dialect is Dialect.MESSAGES:
        forwarded += [(_VERSION, value) for value in request.all_of(_VERSION)]
        betas = passed_betas(request.all_of(_BETA))
        if betas is not None:
            forwarded.append((_BETA, betas))
    return forwarded


async def read_inference(
    request: ClientRequest, route: Route, limit_bytes: int
) -> InferenceRequest:
    """What a client asks for on a metered route.

    Raises:
        InvalidInput: the body is not what the route takes.
        NotFound: it refers to an item that belongs to nobody.
        TooLarge, ClientLeft, TooSlow: as `read_body`.
    """
    content = await read_body(request, limit_bytes)
    form = route.spec.body is BodyForm.MULTIPART
    return read_request(content, route, _content_type(request) if form else JSON_TYPE)


async def read_body(request: ClientRequest, limit_bytes: int) -> bytes:
    """The whole body.

    Raises:
        TooLarge: it is longer than the limit, or says so.
        InvalidInput: it is compressed.
        ClientLeft, TooSlow: as `ClientRequest.body`.
    """
    if int(request.fields.get(b"content-length", b"0")) > limit_bytes:
        raise TooLarge(f"The request body is larger than {limit_bytes} bytes.")
    if b"content-encoding" in request.fields:
        for encoding in request.all_of(b"content-encoding"):
            if encoding.lower() != b"identity":
                raise InvalidInput(
                    "Compressed request bodies are not taken.",
                    field="content-encoding",
                    remedy="Send it as it is.",
                )
    return await request.body(limit_bytes)


def _content_type(request: ClientRequest) -> bytes:
    """The one content type: of two, a backend could take the other."""
    found = request.all_of(b"content-type")
    if len(found) != 1:
        raise InvalidInput("The request needs one content type.", field="content-type")
    return found[0]
