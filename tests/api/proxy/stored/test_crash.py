"""A process that dies between binding an id and telling it leaves nothing to be misused."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import httpx
import pytest

from api.proxy.app import create_app
from api.proxy.control.bindings import Bindings
from api.proxy.control.snapshots import utc_now
from api.proxy.server import serving
from billing.store.database import Database, Role, query
from tests.api.proxy.conftest import KEY, MemoryControl, MemoryJournal
from tests.api.proxy.stored.conftest import OTHER_KEY, TENANT, snapshot_of
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
            *(first.base_url, second.base_url, url, str(tmp_path)),
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
