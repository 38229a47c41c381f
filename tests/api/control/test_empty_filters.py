"""T2 on every list: a filter that is empty, or names nobody, never widens an answer to all.

The filters are read from the committed description of the API: a new one is tried unasked.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.control.conftest import Plane
from tests.world import MONTH_END, usage_report

DESCRIBED = Path(__file__).parents[3].joinpath("openapi", "steelyard.json")
HOW = {"by", "group"}
"""Parameters that say how an answer is cut, not what is in it."""
ROOM = {"legal_entity": "foundry", "tenant": "acme", "account": "accounts_receivable"}
"""Values that other parameters take while one is tried."""


def filters() -> Iterator[tuple[str, str, dict[str, str]]]:
    """(path, filter, other required parameters) of every list that can be narrowed."""
    paths: dict[str, Any] = json.loads(DESCRIBED.read_text())["paths"]
    for path, methods in paths.items():
        asked = [
            each for each in methods.get("get", {}).get("parameters", []) if each["in"] == "query"
        ]
        needed = {
            each["name"]: ROOM.get(each["name"], "USD") for each in asked if each.get("required")
        }
        for each in asked:
            if "integer" in json.dumps(each["schema"]) or each["name"] in HOW:
                continue
            others = {name: value for name, value in needed.items() if name != each["name"]}
            yield path.removeprefix("/api/v1/").replace("{tenant}", "acme"), each["name"], others


FILTERS = list(filters())


def rows(answer: httpx.Response) -> int:
    """How many rows an answer has, in all of its lists, or lines under the head of a table."""
    if "json" not in answer.headers["content-type"]:
        return max(0, len(answer.text.splitlines()) - 1)

    def counted(value: Any) -> int:
        match value:
            case list():
                return sum(1 + counted(each) for each in value if isinstance(each, dict))
            case dict():
                return sum(counted(each) for each in value.values())
            case _:
                return 0

    return counted(answer.json())


@pytest.fixture
def busy(plane: Plane) -> Plane:
    """Both tenants have usage, waiting reports, contracts and an invoice."""
    for tenant in (plane.acme, plane.bolt):
        plane.world.use(tenant, {"tokens.input": 5_000_000}, model="tiny")
        waits = usage_report(foreign_id="waits", meter="unknown", occurred_at=plane.world.now)
        assert [each.kind for each in plane.world.report(tenant, waits)] == ["parked"]
    plane.clock.now = MONTH_END
    with plane.client("operator") as client:
        for slug in ("acme", "bolt"):
            issued = client.post(
                f"operator/tenants/{slug}/invoices/issue", json={"period": "2026-11"}
            )
            issued.raise_for_status()
    plane.clock.now = plane.world.now
    return plane


def test_row_14_T2_an_empty_filter_answers_nothing_on_every_list(busy: Plane) -> None:
    assert len(FILTERS) > 30
    wide: list[tuple[str, str]] = []
    with busy.client("operator") as operator, busy.client("tenant") as tenant:
        for path, name, others in FILTERS:
            client = operator if operator.get(path).status_code != 403 else tenant
            for empty in ("", "nobody-there", "%", "*"):
                answer = client.get(path, params={**others, name: empty})
                assert answer.status_code < 500, (path, name, answer.text)
                if answer.status_code == 200 and rows(answer):
                    wide.append((path, f"{name}={empty!r}"))
    assert wide == []


def test_row_14_lists_that_name_a_tenant_have_nobody_elses_rows(busy: Plane) -> None:
    named = [(path, others) for path, name, others in FILTERS if name == "tenant"]
    assert len(named) >= 5
    with busy.client("operator") as operator:
        for path, others in named:
            everybody = operator.get(path, params=others)
            mine = operator.get(path, params={**others, "tenant": "bolt"})
            assert mine.status_code == 200, (path, mine.text)
            assert '"acme"' not in mine.text, path
            if others:
                continue
            assert '"acme"' in everybody.text, path
            assert 0 < rows(mine) < rows(everybody), path
