"""Files pass both ways as they are, as they come, and only to whom they belong."""

from __future__ import annotations

import asyncio
import contextlib
import json

import httpx
import pytest

from api.proxy.limits import Limits
from tests.api.proxy.conftest import BLIND_KEY, KEY, until
from tests.api.proxy.stored.conftest import file_of, request_line
from tests.fake_engine.files_shapes import uploaded

CONTENT = bytes(range(256)) * 5_000 + "ü€\r\n--x\n".encode()
FORM = b'--b\r\ncontent-disposition: form-data; name="file"; filename="x"\r\n\r\nabc\r\n--b--\r\n'


async def test_a_file_passes_both_ways_untouched(keep):
    answer = await keep.upload(CONTENT)
    assert answer.status_code == 200, answer.text
    assert answer.content.startswith(b"{\n ")  # the backend's own bytes
    (asked,) = keep.first.asked
    assert uploaded(asked.body) == CONTENT
    assert asked.headers["authorization"] == "Bearer secret"
    assert KEY not in str(asked.headers)
    file_id = answer.json()["id"]
    assert (await keep.mine.get(f"/v1/files/{file_id}")).json()["bytes"] == len(CONTENT)
    content = await keep.mine.get(f"/v1/files/{file_id}/content")
    assert content.content == CONTENT
    assert content.headers["x-steelyard-request-id"].startswith("req_")
    assert keep.journal.records == []


async def test_a_file_whose_length_is_not_known_passes_in_chunks(keep):
    form = FORM.replace(b"abc", CONTENT)

    async def parts():
        for start in range(0, len(form), 50_000):
            yield form[start : start + 50_000]

    headers = {"content-type": "multipart/form-data; boundary=b"}
    answer = await keep.mine.post("/v1/files", content=parts(), headers=headers)
    assert answer.status_code == 200, answer.text
    assert keep.first.asked[0].headers["transfer-encoding"] == "chunked"
    assert keep.first.asked[0].body == form


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_file_beyond_the_cap_is_refused_and_none_of_it_is_kept(open_keep, chunked):
    keep = await open_keep(Limits(file_bytes=100_000, drain_ms=2_000))

    async def parts():
        for _ in range(20):
            yield b"x" * 10_000

    content = parts() if chunked else b"x" * 200_000
    headers = {"content-type": "multipart/form-data; boundary=b"}
    answer = await keep.mine.post("/v1/files", content=content, headers=headers)
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "request_too_large"
    await keep.settled()
    assert keep.first.asked == []
    assert keep.first.files == {}


async def test_a_file_is_never_whole_in_memory(keep):
    """While the backend reads nothing, neither does the proxy."""
    keep.first.reads.clear()
    client = await keep.raw()
    total = 64 << 20
    await client.send(
        b"POST /v1/files HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\n"
        b"content-type: multipart/form-data; boundary=b\r\ncontent-length: %d\r\n\r\n"
        % (KEY.encode(), total)
    )
    sent = 0
    with contextlib.suppress(TimeoutError):
        while sent < total:
            client.writer.write(bytes(1 << 18))
            sent += 1 << 18
            async with asyncio.timeout(1):
                await client.writer.drain()
    assert sent < total // 2, "what nobody reads was taken"
    keep.first.reads.set()
    while sent < total:
        client.writer.write(bytes(1 << 18))
        await client.writer.drain()
        sent += 1 << 18
    await until(lambda: keep.first.received == total)


async def test_a_client_that_leaves_in_the_middle_leaves_no_file(keep):
    client = await begun_upload(keep)
    client.leave()
    await keep.settled()
    assert keep.first.asked == []
    assert keep.bindings.bound == {}


async def begun_upload(keep):
    """A raw client that has sent the half of a file, which the backend has."""
    client, before = await keep.raw(), keep.first.received
    await client.send(
        b"POST /v1/files HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\n"
        b"content-type: multipart/form-data; boundary=b\r\ncontent-length: %d\r\n\r\n%b"
        % (KEY.encode(), len(FORM), FORM[:40])
    )
    await until(lambda: keep.first.received == before + 40)
    return client


@pytest.mark.parametrize("bound", [{"upload_ms": 200}, {"body_ms": 200}])
async def test_a_file_that_does_not_arrive_is_given_up(open_keep, bound):
    keep = await open_keep(Limits(drain_ms=2_000, **bound))
    client = await begun_upload(keep)
    assert (await client.rest()).startswith(b"HTTP/1.1 408")
    await keep.settled()
    assert keep.first.asked == []
    assert keep.first.files == {}


