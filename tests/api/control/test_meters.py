"""Meters over the operator's API."""

from __future__ import annotations

import httpx

YAML = {"content-type": "application/yaml"}
METER = """
code: gpu.peak
unit: GPUs
event_type: gpu.level
value: data.gpus
aggregation: max
"""


def test_meters_are_versions_of_yaml_files(operator: httpx.Client):
    first = operator.post("operator/meters", content=METER, headers=YAML).raise_for_status().json()
    again = operator.post("operator/meters", content=METER, headers=YAML).raise_for_status().json()
    assert (first["created"], again["created"]) == (True, False)
    changed = METER.replace("data.gpus", "data.cards")
    second = operator.post("operator/meters", content=changed, headers=YAML).json()
    assert (second["version"], second["state"]) == (2, "mergeable")
    shown = operator.get("operator/meters/gpu.peak").raise_for_status().json()
    assert [(each["version"], each["value"]) for each in shown] == [
        (1, "data.gpus"),
        (2, "data.cards"),
    ]
    listed = operator.get("operator/meters").raise_for_status().json()
    assert [each["built_in"] for each in listed if each["code"] == "tokens.input"] == [True]


def test_refused_meters_name_the_field(operator: httpx.Client, tenant: httpx.Client):
    refused = operator.post("operator/meters", content=METER + "colour: red\n", headers=YAML)
    assert (refused.status_code, refused.json()["field"]) == (400, "colour")
    built_in = METER.replace("gpu.peak", "tokens.input")
    refused = operator.post("operator/meters", content=built_in, headers=YAML)
    assert (refused.status_code, refused.json()["field"]) == (400, "unit")
    assert operator.get("operator/meters/nothing").status_code == 404
    assert tenant.post("operator/meters", content=METER, headers=YAML).status_code == 403
