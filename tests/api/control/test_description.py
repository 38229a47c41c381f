"""The committed API description is what the routes say."""

from __future__ import annotations

import inspect

import pytest

from api import openapi
from tests.api.control.conftest import Plane

METHODS = {"get", "post", "put", "delete", "patch"}


def test_the_committed_document_is_the_served_one(plane: Plane):
    with plane.client() as client:
        served = client.get("openapi.json").raise_for_status()
    assert served.headers["content-type"].startswith("application/json")
    assert served.text == openapi.COMMITTED.read_text(encoding="utf-8")


def test_check_notices_a_difference(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(openapi, "COMMITTED", tmp_path / "steelyard.json")
    with pytest.raises(SystemExit, match=r"python -m api\.openapi"):
        openapi.main(["--check"])
    openapi.main([])
    openapi.main(["--check"])
    openapi.COMMITTED.write_text("{}")
    with pytest.raises(SystemExit):
        openapi.main(["--check"])


def test_no_description_keeps_the_indent_of_its_docstring():
    schemas = openapi.document()["components"]["schemas"]
    texts = [schema["description"] for schema in schemas.values() if "description" in schema]
    assert [text for text in texts if text != inspect.cleandoc(text)] == []
    assert any("\n" in text for text in texts)


def test_every_operation_says_how_it_refuses_and_which_key_it_wants():
    document = openapi.document()
    assert document["components"]["securitySchemes"]["BearerKey"]["scheme"] == "bearer"
    operations = [
        (path, operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if method in METHODS
    ]
    for path, operation in operations:
        assert operation["responses"]["default"] == {"$ref": "#/components/responses/Problem"}
        guarded = path.startswith("/api/v1/") and "hooks" not in path
        assert ("security" in operation) == guarded, path
        assert ("401" in operation["responses"]) == guarded, path
        assert operation["summary"]
        assert operation["tags"]
    ids = [operation["operationId"] for _, operation in operations]
    assert len(ids) == len(set(ids)) > 35


def test_no_amount_is_described_as_a_number():
    schemas = openapi.document()["components"]["schemas"]
    numbers = {
        (name, member)
        for name, schema in schemas.items()
        for member, described in schema.get("properties", {}).items()
        if "number" in str(described.get("type"))
    }
    assert numbers == set()


def test_yaml_bodies_are_described():
    paths = openapi.document()["paths"]
    for path in ("/api/v1/operator/plans", "/api/v1/operator/costs"):
        assert "application/yaml" in paths[path]["post"]["requestBody"]["content"]
