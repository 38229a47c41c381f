"""P1 of stored objects: what a tenant keeps at a backend is written down nowhere on its way there.

A random text stands wherever a client can put one: in contents, names, metadata, ids and queries.
Then the journal, the database, the log, the metrics and the proxy's own words are searched for it.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from api.proxy.app import Proxy, create_app
from api.proxy.control.bindings import Bindings
from api.proxy.control.snapshots import utc_now
from api.proxy.limits import Limits
from api.proxy.server import serving
from billing.admission.route import ROUTES, Serving
from billing.journal.journal import Journal
from billing.store.database import Database, Role, query
from tests.api.proxy.conftest import KEY, MemoryControl
from tests.api.proxy.stored.conftest import file_of, request_line, snapshot_of
from tests.fake_engine.files_shapes import KeepingEngine, keeping_engine


@dataclass(slots=True)
class Vault:
    """A proxy with a journal on disk and bindings in a database."""

    engine: KeepingEngine
    app: Proxy
    http: httpx.AsyncClient
    database: Database
    journal: Path
    canary: str

    def found_in(self, content: bytes) -> bool:
        """Whether the part of the text stands in it that every way of writing it keeps."""
        part = self.canary.partition("/")[0].encode()
        return part in content or part.hex().encode() in content

    def rows(self) -> bytes:
        """Everything that the database has of stored objects."""
        with self.database.transaction(Role.OPERATOR) as connection:
            return b"\n".join(
                str(tuple(row)).encode()
                for table in ("backend_object", "batch_run")
                for row in query(connection, f"SELECT t::text FROM {table} t")
            )


@pytest.fixture
async def vault(
    database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> AsyncIterator[Vault]:
    caplog.set_level(logging.DEBUG)
    for name in ("httpx", "httpcore"):  # the test's own client
        logging.getLogger(name).setLevel(logging.WARNING)
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(keeping_engine())
        journal = await Journal.open(tmp_path / "journal")
        bindings = Bindings(database, now=utc_now)
        stack.callback(bindings.close)
        app = create_app(
            MemoryControl(snapshot_of(engine.base_url, engine.base_url)),
            journal,
            limits=Limits(drain_ms=1_000, file_bytes=200_000),
            bindings=bindings,
        )
        port = await stack.enter_async_context(serving(app))
        client = await stack.enter_async_context(
            httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{port}",
                headers={"authorization": f"Bearer {KEY}"},
                timeout=20,
                trust_env=False,
            )
        )
        canary = f"canary-{secrets.token_hex(16)}/ü"
        yield Vault(engine, app, client, database, tmp_path / "journal", canary)


def files(canary: str) -> Iterator[bytes]:
    """Files of requests, good and bad."""
    said = {"model": "tiny", "messages": [{"role": "user", "content": canary}]}
    yield file_of(request_line(body=said))
    yield file_of(request_line(canary, body=said))
    yield file_of(request_line(url=canary, body=said))
    yield file_of(request_line(body={**said, "model": canary}))
    yield file_of(request_line(body={**said, canary: 1}))
    yield file_of(request_line(body={**said, "max_tokens": canary}))
    yield canary.encode()
    yield canary.encode() * 10_000


async def everything_asked(vault: Vault) -> AsyncIterator[httpx.Response]:
    """Answers of every stored route to requests with the text in them."""
    canary, plain = vault.canary, vault.canary.encode("ascii", "ignore").decode()
    for content in files(canary):
        made = await vault.http.post(
            "/v1/files",
            files={"file": (canary, content)},
            data={"purpose": canary},
            headers={"user-agent": plain},
        )
        yield made
        if made.status_code == 200:
            for metadata in ({"note": canary}, {canary: canary}):
                yield await vault.http.post(
                    "/v1/batches",
                    json={
                        "input_file_id": made.json()["id"],
                        "endpoint": "/v1/chat/completions",
                        "metadata": metadata,
                    },
                )
    for members in ({"endpoint": canary}, {"input_file_id": canary}, {canary: 1}):
        body = {"input_file_id": "file-a1", "endpoint": "/v1/chat/completions", **members}
        yield await vault.http.post("/v1/batches", json=body)
    yield await vault.http.post("/v1/files", content=plain, headers={"content-type": plain})
    yield await vault.http.post("/v1/responses", json={"model": "tiny", "input": canary})
    body = {"model": "tiny", "input": canary, "previous_response_id": canary}
    yield await vault.http.post("/v1/responses", json=body)
    strange = plain.replace("/", "")
    for spec in ROUTES:
        if spec.serving is Serving.STORED:
            ids = dict.fromkeys(("file", "batch", "response"), strange)
            path = spec.path.format(**ids)
            for query in ("", f"?after={strange}", f"?{quote(canary)}=1", f"?limit={strange}"):
                yield await vault.http.request(spec.method, path + query)


@pytest.mark.parametrize("status", [200, 400, 401, 500])
async def test_P1_a_canary_stays_nowhere_on_a_stored_route(vault, caplog, status):
    vault.engine.status = status
    asked = 0
    async for answer in everything_asked(vault):
        asked += 1
        assert not vault.found_in(answer.content), answer.text
        assert not vault.found_in(str(answer.headers).encode())
    assert asked > 50
    assert any(vault.found_in(seen.body) for seen in vault.engine.asked), "it went through"
    for path in sorted(vault.journal.rglob("*")):
        assert not path.is_file() or not vault.found_in(path.read_bytes()), path.name
    rows = vault.rows()
    assert (b"file-a" in rows) == (status == 200)
    assert not vault.found_in(rows)
    assert not vault.found_in(caplog.text.encode())
    assert not vault.found_in(vault.app.tally.render())
