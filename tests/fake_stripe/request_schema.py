"""Strict check of a parameter tree against one request schema of Stripe's description.

Decides which parameters are known, at any depth, and turns text leaves into the types that the
schema names. Stripe closes only the root of its bodies; here every object is closed unless its
`additionalProperties` is a schema (metadata), because a misspelt nested parameter is dropped
silently by a lenient fake and refused by Stripe. It does not judge which combinations are legal.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.fake_stripe.forms import Tree

Schema = Mapping[str, Any]

_INTEGER = re.compile(r"^-?\d{1,18}$")
_DECIMAL = re.compile(r"^-?\d+(\.\d{1,12})?$")
_CURRENCY = re.compile(r"^[a-z]{3}$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One reason to refuse a request; `param` as Stripe writes it, `lines[0][amount]`."""

    param: str
    message: str
    code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """What the SDK's version of one operation has and the description lacks, or the reverse.

    Paths are dotted and skip array positions: `lines.tax_amounts.tax_rate_data.tax_type`.
    """

    added: frozenset[str] = frozenset()
    removed: frozenset[str] = frozenset()
    enum_added: Mapping[str, frozenset[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class _At:
    """Where in the tree the check stands: Stripe's spelling and the drift file's."""

    param: str
    dotted: str

    def member(self, name: str) -> _At:
        param = f"{self.param}[{name}]" if self.param else name
        return _At(param=param, dotted=f"{self.dotted}.{name}" if self.dotted else name)

    def item(self, index: int) -> _At:
        return _At(param=f"{self.param}[{index}]", dotted=self.dotted)

    def problem(self, message: str, code: str = "parameter_invalid") -> Problem:
        return Problem(param=self.param, message=message, code=code)


class RequestSchema:
    """One operation's parameters."""

    def __init__(self, schema: Schema, drift: Drift) -> None:
        self._schema = schema
        self._drift = drift

    def check(self, tree: dict[str, Tree]) -> tuple[dict[str, Any], list[Problem]]:
        """Typed parameters and the reasons to refuse them (empty: accepted)."""
        return self._object(tree, self._schema, _At(param="", dotted=""))

    def _value(self, node: Tree, schema: Schema, at: _At) -> tuple[Any, list[Problem]]:
        if "anyOf" in schema:
            return self._any_of(node, schema["anyOf"], at)
        match schema.get("type"):
            case "object":
                if not isinstance(node, dict):
                    return None, [at.problem("Invalid object")]
                return self._object(node, schema, at)
            case "array":
                return self._array(node, schema, at)
            case _:
                if not isinstance(node, str):
                    return None, [at.problem("Invalid value: expected one value, not several")]
                return self._leaf(node, schema, at)

    def _any_of(self, node: Tree, branches: list[Schema], at: _At) -> tuple[Any, list[Problem]]:
        closest: tuple[Any, list[Problem]] | None = None
        for branch in branches:
            typed, problems = self._value(node, branch, at)
            if not problems:
                return typed, []
            same_shape = isinstance(node, str) != (branch.get("type") in {"object", "array"})
            if closest is None or same_shape:
                closest = typed, problems
        return closest if closest is not None else (None, [at.problem("Invalid value")])

    def _object(
        self, node: dict[str, Tree], schema: Schema, at: _At
    ) -> tuple[dict[str, Any], list[Problem]]:
        properties: Schema = schema.get("properties", {})
        rest = schema.get("additionalProperties")
        typed: dict[str, Any] = {}
        problems = [
            at.member(name).problem("Missing required param", "parameter_missing")
            for name in schema.get("required", ())
            if name not in node
        ]
        for name, child in node.items():
            where = at.member(name)
            if where.dotted in self._drift.removed:
                problems.append(where.problem("Received unknown parameter", "parameter_unknown"))
            elif name in properties:
                typed[name], found = self._value(child, properties[name], where)
                problems += found
            elif isinstance(rest, dict):
                typed[name], found = self._value(child, rest, where)
                problems += found
            elif where.dotted in self._drift.added:
                typed[name] = child
            else:
                problems.append(where.problem("Received unknown parameter", "parameter_unknown"))
        return typed, problems

    def _array(self, node: Tree, schema: Schema, at: _At) -> tuple[Any, list[Problem]]:
        if not isinstance(node, list):
            return None, [at.problem("Invalid array")]
        typed: list[Any] = []
        problems: list[Problem] = []
        for index, child in enumerate(node):
            item, found = self._value(child, schema["items"], at.item(index))
            typed.append(item)
            problems += found
        return typed, problems

    def _leaf(self, text: str, schema: Schema, at: _At) -> tuple[Any, list[Problem]]:
        match schema.get("type"):
            case "integer":
                if not _INTEGER.match(text):
                    return None, [at.problem("Invalid integer", "parameter_invalid_integer")]
                return int(text), []
            case "boolean":
                if text not in {"true", "false"}:
                    return None, [at.problem("Invalid boolean")]
                return text == "true", []
            case "number":
                return text, [] if _DECIMAL.match(text) else [at.problem("Invalid decimal")]
            case _:
                return text, self._text_problems(text, schema, at)

    def _text_problems(self, text: str, schema: Schema, at: _At) -> list[Problem]:
        if "enum" in schema:
            allowed = {*schema["enum"], *self._drift.enum_added.get(at.dotted, ())}
            return [] if text in allowed else [at.problem("Invalid value: not one of the allowed")]
        if schema.get("format") == "decimal" and not _DECIMAL.match(text):
            return [at.problem("Invalid decimal")]
        if schema.get("format") == "currency" and not _CURRENCY.match(text):
            return [at.problem("Invalid currency")]
        if len(text) > schema.get("maxLength", len(text)):
            return [at.problem("Invalid string: too long", "parameter_invalid_string")]
        return []
