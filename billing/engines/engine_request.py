"""The body that an engine gets.

Decides: which members of a request pass, are refused or cut out, and what is spliced in: the
engine's name of the model, the request for usage, a bound on the answer that the hold covers, and
what keeps tenants apart inside the engine.
"""

from __future__ import annotations

import base64
import hashlib
from functools import lru_cache

import msgspec

from billing.admission.route import Dialect, Route
from billing.engines.audio_request import upstream_form
from billing.engines.capabilities import Capabilities
from billing.engines.media import require_media
from billing.engines.read_request import InferenceRequest
from billing.engines.request_members import OPENAI_MEMBERS, OPERATOR_CONTROLLED
from billing.engines.splice import locate, splice, without_member
from billing.engines.unsupported import UnsupportedParameter

_MEDIA_ROUTES = frozenset(
    {Route.CHAT_COMPLETIONS, Route.RESPONSES, Route.MESSAGES, Route.COUNT_TOKENS}
)
_SALTED_ROUTES = frozenset({Route.CHAT_COMPLETIONS, Route.COMPLETIONS, Route.RESPONSES})
_BOUNDS = frozenset({"max_completion_tokens", "max_tokens"})
_TEMPLATE = "chat_template_kwargs"
_OBJECT: msgspec.json.Decoder[dict[str, msgspec.Raw] | None] = msgspec.json.Decoder(
    dict[str, msgspec.Raw] | None
)
_NO_HOSTS: frozenset[str] = frozenset()


def tenant_cache_salt(tenant_id: int) -> str:
    """What keeps a tenant's prefix cache apart from the others'.

    Equal on every process, or a tenant would not find its own prefixes again. It is no secret:
    a client cannot send one.
    """
    digest = hashlib.sha256(f"steelyard tenant {tenant_id}".encode()).digest()
    return base64.urlsafe_b64encode(digest)[:22].decode()


def upstream_body(
    request: InferenceRequest,
    engine: Capabilities,
    *,
    upstream_model: str | None,
    cover: int | None = None,
    cache_salt: str | None = None,
    media_hosts: frozenset[str] = _NO_HOSTS,
    keeps_responses: bool = False,
) -> bytes:
    """The body for the engine: the client's bytes with as few splices as the meter needs.

    Args:
        upstream_model: the engine's own name of the model, or None where it is the client's.
        cover: output tokens per choice that the hold covers; bounds the answer where the client
            set no bound.
        cache_salt: of the tenant, where the backend keeps prefix caches apart.
        media_hosts: hosts that media may be fetched from; otherwise they are sent as data.
        keeps_responses: the backend stores responses for us; otherwise it is told not to.

    Raises:
        UnsupportedParameter: a member that neither OpenAI documents nor this engine is known
            to take, or media by an address that may not be fetched; or a protocol that the
            engine does not speak.
    """
    dialect = request.route.spec.dialect
    if dialect is not Dialect.PLAIN and dialect not in engine.dialects:
        raise UnsupportedParameter(
            "The model is not served on this route.", field="model", remedy="Use another route."
        )
    if request.form is not None:
        return upstream_form(
            request.form, upstream_model=upstream_model, sampling=bool(engine.request_members)
        )
    drop = _dropped(request, engine)
    if request.route in _MEDIA_ROUTES:
        require_media(request.members, hosts=media_hosts, by_name=engine.media_by_name)
    put: dict[str, bytes] = {}
    if asks_for_usage(request, engine):
        put["stream_options"] = _stream_options(request, engine)
    _bound(request, engine, cover, put)
    if cache_salt is not None and engine.cache_salt and request.route in _SALTED_ROUTES:
        put["cache_salt"] = msgspec.json.encode(cache_salt)
        drop = drop - {"cache_salt"}
    if request.route is Route.RESPONSES and not keeps_responses:
        stored = request.members.values.get("store")
        if stored is None or bytes(stored) != b"false":
            put["store"] = b"false"
    if upstream_model is not None and upstream_model != request.model:
        put["model"] = msgspec.json.encode(upstream_model)
    return splice(request.members, put=put, drop=drop)


