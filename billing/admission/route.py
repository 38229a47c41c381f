"""The table of routes: everything that the data plane answers, and how each is metered.

Decides: which requests exist, how each is admitted, which token classes and units its answer can
be charged for, and which kind of model it needs. A path that is not here reaches no backend, so
no route can serve what nobody counts. Does not decide how bodies are read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from types import MappingProxyType
from typing import Final

from billing.admission.backend import ModelKind
from billing.admission.binding import ObjectKind
from billing.metering.token_class import TokenClass
from billing.metering.unit_meter import UnitMeter


class Route(StrEnum):
    """A kind of inference request; its value is its path, which usage events record.

    Attributes:
        spec: its row in the table.
        generates: answers carry generated text, which can be streamed.

    Attributes and not properties, because a dozen places ask for them in every request.
    """

    spec: RouteSpec
    generates: bool

    CHAT_COMPLETIONS = "/v1/chat/completions"
    COMPLETIONS = "/v1/completions"
    EMBEDDINGS = "/v1/embeddings"
    RESPONSES = "/v1/responses"
    MESSAGES = "/v1/messages"
    COUNT_TOKENS = "/v1/messages/count_tokens"
    RERANK = "/v1/rerank"
    TRANSCRIPTIONS = "/v1/audio/transcriptions"
    TRANSLATIONS = "/v1/audio/translations"
    SPEECH = "/v1/audio/speech"
    IMAGES = "/v1/images/generations"

    @property
    def classes(self) -> frozenset[TokenClass]:
        """Every class that an answer on this route may be charged for."""
        return self.spec.classes

    @property
    def units(self) -> frozenset[UnitMeter]:
        """Every meter beside tokens that an answer on this route may be charged for."""
        return self.spec.units


class BodyForm(Enum):
    """How a request's body is written."""

    JSON = auto()
    MULTIPART = auto()
    NONE = auto()


class Dialect(Enum):
    """How answers and streams say what they cost."""

    CHUNKS = auto()
    """OpenAI's `usage`; streams of chunks that end with `[DONE]`."""
    RESPONSES = auto()
    MESSAGES = auto()
    PLAIN = auto()
    """Never streamed; each route has its own shape."""


class ErrorShape(Enum):
    """Whose clients have to understand a refusal."""

    OPENAI = auto()
    ANTHROPIC = auto()


