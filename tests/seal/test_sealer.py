"""The worker's part: it seals, tells the witness and keeps its answer, and finds what changed."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import psycopg
import pytest

from billing.settings import Settings
from billing.store.database import Role, query
from billing.verifier import ed25519_verifies
from tests.world import World
from workers.sealer import SealWatch, seal_ledgers


class Witness(HTTPServer):
    """Takes heads, or refuses them while `down`."""

    def __init__(self) -> None:
        self.heads: list[dict[str, str]] = []
        self.down = False
        super().__init__(("127.0.0.1", 0), _Answer)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/heads"


class _Answer(BaseHTTPRequestHandler):
    server: Witness  # pyright: ignore[reportIncompatibleVariableOverride]  # the one it serves

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if not self.server.down:
            self.server.heads.append(json.loads(body))
        self.send_response(503 if self.server.down else 201)
        self.end_headers()
        self.wfile.write(b"seen")

    def log_message(self, format: str, *args: object) -> None:  # the base's name
        """Say nothing."""


@pytest.fixture
def witness() -> Iterator[Witness]:
    server = Witness()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_witness_gets_each_newest_head_once_and_never_holds_up_the_seal(
    world: World, witness: Witness, tmp_path: Path
) -> None:
    settings = Settings(data_dir=tmp_path, witness_url=witness.url)
    acme = world.tenant()
    witness.down = True
    world.use(acme, {"requests": 1})
    assert seal_ledgers(world.database, settings, now=world.now) == 1
    world.use(acme, {"requests": 1})
    assert seal_ledgers(world.database, settings, now=world.now) == 1
    assert witness.heads == []
    witness.down = False
    for _ in range(2):
        assert seal_ledgers(world.database, settings, now=world.now) == 0
    (head,) = witness.heads
    key, signature = bytes.fromhex(head["public_key"]), bytes.fromhex(head["signature"])
    assert ed25519_verifies(key, head["text"].encode(), signature)
    with world.database.transaction(Role.OPERATOR) as connection:
        rows = query(connection, "SELECT fold_size, status, answer FROM seal_witness")
    assert [tuple(row) for row in rows] == [(2, 201, "seen")]


def test_a_change_of_recent_usage_is_found_by_the_worker(
    world: World, owner: psycopg.Connection, tmp_path: Path
) -> None:
    settings = Settings(data_dir=tmp_path)
    acme = world.tenant()
    watch = SealWatch(world.database)
    for turn in range(14):
        world.use(acme, {"requests": 1})
        assert seal_ledgers(world.database, settings, now=world.now) == 1
        if turn == 1:
            assert watch.check() == []
    # Folded since the last check, and not among the newest ones any more.
    (third,) = owner.execute(
        "SELECT id FROM usage_event ORDER BY epoch OFFSET 2 LIMIT 1"
    ).fetchall()
    owner.execute("UPDATE usage_event SET cause = cause + 1 WHERE id = %s", third)
    assert [finding.subject for finding in watch.check()] == [str(third[0])]
    assert [finding.subject for finding in watch.check()] == [str(third[0])]
    owner.execute("UPDATE usage_event SET cause = cause - 1 WHERE id = %s", third)
    assert watch.check() == []
    (newest,) = owner.execute("SELECT id FROM usage_event ORDER BY epoch DESC LIMIT 1").fetchall()
    owner.execute("UPDATE usage_event SET cause = cause + 1 WHERE id = %s", newest)
    assert [finding.subject for finding in watch.check()] == [str(newest[0])]
