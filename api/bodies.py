"""From bodies to values: JSON decoded strictly, YAML taken as text.

Decides how a malformed body is described: by the path of what is wrong and by what was expected
there, never by what was sent. JSON numbers with a point or an exponent reach no field, because
they would be binary floats before anybody could check them.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import msgspec
from litestar import Request
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.dto import AbstractDTO
from litestar.exceptions import HTTPException
from litestar.openapi.spec import (
    OpenAPIMediaType,
    OpenAPIType,
    Operation,
    Reference,
    RequestBody,
    Schema,
)
from litestar.status_codes import HTTP_415_UNSUPPORTED_MEDIA_TYPE
from litestar.typing import FieldDefinition

from api.deployment import Connection
from billing.errors import InvalidInput, InvalidPlan

BODY_BYTES_MAX = 8 << 20

_JSON = frozenset({"", "application/json"})
_YAML = frozenset(
    {"", "application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml", "text/plain"}
)
_PLACE = re.compile(r" - at `(?:key in )?\$?\.?([^`]*)`$")
_MISSING = re.compile(r"^Object missing required field `([^`]*)`")
_EXPECTED = re.compile(r"^Expected (.*?)(?:, got .*)?$", re.DOTALL)


class StrictJson(AbstractDTO[Any]):
    """Decodes `data` of a handler into the type that it is annotated with."""

    def decode_bytes(self, value: bytes) -> Any:
        """The value of a body.

        Raises:
            InvalidInput: not JSON, or not of the handler's type.
            HTTPException: sent as something else than JSON.
        """
        connection = cast("Connection", self.asgi_connection)  # pyright: ignore[reportUnknownMemberType]  # generic without arguments
        require_media_type(connection.headers.get("content-type", ""), _JSON)
        parameters = connection.route_handler.parsed_fn_signature.parameters
        return read_json(value, parameters["data"].annotation)

    @classmethod
    def create_for_field_definition(cls, *_: Any, **__: Any) -> None:
        """Nothing to make: bodies are decoded straight into their type."""

    @classmethod
    def create_openapi_schema(
        cls,
        field_definition: FieldDefinition,
        handler_id: str,  # noqa: ARG003  # Litestar's signature
        schema_creator: Any,
    ) -> Reference | Schema:
        """The schema of the annotated type."""
        return schema_creator.for_field_definition(field_definition)

    @classmethod
    def is_supported_model_type_field(cls, field_definition: FieldDefinition) -> bool:
        """Bodies only: answers are encoded as they are."""
        return field_definition.name == "data"


def read_json(body: bytes, body_type: Any) -> Any:
    """Decode a body strictly.

    Raises:
        InvalidInput: not JSON, or not of this type; names the place.
    """
    try:
        return _decoder(body_type).decode(body)
    except msgspec.ValidationError as error:
        raise refusal(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise InvalidInput("the body is not JSON", remedy="send one JSON value in UTF-8") from None


async def yaml_body(request: Request[object, object, State]) -> str:
    """The YAML file that a request carries.

    Raises:
        InvalidPlan: not UTF-8.
        HTTPException: sent as something else than YAML, or too large.
    """
    require_media_type(request.headers.get("content-type", ""), _YAML)
    try:
        return (await request.body()).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InvalidPlan("not UTF-8 text", remedy="save the file as UTF-8") from None


YamlFile = NamedDependency[str]
"""How a handler asks for the YAML file that was sent."""


@dataclass
class YamlOperation(Operation):
    """Describes a route whose body is a YAML file."""

    def __post_init__(self) -> None:
        self.request_body = RequestBody(
            required=True,
            content={"application/yaml": OpenAPIMediaType(schema=Schema(type=OpenAPIType.STRING))},
        )


@dataclass
class SignedOperation(Operation):
    """Describes a route whose body is another's JSON, read as it was signed."""

    def __post_init__(self) -> None:
        self.request_body = RequestBody(
            required=True,
            content={"application/json": OpenAPIMediaType(schema=Schema(type=OpenAPIType.OBJECT))},
        )


@cache
def _decoder(body_type: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(body_type, strict=True)


def require_media_type(header: str, allowed: Collection[str]) -> str:
    """The media type that a header names, without its parameters.

    Raises:
        HTTPException: none of those that are allowed.
    """
    media_type = header.partition(";")[0].strip().lower()
    if media_type not in allowed:
        raise HTTPException(status_code=HTTP_415_UNSUPPORTED_MEDIA_TYPE)
    return media_type


def refusal(text: str) -> InvalidInput:
    """What msgspec found, in our words; its own can repeat what was sent."""
    place = _PLACE.search(text)
    at = place.group(1) if place else ""
    wrong = text[: place.start()] if place else text
    if missing := _MISSING.match(wrong):
        return InvalidInput(
            "a required field is missing",
            field=f"{at}.{missing.group(1)}".removeprefix("."),
            remedy="add it",
        )
    if wrong.startswith("Object contains unknown field"):
        return InvalidInput(
            "unknown field",
            field=at or None,
            remedy="remove it or correct its spelling; see /api/v1/openapi.json",
        )
    if wrong.endswith("got `float`"):
        return InvalidInput(
            "a number with a point or exponent would become a binary float",
            field=at or None,
            remedy='write it as text: "0.25"',
        )
    expected = _EXPECTED.match(wrong)
    return InvalidInput(
        "the value cannot be used",
        field=at or None,
        remedy=f"expected {expected.group(1)}" if expected else "see /api/v1/openapi.json",
    )
