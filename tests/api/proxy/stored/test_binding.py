"""Ids that backends issue: nobody reaches an object by an id that is not bound to its tenant (T1).

The proxy keeps no objects for tenants, so that no id is bound to anybody: every one is foreign.
"""

from __future__ import annotations

import pytest

IDS = ("resp_1", "file-1", "batch_1", "resp_" + "0" * 48)

PATHS = [
    ("GET", "/v1/responses/{id}"),
    ("DELETE", "/v1/responses/{id}"),
    ("GET", "/v1/responses/{id}/input_items"),
    ("POST", "/v1/responses/{id}/cancel"),
    ("GET", "/v1/files/{id}"),
    ("DELETE", "/v1/files/{id}"),
    ("GET", "/v1/files/{id}/content"),
    ("GET", "/v1/batches/{id}"),
    ("POST", "/v1/batches/{id}/cancel"),
]


@pytest.mark.parametrize(("method", "path"), PATHS)
async def test_T1_a_foreign_id_is_404_before_dispatch_in_a_path(yard, method, path):
    answers = [await yard.http.request(method, path.format(id=object_id)) for object_id in IDS]
    assert {answer.status_code for answer in answers} == {404}
    assert len({answer.content for answer in answers}) == 1  # no id looks different from another
    assert yard.engine.served == []
    assert yard.journal.records == []


@pytest.mark.parametrize(
    "reference",
    [
        lambda object_id: {"previous_response_id": object_id, "input": "hi"},
        lambda object_id: {
            "input": [
                {"role": "user", "content": [{"type": "input_file", "file_id": object_id}]},
            ]
        },
        lambda object_id: {
            "input": [
                {"role": "user", "content": [{"type": "input_image", "file_id": object_id}]},
            ]
        },
    ],
    ids=["previous_response_id", "input_file_id", "input_image_id"],
)
async def test_T1_a_foreign_id_is_404_before_dispatch_in_a_body(yard, reference):
    answers = [
        await yard.http.post("/v1/responses", json={"model": "tiny", **reference(object_id)})
        for object_id in IDS
    ]
    assert {answer.status_code for answer in answers} == {404}
    assert len({answer.content for answer in answers}) == 1
    assert yard.engine.served == []
    assert yard.journal.records == []


async def test_backends_are_told_to_keep_no_response(yard):
    """What nobody can ask for again is not to lie there."""
    for asked in ({}, {"store": True}, {"store": False}):
        await yard.http.post("/v1/responses", json={"model": "tiny", "input": "hi", **asked})
    assert [served.body["store"] for served in yard.engine.served] == [False] * 3
