"""The API's description (OpenAPI 3.1), made from the routes.

`python -m api.openapi` writes the committed document, `--check` compares it. What the framework
cannot know is added here: that every refusal is a problem+json, and how a key is sent.
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

import msgspec
from litestar import Litestar
from litestar.di import Provide
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, License, SecurityScheme

from api.bodies import yaml_body
from api.errors import MEDIA_TYPE, Problem
from api.routes import make_routes

COMMITTED = Path(__file__).resolve().parent.parent / "openapi" / "steelyard.json"
VERSION = "1.0.0"

_DESCRIPTION = """\
Metering and billing of an AI factory: usage, invoices, keys and outcomes for tenants; plans,
contracts, invoicing, costs and exports for the operator and its finance team.

Amounts and quantities are text, exact to the last decimal. Instants are RFC 3339 in UTC. Every
refusal is an `application/problem+json` with a stable `code`, the `field` at fault and a `remedy`.
"""


@cache
def document_text() -> str:
    """The description as JSON text, always the same for the same routes."""
    return json.dumps(document(), indent=2, sort_keys=True) + "\n"


def document() -> dict[str, Any]:
    """The description of all routes."""
    described = Litestar(
        make_routes(),
        dependencies={
            "yaml_file": Provide(yaml_body),
            **{
                # What only a running app has; no route is called here.
                name: Provide(lambda: None, sync_to_thread=False)
                for name in ("deployment", "metrics", "caller", "tenant_caller")
            },
        },
        openapi_config=OpenAPIConfig(
            title="Steelyard",
            version=VERSION,
            description=_DESCRIPTION,
            license=License(name="Apache-2.0", identifier="Apache-2.0"),
            render_plugins=[JsonRenderPlugin()],
            components=Components(
                security_schemes={
                    "BearerKey": SecurityScheme(
                        type="http", scheme="bearer", description="An API key: `sk-sy-…`."
                    )
                }
            ),
        ),
        logging_config=None,
    )
    made = cast("dict[str, Any]", json.loads(json.dumps(described.openapi_schema.to_schema())))
    (_, schemas) = msgspec.json.schema_components(
        [Problem], ref_template="#/components/schemas/{name}"
    )
    for schema in schemas.values():
        # Python 3.13 and newer take the indent off docstrings themselves; 3.11 and 3.12 do not.
        schema["description"] = inspect.cleandoc(schema["description"])
    made["components"]["schemas"].update(schemas)
    made["components"]["responses"] = {
        "Problem": {
            "description": "Refused or failed; see `code`, `field` and `remedy`.",
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
    }
    for operation in _operations(made):
        _describe_problems(operation)
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Write or compare the committed document."""
    parser = argparse.ArgumentParser(prog="python -m api.openapi", description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    if not parser.parse_args(arguments).check:
        COMMITTED.parent.mkdir(exist_ok=True)
        COMMITTED.write_text(document_text(), encoding="utf-8")
    elif not COMMITTED.exists() or COMMITTED.read_text(encoding="utf-8") != document_text():
        sys.exit(f"{COMMITTED.name} is not what the routes say: run `python -m api.openapi`")


def _operations(made: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for path_item in made["paths"].values():
        yield from (operation for operation in path_item.values() if "responses" in operation)


def _describe_problems(operation: dict[str, Any]) -> None:
    """Put our one shape of errors in the place of the framework's."""
    answers = operation["responses"]
    answers.pop("400", None)
    for answer in answers.values():
        answer["description"] = operation["summary"]
    problem = {"$ref": "#/components/responses/Problem"}
    if "security" in operation:
        answers.update(dict.fromkeys(("401", "403"), problem))
    answers["default"] = problem


if __name__ == "__main__":
    main()