def without_injection(body: bytes, request: InferenceRequest, engine: Capabilities) -> bytes | None:
    """The body for an engine that refused the member which only the meter asked for.

    Args:
        body: what `upstream_body` gave.

    Returns:
        None where nothing was injected, so that the refusal is the client's own.
    """
    if not asks_for_usage(request, engine):
        return None
    own = request.members.values.get("stream_options")
    if own is None:
        return without_member(locate(body), "stream_options")
    return splice(locate(body), put={"stream_options": bytes(own)})


def _dropped(request: InferenceRequest, engine: Capabilities) -> frozenset[str]:
    """Members to cut out: those that only the operator may set. Unknown ones are refused."""
    values = request.members.values
    if _TEMPLATE in values:
        _require_template(values[_TEMPLATE], engine.template_keys)
    names = values.keys()
    allowed = _allowed(request.route, engine.request_members)
    if names <= allowed:
        return frozenset()
    unknown = names - allowed - OPERATOR_CONTROLLED
    if unknown:
        raise UnsupportedParameter(
            "The request has a member that this model does not take.",
            field=_nameable(min(unknown)),
            remedy="Leave it out.",
        )
    return frozenset(names & OPERATOR_CONTROLLED)


@lru_cache(maxsize=256)
def _allowed(route: Route, extra: frozenset[str]) -> frozenset[str]:
    return OPENAI_MEMBERS[route] | extra


def _require_template(raw: msgspec.Raw, allowed: frozenset[str]) -> None:
    try:
        found = _OBJECT.decode(raw) or {}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise UnsupportedParameter("Must be an object.", field=_TEMPLATE) from None
    unknown = set[str](found) - allowed
    if unknown:
        name = _nameable(min(unknown))
        raise UnsupportedParameter(
            "The request has a template argument that this model does not take.",
            field=_TEMPLATE if name is None else f"{_TEMPLATE}.{name}",
            remedy="Leave it out.",
        )


def asks_for_usage(request: InferenceRequest, engine: Capabilities) -> bool:
    """Whether the meter has to ask for more usage than the client did."""
    if not request.stream or not engine.include_usage:
        return False
    if request.route.spec.dialect is not Dialect.CHUNKS:
        return False  # there usage is part of the protocol
    return not (request.wants_continuous if engine.continuous_usage else request.wants_usage)


def _stream_options(request: InferenceRequest, engine: Capabilities) -> bytes:
    """Usage switched on, other options of the client kept."""
    put = {"include_usage": b"true"}
    if engine.continuous_usage:
        put["continuous_usage_stats"] = b"true"
    raw = request.members.values.get("stream_options")
    if raw is None or bytes(raw) == b"null":
        return b"{" + b",".join([b'"%b":%b' % (k.encode(), v) for k, v in put.items()]) + b"}"
    return splice(locate(bytes(raw)), put=put)


def _bound(
    request: InferenceRequest, engine: Capabilities, cover: int | None, put: dict[str, bytes]
) -> None:
    """Bound the answer by what the hold covers, and let no second bound exceed the first."""
    if request.max_tokens is not None:
        if request.members.values.keys() >= _BOUNDS:
            # Engines differ in which of the two counts; a hold was taken for one.
            text = b"%d" % request.max_tokens
            put.update(dict.fromkeys(_BOUNDS, text))
    elif cover is not None and request.route.generates:
        put[_bound_member(request.route, engine)] = b"%d" % cover


def _bound_member(route: Route, engine: Capabilities) -> str:
    match route:
        case Route.CHAT_COMPLETIONS:
            return engine.max_tokens_member
        case Route.RESPONSES:
            return "max_output_tokens"
        case _:
            return "max_tokens"


def _nameable(name: str) -> str | None:
    """A member's name if it is one that is safe to repeat."""
    return name if len(name) <= 64 and name.isidentifier() and name.isascii() else None
