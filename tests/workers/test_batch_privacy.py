"""P1: of what a batch's lines say, nothing but counts and names stays anywhere."""

from __future__ import annotations

import json
from datetime import timedelta

from structlog.testing import capture_logs

from billing.store.database import Database, Role, query
from tests.fake_engine.batch_shapes import answered_line, failed_line
from tests.workers.batch_bench import Bench
from workers.batches import settle_batches

CANARY = "tell-nobody-4711"


def places(database: Database, text: str) -> list[str]:
    """Tables with a row in which the text stands, as text or as bytes."""
    with database.transaction(Role.OPERATOR) as connection:
        tables = query(
            connection,
            "SELECT c.relname AS name FROM pg_class c JOIN pg_namespace n ON n.oid = "
            "c.relnamespace WHERE n.nspname = 'public' AND c.relkind IN ('r', 'p') "
            "AND has_table_privilege(c.oid, 'SELECT')",
        )
        assert {"batch_run", "usage_event", "usage_key"} <= {row.name for row in tables}
        return [
            row.name
            for row in tables
            if query(
                connection,
                f"SELECT 1 FROM {row.name} t WHERE t::text LIKE :text OR t::text LIKE :hex LIMIT 1",
                text=f"%{text}%",
                hex=f"%{text.encode().hex()}%",
            )
        ]


def test_P1_no_word_of_an_answer_is_kept_or_logged(bench: Bench) -> None:
    bench.submit()
    spoken = answered_line("known-id", text=CANARY)
    spoken["response"]["body"]["usage"]["note"] = CANARY
    failed = failed_line("a")
    failed["response"]["body"]["error"]["message"] = CANARY
    unreadable = [
        CANARY.encode(),
        json.dumps({"custom_id": 7, "response": {"status_code": 200, "body": CANARY}}).encode(),
    ]
    bench.engine.end(output=[spoken, *unreadable], errors=[failed])
    broken = bench.engine.batches["batch_1"]
    bench.engine.batches["batch_1"] = {"status": [CANARY]}
    settings, now = bench.settings(), bench.world.now
    with capture_logs() as logs:
        settle_batches(bench.database, settings, now=now)
        bench.engine.batches["batch_1"] = broken
        (settled,) = settle_batches(bench.database, settings, now=now + timedelta(hours=1))
    assert (settled.counted.events, settled.counted.unreadable, settled.counted.errors) == (1, 2, 1)
    assert len(logs) == 2
    assert CANARY not in repr(logs)
    assert places(bench.database, CANARY) == []
    assert places(bench.database, "known-id") == ["usage_key"], "the search finds what is there"