@pytest.mark.parametrize("says", [b"HTTP/1.1 400 X\r\ncontent-length: 2\r\n\r\nno", b""])
async def test_a_backend_that_wants_no_more_is_heard_while_the_client_is_silent(keep, says):
    client = await begun_upload(keep)
    (writer,) = keep.first.writers
    writer.write(says)
    writer.close()
    status = b"400" if says else b"502"
    assert (await client.rest()).startswith(b"HTTP/1.1 " + status)


async def test_a_stop_waits_for_uploads_and_then_cuts_them(open_keep):
    keep = await open_keep(Limits(drain_ms=400))
    first, second = await begun_upload(keep), await begun_upload(keep)
    stopping = asyncio.create_task(keep.app.drain())
    await asyncio.sleep(0.05)
    assert (await keep.upload()).status_code == 503
    await first.send(FORM[40:])
    assert (await first.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    await stopping
    await keep.settled()
    assert (await second.until(b"\r\n")).startswith(b"HTTP/1.1 503")
    assert len(keep.first.asked) == 1


async def test_a_client_that_waits_to_be_asked_is_asked(keep):
    client = await keep.raw()
    await client.send(
        b"POST /v1/files HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\n"
        b"expect: 100-continue\r\ncontent-type: multipart/form-data; boundary=b\r\n"
        b"content-length: %d\r\n\r\n" % (KEY.encode(), len(FORM))
    )
    assert await client.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    await client.send(FORM)
    assert (await client.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    assert list(keep.first.files.values()) == [b"abc"]


async def test_not_more_requests_than_the_limit_wait_at_once(open_keep):
    keep = await open_keep(Limits(drain_ms=2_000, stored_in_flight=1))
    client = await begun_upload(keep)
    assert (await keep.mine.get("/v1/files")).status_code == 503
    client.leave()
    await keep.settled()
    assert (await keep.mine.get("/v1/files")).status_code == 200


async def test_a_content_that_breaks_off_is_seen_to(keep):
    file_id = (await keep.upload(CONTENT)).json()["id"]
    keep.first.breaks_at = 1_000
    with pytest.raises(httpx.RemoteProtocolError):
        await keep.mine.get(f"/v1/files/{file_id}/content")


async def test_a_backend_that_refuses_a_file_is_heard(keep):
    keep.first.status = 400
    answer = await keep.upload()
    assert answer.status_code == 400
    assert answer.json() == {"error": {"message": "gone"}}
    assert keep.bindings.bound == {}


async def test_a_backends_answer_about_our_credential_is_not_the_clients(keep):
    file_id = (await keep.upload()).json()["id"]
    keep.first.status = 401
    for answer in (await keep.upload(), await keep.mine.get(f"/v1/files/{file_id}/content")):
        assert answer.status_code == 502
        assert answer.json()["error"]["code"] == "upstream_error"


async def test_a_new_file_goes_where_the_client_says(keep):
    assert (await keep.upload()).headers["x-engine"] == "a"
    answer = await keep.upload(**{"x-steelyard-model": "solo"})
    assert answer.headers["x-engine"] == "b"
    file_id = answer.json()["id"]
    assert (await keep.mine.get(f"/v1/files/{file_id}")).headers["x-engine"] == "b"
    refused = await keep.upload(**{"x-steelyard-model": "chat"})
    assert refused.status_code == 404


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"authorization": ""}, 401),
        ({"authorization": f"Bearer {KEY}x"}, 401),
        ({"authorization": f"Bearer {BLIND_KEY}"}, 403),
        ({"content-type": "application/json"}, 400),
        ({"content-type": "multipart/form-data; boundary=b", "content-encoding": "gzip"}, 400),
    ],
)
async def test_no_file_reaches_a_backend_without_a_key(keep, headers, status):
    answer = await keep.mine.post("/v1/files", content=b"x", headers=headers)
    assert answer.status_code == status, answer.text
    assert keep.asked == []


