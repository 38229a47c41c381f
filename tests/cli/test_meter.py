"""`steelyard meter`: define from files, list, show."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from billing.operations.metering.compiled_meters import load_meters
from billing.planfiles.plan_file import EXAMPLES
from billing.store.database import Database, Role

METER = """
code: gpu.hours
unit: GPU hours
event_type: gpu.level
value: data.gpus
aggregation: time_weighted_sum
where: {region: eu}
filter: data.gpus < 1000
dimensions:
  - {name: size, path: data.gpus, edges: [8, "64"]}
effective_from: "2026-11-01T00:00:00Z"
"""

SCAN = """
code: scans
unit: pages
event_type: scan
value: data.pages
aggregation: sum
dimensions:
  - {name: size, path: data.pages, edges: [10]}
effective_from: "2026-01-01T00:00:00Z"
"""


def test_a_meter_is_defined_listed_and_shown(steelyard, tmp_path: Path):
    path = tmp_path / "gpu.yaml"
    path.write_text(METER)
    (first,) = steelyard("meter", "define", str(path), "--json").document["meters"]
    (again,) = steelyard("meter", "define", str(path), "--json").document["meters"]
    assert (first["created"], again["created"]) == (True, False)
    shown = steelyard("meter", "show", "gpu.hours", "--json").document["meters"]
    assert shown == [{key: value for key, value in first.items() if key != "created"}]
    assert shown[0]["state"] == "raw"
    assert shown[0]["where"] == {"region": "eu"}
    assert shown[0]["dimensions"] == [{"name": "size", "path": "data.gpus", "edges": ["8", "64"]}]
    listed = steelyard("meter", "list").out
    assert "tokens.input" in listed
    assert "gpu.hours" in listed
    assert "bands at 8, 64" in steelyard("meter", "show", "gpu.hours").out


def test_a_refused_meter_names_file_line_and_field_and_stores_nothing(steelyard, tmp_path: Path):
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(METER)
    bad.write_text(METER.replace("gpu.hours", "gpu.other").replace("1000", "1e3"))
    refused = steelyard("meter", "define", str(good), str(bad), "--json")
    assert refused.status == 1
    assert refused.error["file"].endswith("bad.yaml")
    assert (refused.error["line"], refused.error["field"]) == (8, "filter")
    assert steelyard("meter", "show", "gpu.hours", "--json").error["code"] == "not_found"


def test_usage_is_split_by_a_dimension_and_says_what_was_read(steelyard, tmp_path: Path):
    path = tmp_path / "scan.yaml"
    path.write_text(SCAN)
    steelyard("meter", "define", str(path))
    steelyard("entity", "create", "foundry", "--name", "F", "--country", "US", "--currency", "USD")
    steelyard("tenant", "create", "acme", "--name", "Acme")
    row = (
        '{"source": "s", "id": "1", "meter": "scans", "quantity": 3, '
        f'"occurred_at": "{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"}}\n'
    )
    steelyard("usage", "import", "-", "--tenant", "acme", stdin=row)
    asked = ("usage", "show", "--tenant", "acme", "--by", "key,dimension:size", "--group", "none")
    shown = steelyard(*asked, "--json").document
    assert shown["by"] == ["key", "dimension:size"]
    (found,) = shown["usage"]
    assert {name: found[name] for name in ("meter", "value", "quantity", "level")} == {
        "meter": "scans",
        "value": "none",
        "quantity": "3",
        "level": "rollup",
    }
    assert "rollup" in steelyard(*asked).out
    for name in ("meter", "model", "project", "key"):
        assert steelyard(*asked, f"--{name}", "", "--json").document["usage"] == []
    assert steelyard(*asked, "--meter", "scans", "--json").document == shown
    refused = steelyard("usage", "show", "--tenant", "acme", "--by", "weather", "--json")
    assert refused.error["field"] == "by"


def test_the_examples_can_be_defined_and_read_events(steelyard, database: Database):
    paths = sorted(map(str, EXAMPLES.joinpath("meters").glob("*.yaml")))
    stored = steelyard("meter", "define", *paths, "--json").document["meters"]
    assert len({each["code"] for each in stored}) == len(paths)
    assert {"active.users", "context.tokens", "batch.minutes"} <= {each["code"] for each in stored}
    later = datetime(2200, 1, 1, tzinfo=UTC)
    request = {"tokens": 7, "region": "eu", "context_length": 8000, "user_id": "u-1"}
    with database.transaction(Role.OPERATOR) as connection:
        meters = load_meters(connection)
    users, tokens = meters.match("llm.request", request, later)
    assert users.code == "active.users"
    assert (tokens.quantity, tokens.dimensions) == (7, (("context", "8000..32000"),))
    (batch,) = meters.match("batch.finished", {"minutes": 61, "state": "done"}, later)
    assert batch.quantity == 61
    assert meters.match("batch.finished", {"minutes": 61, "state": "failed"}, later) == ()
    assert meters.match("batch.finished", {"minutes": 60, "state": "done"}, later) == ()
