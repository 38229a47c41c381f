"""Stripe's API description as checks: which operation a request names, whether its parameters are
known at every depth, whether an answer has the shape that Stripe promises.

Does not know any state: what an operation does is in `customers.py` and `invoices.py`.
"""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import jsonschema

from tests.fake_stripe.forms import Tree
from tests.fake_stripe.request_schema import Drift, Problem, RequestSchema

_FOLDER = Path(__file__).parent / "spec"
_FORM = "application/x-www-form-urlencoded"


class SpecViolation(AssertionError):
    """The fake itself answered what Stripe would not: a defect of the fake, never of its user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One row of the description: `template` is the path with its parameters in braces."""

    method: str
    template: str
    names: dict[str, str]

    @property
    def key(self) -> str:
        return f"{self.method} {self.template}"


class Spec:
    """The description, read once; the checks of an operation are built when first used."""

    def __init__(self, description: dict[str, Any], drift: dict[str, Any]) -> None:
        self._paths: dict[str, dict[str, Any]] = description["paths"]
        self._drift = drift
        self._schemas: dict[str, Any] = _json_schema(description["components"]["schemas"])
        self._patterns = [(_pattern(template), template) for template in self._paths]
        self._requests: dict[str, RequestSchema] = {}
        self._answers: dict[tuple[str, bool], Any] = {}

    def find(self, method: str, path: str) -> Operation | None:
        """The operation that a request line names, or None.

        A literal path wins over a templated one, as `/v1/invoices/search` over
        `/v1/invoices/{invoice}`.
        """
        hits = [(hit, name) for pattern, name in self._patterns if (hit := pattern.fullmatch(path))]
        for hit, template in sorted(hits, key=lambda pair: pair[1].count("{")):
            if method.lower() in self._paths[template]:
                names = {name: unquote(text) for name, text in hit.groupdict().items()}
                return Operation(method=method, template=template, names=names)
        return None

    def check_request(
        self, operation: Operation, tree: dict[str, Tree]
    ) -> tuple[dict[str, Any], list[Problem]]:
        """Typed parameters and the reasons to refuse them."""
        if operation.key not in self._requests:
            self._requests[operation.key] = self._request_schema(operation)
        return self._requests[operation.key].check(tree)

    def check_answer(self, operation: Operation, status: int, answer: object) -> None:
        """Raises SpecViolation if Stripe's description does not allow this answer."""
        validator = self._answer_validator(operation, error=status >= 400)
        for problem in validator.iter_errors(answer):
            where = "/".join(str(part) for part in problem.absolute_path)
            raise SpecViolation(f"{operation.key} {status}: {where}: {problem.message[:300]}")
        if status < 400:
            for name in self._unknown_fields(answer):
                raise SpecViolation(f"{operation.key} {status}: unknown field {name}")

    def _request_schema(self, operation: Operation) -> RequestSchema:
        described = self._paths[operation.template][operation.method.lower()]
        if operation.method == "POST":
            schema = described["requestBody"]["content"][_FORM]["schema"]
        else:
            query = [p for p in described.get("parameters", ()) if p["in"] == "query"]
            schema = {
                "type": "object",
                "properties": {p["name"]: p["schema"] for p in query},
                "required": [p["name"] for p in query if p.get("required")],
            }
        drift = self._drift["requests"].get(operation.key, {})
        enums = drift.get("enum", {})
        return RequestSchema(
            schema,
            Drift(
                added=frozenset(drift.get("added", ())),
                removed=frozenset(drift.get("removed", ())),
                enum_added={path: frozenset(change["added"]) for path, change in enums.items()},
            ),
        )

    def _answer_validator(self, operation: Operation, *, error: bool) -> Any:
        key = operation.key, error
        if key not in self._answers:
            described = self._paths[operation.template][operation.method.lower()]["responses"]
            answer = described["default" if error else "200"]
            schema = _json_schema(answer["content"]["application/json"]["schema"])
            self._answers[key] = jsonschema.Draft202012Validator(
                {**schema, "components": {"schemas": self._schemas}}
            )
        return self._answers[key]

    def _unknown_fields(self, answer: Any) -> list[str]:
        """Fields of known objects that the description lacks: a misspelling in the fake."""
        if isinstance(answer, list):
            return [name for item in answer for name in self._unknown_fields(item)]
        if not isinstance(answer, dict):
            return []
        found: list[str] = []
        kind = answer.get("object")
        # An event's data has a member `object` that is itself an object.
        if isinstance(kind, str) and "deleted" not in answer and kind in self._schemas:
            known = set(self._schemas[kind]["properties"])
            known |= set(self._drift["responses"].get(kind, {}).get("added", ()))
            found = [f"{kind}.{name}" for name in answer if name not in known]
        return found + [name for child in answer.values() for name in self._unknown_fields(child)]


def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", template))


def _json_schema(node: Any) -> Any:
    """OpenAPI 3.0 to JSON Schema: `nullable` is no keyword there and would be ignored."""
    if isinstance(node, list):
        return [_json_schema(item) for item in node]
    if not isinstance(node, dict):
        return node
    converted = {name: _json_schema(child) for name, child in node.items() if name != "nullable"}
    if node.get("nullable") is not True:
        return converted
    return {"anyOf": [converted, {"type": "null"}]}


@functools.cache
def load() -> Spec:
    """The description that lies beside this module."""
    description = json.loads((_FOLDER / "openapi.subset.json").read_text(encoding="utf-8"))
    drift = json.loads((_FOLDER / "sdk-16.1.0-drift.json").read_text(encoding="utf-8"))
    return Spec(description, drift)
