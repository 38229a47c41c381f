"""Engines' counters against the ledger, with an engine's page over HTTP and events of the proxy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from threading import Thread
from typing import Any
from uuid import UUID

import httpx
import pytest
from structlog.testing import capture_logs

from billing.errors import UpstreamUnavailable
from billing.journal.records import Attempted, Attribution, Counts, Usage, Void
from billing.metering.correction import Correction
from billing.metering.event_id import microseconds, milliseconds, uuid7
from billing.metering.leakage import JOURNAL_LOST_AFTER, Reconciled
from billing.operations.leakage.read_engine import engine_client, read_engine
from billing.operations.leakage.read_leakage import newest_leakage
from billing.operations.leakage.reconcile_hour import (
    SAMPLES_KEPT,
    forget_samples,
    hour_of,
    reconcile_hour,
)
from billing.operations.leakage.take_sample import take_sample
from billing.operations.metering.correct_usage import correct_usage
from billing.operations.metering.ship_journal import append_records
from billing.planfiles.backend_file import BackendSpec
from billing.settings import Settings
from billing.store.catalog import ensure_models
from billing.store.database import Database, Role, query
from billing.store.usage.parked import CursorRow, mark_shipped, move_cursor, unshipped
from billing.tenancy.tenant import Tenant
from tests.world import World, make_world
from workers.reconciler import Reconciler

BACKEND = "pool-a"
PAGE = (
    "# TYPE {v}prompt_tokens_total counter\n"
    '{v}prompt_tokens_total{{engine="0"}} {prompt}\n'
    '{v}generation_tokens_total{{engine="0"}} {generation}\n'
)

_serials = count(1)


@dataclass(slots=True, kw_only=True)
class Engine:
    """An engine that tells its counters; a test says what they are."""

    port: int = 0
    prompt: int = 0
    generation: int = 0
    status: int = 200
    location: str = ""
    asked: list[str | None] = field(default_factory=list[str | None])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def serve(self, prompt: int, generation: int) -> None:
        self.prompt += prompt
        self.generation += generation

    def restart(self) -> None:
        self.prompt = self.generation = 0

    def page(self) -> str:
        return PAGE.format(v="vllm:", prompt=self.prompt, generation=self.generation)


@pytest.fixture
def engine() -> Iterator[Engine]:
    state = Engine()

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked.append(self.headers["Authorization"])
            self.send_response(state.status if self.path == "/metrics" else 404)
            if state.location:
                self.send_header("Location", state.location)
            self.end_headers()
            self.wfile.write(state.page().encode())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        state.port = server.server_address[1]
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield state
        server.shutdown()
        thread.join()


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """A world whose engine is looked at; `hour` is the one that everything happens in."""

    world: World
    tenant: Tenant
    engine: Engine

    @property
    def start(self) -> datetime:
        return hour_of(self.world.now).start

    def look(self, second: int, client: httpx.Client) -> None:
        spec = BackendSpec(name=BACKEND, url=self.engine.url, engine="vllm", models=())
        with self.world.database.transaction(Role.INGEST) as connection:
            assert take_sample(
                connection,
                backend=BACKEND,
                counters=read_engine(client, spec),
                now=self.start + timedelta(seconds=second),
            )

    def watch(self, acts: dict[int, Callable[[], None]], *, missing: range = range(0)) -> None:
        """Look every 15 s for the whole hour; `acts` happen after the look at their second."""
        with engine_client() as client:
            for second in range(0, 3601, 15):
                if second not in missing:
                    self.look(second, client)
                acts.get(second, lambda: None)()

    def book(
        self, second: int, counts: Counts, *, attempts: int = 0, backend: str = BACKEND
    ) -> bytes:
        """An event that the proxy wrote."""
        at, database = self.start + timedelta(seconds=second), self.world.database
        id_ = uuid7(milliseconds(at), next(_serials)).bytes
        at_us = microseconds(at)
        with database.transaction(Role.INGEST) as connection:
            model_id = ensure_models(connection, ["tiny"])["tiny"]
            usage = Usage(
                id=id_,
                at_us=at_us,
                attribution=self.attribution(model_id, backend),
                counts=counts,
                raw={},
                cause="completed",
                estimated=False,
                ttft_us=1,
                duration_us=2,
                attempts=tuple(
                    Attempted(n, model_id, backend, at_us, 9, "refused_503")
                    for n in range(attempts)
                ),
            )
            append_records(connection, [usage])
        return id_

    def void(self, second: int) -> None:
        """A request of which nothing was delivered."""
        at = self.start + timedelta(seconds=second)
        with self.world.database.transaction(Role.INGEST) as connection:
            model_id = ensure_models(connection, ["tiny"])["tiny"]
            id_ = uuid7(milliseconds(at), next(_serials)).bytes
            void = Void(id_, microseconds(at), self.attribution(model_id, BACKEND), "client_left")
            append_records(connection, [void])

    def attribution(self, model_id: int, backend: str) -> Attribution:
        return Attribution(
            tenant_id=self.tenant.id,
            project_id=self.tenant.id,
            key_id=1,
            model_id=model_id,
            price_version_id=1,
            backend=backend,
            route="/v1/chat/completions",
            stream=True,
            served_model="tiny",
        )

    def reconcile(self) -> Reconciled:
        later = self.start + timedelta(hours=2)
        with self.world.database.transaction(Role.OPERATOR) as connection:
            (row,) = reconcile_hour(connection, hour=hour_of(self.start), now=later)
        return row


@pytest.fixture
def watched(database: Database, now: datetime, engine: Engine) -> Watched:
    world = make_world(database, now)
    return Watched(world=world, tenant=world.tenant(), engine=engine)


def expected(watched: Watched, **changed: Any) -> Reconciled:
    figures = {
        "engine_prompt": 100, "engine_generation": 40, "ledger_prompt": 100,
        "ledger_generation": 40, "scrap_attempts": 0, "reasons": {}, "restarts": 0,
        "journals_behind": 0, "complete": True,
    }  # fmt: skip
    return Reconciled(backend=BACKEND, hour=watched.start, **(figures | changed))


def test_an_engine_all_of_whose_tokens_are_booked_leaks_exactly_nothing(watched: Watched) -> None:
    watched.engine.serve(5000, 5000)  # before the hour
    watched.watch(
        {600: lambda: watched.engine.serve(60, 30), 3585: lambda: watched.engine.serve(40, 10)}
    )
    watched.book(605, Counts(input=50, cached_input=10, output=30))
    watched.book(3599, Counts(input=40, output=10))
    watched.book(3600, Counts(input=7, output=7))  # the next hour's
    watched.book(605, Counts(input=9, output=9), backend="pool-b")
    watched.world.use(watched.tenant, {"tokens.input": 1000})  # reported, so no engine's of ours
    assert watched.reconcile() == expected(watched)


def test_what_a_crashed_proxy_never_booked_shows_as_leakage(watched: Watched) -> None:
    watched.watch({600: lambda: watched.engine.serve(100, 40)})
    watched.book(605, Counts(input=60, output=10))
    assert watched.reconcile() == expected(watched, ledger_prompt=60, ledger_generation=10)


def test_a_correction_of_the_bill_is_no_leak(watched: Watched) -> None:
    watched.watch({600: lambda: watched.engine.serve(100, 40)})
    event_id = UUID(bytes=watched.book(605, Counts(input=100, output=40)))
    void = Correction(corrects=event_id, source="desk", foreign_id="v-1", reason="goodwill")
    with watched.world.database.transaction(Role.OPERATOR) as connection:
        correct_usage(
            connection, void, tenant_id=watched.tenant.id, actor="ada", now=watched.world.now
        )
    assert watched.reconcile() == expected(watched)


def test_attempts_that_bill_nothing_are_told_and_their_tokens_not_invented(
    watched: Watched,
) -> None:
    watched.watch({600: lambda: watched.engine.serve(120, 45)})
    watched.book(605, Counts(input=100, output=40), attempts=2)
    watched.void(610)
    assert watched.reconcile() == expected(
        watched,
        engine_prompt=120,
        engine_generation=45,
        scrap_attempts=3,
        reasons={"client_left": 1, "refused_503": 2},
    )


def test_a_restarted_engine_loses_no_token_that_was_seen(watched: Watched) -> None:
    def restart() -> None:
        watched.engine.restart()
        watched.engine.serve(30, 10)

    watched.engine.serve(5000, 5000)
    watched.watch({600: lambda: watched.engine.serve(70, 30), 1200: restart})
    watched.book(605, Counts(input=70, output=30))
    watched.book(1205, Counts(input=30, output=10))
    assert watched.reconcile() == expected(watched, restarts=1)


def test_missing_looks_leave_the_hour_incomplete_until_the_end_of_time(watched: Watched) -> None:
    watched.watch({600: lambda: watched.engine.serve(100, 40)}, missing=range(615, 690))
    watched.book(605, Counts(input=100, output=40))
    assert watched.reconcile() == expected(watched, complete=False)


@pytest.mark.parametrize(
    ("shipped", "finished", "behind"),
    [
        (timedelta(minutes=61), False, 0),
        (timedelta(minutes=60), False, 1),
        (timedelta(minutes=30), False, 1),
        (timedelta(minutes=30), True, 0),
        (-JOURNAL_LOST_AFTER, False, 1),
        (-JOURNAL_LOST_AFTER - timedelta(seconds=1), False, 0),
    ],
)
def test_an_hour_is_complete_once_every_journal_is_shipped_past_it(
    watched: Watched, *, shipped: timedelta, finished: bool, behind: int
) -> None:
    watched.watch({600: lambda: watched.engine.serve(100, 40)})
    watched.book(605, Counts(input=100, output=40))
    through = watched.start + shipped
    with watched.world.database.transaction(Role.INGEST) as connection:
        mark_shipped(connection, ["a"], through=watched.start + timedelta(hours=2))
        mark_shipped(connection, ["b"], through=watched.start - timedelta(days=9))
        if finished:
            done = CursorRow(instance="b", segment=1, next_offset=9, finished=True)
            move_cursor(connection, done, since=unshipped("b"), now=through)
        mark_shipped(connection, ["b"], through=through)
    found = watched.reconcile()
    assert found == expected(watched, journals_behind=behind, complete=not behind)


def test_an_hour_that_waited_for_a_journal_is_worked_out_again_days_later(
    watched: Watched,
) -> None:
    database, late = watched.world.database, watched.start + timedelta(days=3)
    watched.watch({600: lambda: watched.engine.serve(100, 40)})
    with database.transaction(Role.INGEST) as connection:
        mark_shipped(connection, ["a"], through=watched.start + timedelta(minutes=7))
    assert not watched.reconcile().complete
    watched.book(605, Counts(input=100, output=40))
    with database.transaction(Role.INGEST) as connection:
        mark_shipped(connection, ["a"], through=late)
    (row,) = Reconciler(database, Settings()).reconcile(now=late)
    assert row == expected(watched)
    with database.transaction(Role.OPERATOR) as connection:
        assert newest_leakage(connection, now=late) == []
        assert newest_leakage(connection, now=watched.start + timedelta(hours=2)) == [row]


def test_an_hour_is_worked_out_again_when_late_events_have_come(watched: Watched) -> None:
    watched.watch({600: lambda: watched.engine.serve(100, 40)})
    assert watched.reconcile() == expected(watched, ledger_prompt=0, ledger_generation=0)
    watched.book(605, Counts(input=100, output=40))
    assert watched.reconcile() == expected(watched)
    with watched.world.database.transaction(Role.OPERATOR) as connection:
        assert len(query(connection, "SELECT FROM leakage")) == 1


def test_a_clock_that_went_back_records_nothing(watched: Watched) -> None:
    with engine_client() as client:
        watched.look(30, client)
        with pytest.raises(AssertionError):
            watched.look(15, client)


def test_samples_are_forgotten_and_what_they_told_stays(watched: Watched) -> None:
    watched.watch({})
    row = watched.reconcile()
    with watched.world.database.transaction(Role.OPERATOR) as connection:
        end = watched.start + timedelta(hours=1)
        assert forget_samples(connection, now=end + SAMPLES_KEPT) == 240
        kept = query(connection, "SELECT at FROM engine_sample")
        assert [each.at for each in kept] == [end]
        assert len(query(connection, "SELECT FROM leakage")) == 1
    assert row.complete


def test_the_worker_looks_and_warns_once_of_an_engine_that_is_silent(
    database: Database, engine: Engine
) -> None:
    reconciler = Reconciler(database, Settings(backends=f"tiny={engine.url}#vllm"))
    engine.serve(10, 5)
    assert reconciler.sample() == 1
    engine.status = 503
    with capture_logs() as logs:
        assert [reconciler.sample() for _ in range(3)] == [0, 0, 0]
    assert [each["backend"] for each in logs] == ["backend-1"]
    engine.status = 200
    assert reconciler.sample() == 1
    now = datetime.now(UTC)
    found = {row.backend: row for row in reconciler.reconcile(now=now)}
    with database.transaction(Role.OPERATOR) as connection:
        samples = query(connection, "SELECT prompt, generation, engine_epoch FROM engine_sample")
    assert [tuple(each) for each in samples] == [(10, 5, 1)] * 2
    assert all(not row.complete for row in found.values())


def test_the_worker_looks_at_nothing_where_it_is_told_so_or_knows_no_counters(
    database: Database, engine: Engine
) -> None:
    line = f"tiny={engine.url}#vllm"
    for settings in (
        Settings(backends=line, engine_metrics=False),
        Settings(backends=f"tiny={engine.url}#transformers"),
        Settings(backends=None),
        Settings(backends="/nowhere/backends.yaml"),
    ):
        assert Reconciler(database, settings).sample() == 0
    assert engine.asked == []


def test_an_engines_key_goes_to_its_own_address_only(engine: Engine) -> None:
    for url, metrics_url in (
        (engine.url, None),
        (engine.url, f"{engine.url}/metrics"),
        ("http://127.0.0.1:1", f"{engine.url}/metrics"),
    ):
        spec = BackendSpec(
            name=BACKEND,
            url=url,
            engine="vllm",
            models=(),
            api_key="secret",
            metrics_url=metrics_url,
        )
        with engine_client() as client:
            read_engine(client, spec)
    assert engine.asked == ["Bearer secret", "Bearer secret", None]


def test_a_redirect_is_not_followed(engine: Engine) -> None:
    engine.status, engine.location = 302, f"{engine.url}/metrics"
    spec = BackendSpec(name=BACKEND, url=engine.url, engine="vllm", models=())
    with engine_client() as client, pytest.raises(UpstreamUnavailable):
        read_engine(client, spec)
    assert len(engine.asked) == 1