async def test_a_deleted_file_is_nobodys(keep):
    file_id = (await keep.upload()).json()["id"]
    answer = await keep.mine.delete(f"/v1/files/{file_id}")
    assert answer.json() == {"id": file_id, "object": "file", "deleted": True}
    asked = len(keep.asked)
    assert (await keep.mine.get(f"/v1/files/{file_id}")).status_code == 404
    assert (await keep.mine.delete(f"/v1/files/{file_id}")).status_code == 404
    assert len(keep.asked) == asked


async def test_a_file_with_results_that_are_not_billed_is_not_deleted(keep):
    file_id = (await keep.upload()).json()["id"]
    keep.bindings.awaited.add(file_id)
    answer = await keep.mine.delete(f"/v1/files/{file_id}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "conflict")
    assert file_id in keep.first.files
    keep.bindings.awaited.clear()
    assert (await keep.mine.delete(f"/v1/files/{file_id}")).status_code == 200


async def test_a_file_that_could_not_be_deleted_stays(keep):
    file_id = (await keep.upload()).json()["id"]
    keep.first.status = 500
    assert (await keep.mine.delete(f"/v1/files/{file_id}")).status_code == 500
    keep.first.status = 200
    assert (await keep.mine.get(f"/v1/files/{file_id}")).status_code == 200


async def test_lists_show_the_tenants_own_objects_page_by_page(keep):
    mine = [(await keep.upload()).json()["id"] for _ in range(5)]
    await keep.upload(client=keep.theirs)
    seen: list[str] = []
    more = True
    while more:
        query = {"limit": "2"} | ({"after": seen[-1]} if seen else {})
        shown = (await keep.mine.get("/v1/files", params=query)).json()
        assert shown["object"] == "list"
        ids = [row["id"] for row in shown["data"]]
        assert (shown["first_id"], shown["last_id"]) == (ids[0], ids[-1])
        seen += ids
        more = shown["has_more"]
    assert seen == mine[::-1]
    oldest = (await keep.mine.get("/v1/files", params={"order": "asc"})).json()
    assert [row["id"] for row in oldest["data"]] == mine
    assert "/v1/files" not in [asked.target for asked in keep.first.asked if asked.method == "GET"]


async def test_a_list_leaves_out_what_the_backend_no_longer_has(keep):
    ids = [(await keep.upload()).json()["id"] for _ in range(4)]
    for gone in ids[1:]:
        del keep.first.files[gone]
    shown = (await keep.mine.get("/v1/files", params={"limit": "2"})).json()
    assert [row["id"] for row in shown["data"]] == ids[:1], "an empty page would look like the end"
    assert shown["has_more"] is False


async def test_a_list_of_a_purpose_shows_those_files_only_however_far_apart(keep):
    ids = [(await keep.upload()).json()["id"] for _ in range(6)]
    keep.first.purposes = dict.fromkeys((ids[0], ids[5]), "batch_output")
    seen: list[str] = []
    more = True
    while more:
        query = {"limit": "2", "purpose": "batch_output"} | ({"after": seen[-1]} if seen else {})
        shown = (await keep.mine.get("/v1/files", params=query)).json()
        assert shown["data"], "an empty page would look like the end"
        seen += [row["id"] for row in shown["data"]]
        more = shown["has_more"]
    assert seen == [ids[5], ids[0]]
    nothing = (await keep.mine.get("/v1/files", params={"purpose": "vision"})).json()
    assert (nothing["data"], nothing["has_more"]) == ([], False)
    refused = await keep.mine.get("/v1/batches", params={"purpose": "batch"})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "purpose"


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=101", "limit=x", "after=a/b", "purpose[]=batch", "order=up", "x"]
)
async def test_a_list_takes_no_other_parameter(keep, query):
    answer = await keep.mine.get(f"/v1/files?{query}")
    assert answer.status_code == 400, answer.text
    assert query not in answer.text


async def test_a_batch_makes_its_files_its_tenants(keep):
    file_id = (await keep.upload(file_of(request_line()))).json()["id"]
    batch_id = (await keep.submit(file_id)).json()["id"]
    output = keep.first.end(batch_id, b'{"custom_id":"1"}\n')
    assert (await keep.mine.get(f"/v1/files/{output}")).status_code == 404  # not yet seen
    shown = await keep.mine.get(f"/v1/batches/{batch_id}")
    assert json.loads(shown.content)["output_file_id"] == output
    assert (await keep.mine.get(f"/v1/files/{output}/content")).content == b'{"custom_id":"1"}\n'
    assert (await keep.theirs.get(f"/v1/files/{output}/content")).status_code == 404
