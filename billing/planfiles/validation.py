"""From a file's plain values to a pydantic document, with errors that name line and field.

Decides: how a refused value is described. Messages never repeat the value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from billing.errors import InvalidPlan
from billing.planfiles.yaml_source import YamlPath, YamlSource


class Document(BaseModel):
    """Base of everything read from a file: no unknown fields, no conversions."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


DocumentT = TypeVar("DocumentT", bound=Document)

_LIST = "list[str]"
_FORMS = frozenset({_LIST, "OthersDocument"})
"""What pydantic calls the forms of a field that has several."""

_WORDING = {
    "missing": ("a required field is missing", "add it"),
    "extra_forbidden": ("unknown field", "remove it or correct its spelling"),
    "string_type": ("not text", "put it in quotes"),
    "int_type": ("not a whole number", "write plain digits without quotes"),
    "bool_type": ("neither true nor false", "write true or false"),
    "list_type": ("not a list", "write a list, one entry per line, each after a dash"),
    "dict_type": ("not a mapping", "write fields as name: value"),
    "model_type": ("not a mapping", "write fields as name: value"),
    "model_attributes_type": ("not a mapping", "write fields as name: value"),
}


def read_document(document_type: type[DocumentT], source: YamlSource) -> DocumentT:
    """Validate a file's content.

    Raises:
        InvalidPlan: the refused value that stands first in the file, with line and field.
    """
    found = validated(document_type, source)
    if isinstance(found, tuple):
        raise found[0]
    return found


def validated(
    document_type: type[DocumentT], source: YamlSource, *, currencies: Sequence[str] = ()
) -> DocumentT | tuple[InvalidPlan, ...]:
    """A file's document, or everything that is wrong with it, in the order of the file.

    Args:
        currencies: of a plan, first the one whose amounts are read where a field has one of each.
    """
    try:
        return document_type.model_validate(source.content, context={"currencies": currencies})
    except ValidationError as error:
        errors = error.errors(include_url=False)
        # Where a list may stand or a mapping, what is a mapping is not refused for being no list.
        refusals = [_refusal(source, details) for details in errors if not _other_form(details)]
    return tuple(sorted(refusals, key=lambda refusal: refusal.line or 0))


def _refusal(source: YamlSource, details: ErrorDetails) -> InvalidPlan:
    path = _existing_path(source, details["loc"])
    kind = details["type"]
    context = cast("Mapping[str, Any]", details.get("ctx", {}))
    if kind in {"union_tag_not_found", "union_tag_invalid"}:
        kinds = str(context.get("expected_tags", "")).replace("'", "")
        return source.refuse(
            "the kind is unknown" if kinds else "the kind is missing",
            path=(*path, str(context["discriminator"]).strip("'")),
            remedy=f"use one of {kinds}" if kinds else "add it",
        )
    if kind in {"literal_error", "enum"}:
        return source.refuse(
            "not one of the allowed values", path=path, remedy=f"use {context['expected']}"
        )
    if kind in _WORDING:
        message, remedy = _WORDING[kind]
        return source.refuse(message, path=path, remedy=remedy)
    return source.refuse(details["msg"], path=path, remedy=context.get("remedy"))


def _other_form(details: ErrorDetails) -> bool:
    return details["loc"][-1:] == (_LIST,) and isinstance(details["input"], dict)


def _existing_path(source: YamlSource, loc: tuple[int | str, ...]) -> YamlPath:
    """The path in the file.

    After the index of an entry that has kinds, pydantic also names the kind. That is no field of
    the file, even where the entry has a field of the same name (an `outcome` has an `outcome`).
    Of a value that may be written in two forms it names the form.
    """
    path: list[str | int] = []
    at: Any = source.content
    after_index = False
    for part in loc:
        if after_index and isinstance(at, dict) and cast("dict[str, Any]", at).get("type") == part:
            after_index = False
            continue
        if part in _FORMS and not (isinstance(at, dict) and part in at):
            continue
        path.append(part)
        after_index = isinstance(part, int)
        if isinstance(at, dict):
            at = cast("dict[str, Any]", at).get(str(part))
        elif isinstance(at, list) and isinstance(part, int):
            at = cast("list[Any]", at)[part]
    return tuple(path)