class Serving(Enum):
    """How a request is admitted. There is nothing else."""

    INFERENCE = auto()
    """Key, price, limits, a backend, and a usage event."""
    UNBILLED = auto()
    """Key, price, limits and a backend; it costs next to nothing and no event is written."""
    STORED = auto()
    """Key, and an object that a backend keeps for the tenant."""
    LIST = auto()
    """Key; answered from the snapshot."""
    STATUS = auto()
    """Nothing: whether this process is alive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteSpec:
    """One row of the table.

    Attributes:
        path: as it is matched; a segment in braces stands for the id of a stored object.
        route: which kind of usage it records; None where it records none.
        classes, units: what an answer may be charged for, and what therefore needs a price.
        model_kind: the kind of model it needs; None where it names no model.
        stored: what it makes, shows or ends of what a backend keeps; None where it does not.
    """

    method: str
    path: str
    serving: Serving
    route: Route | None = None
    body: BodyForm = BodyForm.NONE
    dialect: Dialect = Dialect.PLAIN
    classes: frozenset[TokenClass] = frozenset()
    units: frozenset[UnitMeter] = frozenset()
    model_kind: ModelKind | None = None
    errors: ErrorShape = ErrorShape.OPENAI
    stored: ObjectKind | None = None


_READ = frozenset({TokenClass.INPUT})
_ALL = frozenset(TokenClass)


def _inference(
    route: Route,
    *,
    dialect: Dialect = Dialect.PLAIN,
    classes: frozenset[TokenClass] = _ALL,
    unit: UnitMeter | None = None,
    kind: ModelKind = ModelKind.TEXT,
    body: BodyForm = BodyForm.JSON,
    errors: ErrorShape = ErrorShape.OPENAI,
    serving: Serving = Serving.INFERENCE,
) -> RouteSpec:
    return RouteSpec(
        method="POST",
        path=route.value,
        serving=serving,
        route=route,
        body=body,
        dialect=dialect,
        classes=classes,
        units=frozenset() if unit is None else frozenset({unit}),
        model_kind=kind,
        errors=errors,
    )


def _stored(kind: ObjectKind, method: str, path: str, body: BodyForm = BodyForm.NONE) -> RouteSpec:
    return RouteSpec(method=method, path=path, serving=Serving.STORED, body=body, stored=kind)


ROUTES: Final[tuple[RouteSpec, ...]] = (
    _inference(Route.CHAT_COMPLETIONS, dialect=Dialect.CHUNKS),
    _inference(Route.COMPLETIONS, dialect=Dialect.CHUNKS),
    _inference(Route.EMBEDDINGS, classes=_READ, kind=ModelKind.EMBEDDING),
    _inference(Route.RESPONSES, dialect=Dialect.RESPONSES),
    _inference(Route.MESSAGES, dialect=Dialect.MESSAGES, errors=ErrorShape.ANTHROPIC),
    _inference(
        # It needs the prices of the messages that it prepares, though it costs nothing itself.
        Route.COUNT_TOKENS,
        dialect=Dialect.MESSAGES,
        errors=ErrorShape.ANTHROPIC,
        serving=Serving.UNBILLED,
    ),
    _inference(Route.RERANK, classes=_READ, unit=UnitMeter.SEARCHES, kind=ModelKind.RERANK),
    _inference(
        Route.TRANSCRIPTIONS,
        unit=UnitMeter.AUDIO_MS,
        kind=ModelKind.AUDIO,
        body=BodyForm.MULTIPART,
    ),
    _inference(
        Route.TRANSLATIONS,
        unit=UnitMeter.AUDIO_MS,
        kind=ModelKind.AUDIO,
        body=BodyForm.MULTIPART,
    ),
    _inference(Route.SPEECH, unit=UnitMeter.CHARACTERS, kind=ModelKind.SPEECH),
    _inference(Route.IMAGES, unit=UnitMeter.IMAGES, kind=ModelKind.IMAGE),
    _stored(ObjectKind.FILE, "POST", "/v1/files", BodyForm.MULTIPART),
    _stored(ObjectKind.FILE, "GET", "/v1/files"),
    _stored(ObjectKind.FILE, "GET", "/v1/files/{file}"),
    _stored(ObjectKind.FILE, "GET", "/v1/files/{file}/content"),
    _stored(ObjectKind.FILE, "DELETE", "/v1/files/{file}"),
    _stored(ObjectKind.BATCH, "POST", "/v1/batches", BodyForm.JSON),
    _stored(ObjectKind.BATCH, "GET", "/v1/batches"),
    _stored(ObjectKind.BATCH, "GET", "/v1/batches/{batch}"),
    _stored(ObjectKind.BATCH, "POST", "/v1/batches/{batch}/cancel"),
    _stored(ObjectKind.RESPONSE, "GET", "/v1/responses/{response}"),
    _stored(ObjectKind.RESPONSE, "GET", "/v1/responses/{response}/input_items"),
    _stored(ObjectKind.RESPONSE, "POST", "/v1/responses/{response}/cancel"),
    _stored(ObjectKind.RESPONSE, "DELETE", "/v1/responses/{response}"),
    RouteSpec(method="GET", path="/v1/models", serving=Serving.LIST),
    RouteSpec(method="GET", path="/v1/models/{model}", serving=Serving.LIST),
    RouteSpec(method="GET", path="/healthz", serving=Serving.STATUS),
    # What engines call it, and so load tools ask for it before they begin.
    RouteSpec(method="GET", path="/health", serving=Serving.STATUS),
    RouteSpec(method="GET", path="/readyz", serving=Serving.STATUS),
)

for _row in ROUTES:
    if _row.route is not None:
        _row.route.spec = _row
        _row.route.generates = (
            _row.model_kind is ModelKind.TEXT and _row.serving is Serving.INFERENCE
        )

_NO_IDS: Final[Mapping[str, str]] = MappingProxyType({})
_FIXED: Final = {
    (spec.method.encode(), spec.path.encode()): (spec, _NO_IDS)
    for spec in ROUTES
    if "{" not in spec.path
}
_ID = rb"[A-Za-z0-9_-]{1,128}"
# Names of models carry slashes, colons and letters of any script, as they are or escaped.
_MODEL = rb"(?:[!-$&-~]|%[0-9A-Fa-f]{2}){1,200}"


def _pattern(path: str) -> re.Pattern[bytes]:
    pieces: list[bytes] = []
    for segment in path.split("/"):
        if segment.startswith("{"):
            name = segment.strip("{}")
            text = _MODEL if name == "model" else _ID
            pieces.append(b"(?P<%b>%b)" % (name.encode(), text))
        else:
            pieces.append(re.escape(segment.encode()))
    return re.compile(b"/".join(pieces) + rb"\Z")


_PATTERNS: Final = tuple(
    (spec.method.encode(), _pattern(spec.path), spec) for spec in ROUTES if "{" in spec.path
)


def find_route(method: bytes, path: bytes) -> tuple[RouteSpec, Mapping[str, str]] | None:
    """The row that answers a request, and the ids in its path by name; None if there is none.

    Args:
        path: as sent, without the query. It is compared byte for byte: no decoding, no dots, no
            doubled or trailing slashes, so that what is admitted is what is dispatched.
    """
    found = _FIXED.get((method, path))
    if found is not None:
        return found
    for known, pattern, spec in _PATTERNS:
        if known == method and (match := pattern.match(path)):
            return spec, {name: text.decode() for name, text in match.groupdict().items()}
    return None
