"""A process that dies between binding an id and telling it leaves nothing to be misused, and one
that dies when a backend has taken a batch leaves it to be found."""

from __future__ import annotations

import asyncio
import sys
from datetime import datetime, timedelta
from pathlib import Path

import httpx
import pytest

from api.proxy.app import create_app
from api.proxy.control.bindings import Bindings
from api.proxy.control.snapshots import utc_now
from api.proxy.server import serving
from billing.operations.metering.ask_batch import batch_client
from billing.operations.metering.find_batch import BatchFinder
from billing.planfiles.backend_file import BackendSpec
from billing.store.database import Database, Role, query
from tests.api.proxy.conftest import KEY, MemoryControl, MemoryJournal
from tests.api.proxy.stored.conftest import OTHER_KEY, TENANT, file_of, request_line, snapshot_of
from tests.fake_engine.files_shapes import keeping_engine


@pytest.mark.parametrize("made", ["file", "response", "stream"])
async def test_kill_9_after_bind_leaves_an_id_that_only_its_tenant_could_use(
    database: Database, tmp_path: Path, made: str
):
    url = database.engine.url.render_as_string(hide_password=False)
    async with keeping_engine("a") as first, keeping_engine("b") as second:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tests.api.proxy.stored.dying_proxy"),
            *(first.base_url, second.base_url, url, str(tmp_path), "bind"),
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        port = int(await process.stdout.readline())
        headers = {"authorization": f"Bearer {KEY}"}
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers) as http:
            asking = http.post("/v1/files", files={"file": ("x", b"{}\n")})
            if made != "file":
                asking.close()
                body = {"model": "tiny", "input": "hi", "stream": made == "stream"}
                asking = http.post("/v1/responses", json=body)
            with pytest.raises(httpx.TransportError):
                await asking
        assert await process.wait() == -9
        with database.transaction(Role.OPERATOR) as connection:
            (row,) = query(connection, "SELECT tenant_id, object_id, kind FROM backend_object")
        assert row.tenant_id == TENANT
        bindings = Bindings(database, now=utc_now)
        control = MemoryControl(snapshot_of(first.base_url, second.base_url))
        app = create_app(control, MemoryJournal(), bindings=bindings)
        async with (
            serving(app) as port,
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http,
        ):
            path = f"/v1/{row.kind}s/{row.object_id}"
            for key, status in ((KEY, 200), (OTHER_KEY, 404)):
                answer = await http.get(path, headers={"authorization": f"Bearer {key}"})
                assert answer.status_code == status
        bindings.close()


async def test_L5_kill_9_when_a_backend_has_taken_a_batch_leaves_it_to_be_found_and_billed(
    database: Database, tmp_path: Path
):
    url = database.engine.url.render_as_string(hide_password=False)
    async with keeping_engine("a") as first, keeping_engine("b") as second:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tests.api.proxy.stored.dying_proxy"),
            *(first.base_url, second.base_url, url, str(tmp_path), "record"),
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        port = int(await process.stdout.readline())
        headers = {"authorization": f"Bearer {KEY}"}
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers) as http:
            files = {"file": ("x", file_of(request_line()))}
            file_id = (await http.post("/v1/files", files=files)).json()["id"]
            body = {"input_file_id": file_id, "endpoint": "/v1/chat/completions"}
            with pytest.raises(httpx.TransportError):
                await http.post("/v1/batches", json=body)
        assert await process.wait() == -9
        (batch_id,) = first.batches
        first.batches[batch_id]["created_at"] = int(utc_now().timestamp())
        assert runs(database) == [("intended", None)]
        spec = BackendSpec(name="a", url=first.base_url, engine="vllm", models=(), api_key="secret")
        at_once, later = utc_now(), utc_now() + timedelta(seconds=31)
        # A proxy that lives may still be recording it; and once found it is not found again.
        for when, found in ((at_once, (0, 0)), (later, (1, 0)), (later, (0, 0))):
            assert await asyncio.to_thread(look_for, database, spec, when) == found
        assert runs(database) == [("open", batch_id)]
        with database.transaction(Role.OPERATOR) as connection:
            (row,) = query(connection, "SELECT tenant_id FROM backend_object WHERE kind = 'batch'")
        assert row.tenant_id == TENANT


def look_for(database: Database, spec: BackendSpec, now: datetime) -> tuple[int, int]:
    with batch_client() as client:
        return BatchFinder(database=database, client=client, backends={spec.name: spec}).find(
            now=now
        )


def runs(database: Database) -> list[tuple[str, str | None]]:
    """State and the backend's id of every batch."""
    with database.transaction(Role.OPERATOR) as connection:
        rows = query(connection, "SELECT state, batch_id FROM batch_run ORDER BY submitted_at")
    return [(row.state, None if row.batch_id.startswith("req_") else row.batch_id) for row in rows]
