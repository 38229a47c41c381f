"""L2 to L5, L8, T1 and T2 in any order of events: a model of the usage ledger runs beside it.

Two tenants report and proxies ship; batches come twice, in pieces, shuffled, with other bodies,
from two writers at once, and die between any two statements. After every step the totals of both
tenants are those of the model, exactly, read three ways: from the rollups as the operator, from
the raw events, and as the tenant that owns them.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from decimal import Decimal
from itertools import count
from os import environ
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from billing.metering.usage_event import Verdict, VerdictKind
from billing.operations.metering.ingest_usage import ingest_usage
from billing.operations.metering.ship_journal import JournalShipper
from billing.store.database import Database, Role, become
from billing.store.usage.read import period_usage
from billing.store.usage.verify import rollup_differences
from tests.invariants.usage_model import (
    INSTANTS,
    UNKNOWN,
    Batch,
    Books,
    Total,
    add,
    batches,
    bucket,
    reports_of,
)
from tests.operations.crash_points import (
    Crash,
    attribution_of,
    crash_before,
    usage_record,
    void_record,
    write_journal,
)
from tests.world import World, make_world

FULL = environ.get("STEELYARD_ROUNDS") == "full"
SETTINGS = settings(
    max_examples=150 if FULL else 6,
    stateful_step_count=40 if FULL else 12,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    # Every try costs seconds; a failing run is short enough to read as it is.
    phases=(Phase.explicit, Phase.generate),
)

_slugs = (f"machine-{number}" for number in count(1))
_operations = count(1)


which = st.integers(0, 1)
boundaries = st.integers(1, 24)


class UsageMachine(RuleBasedStateMachine):
    """Rules are what reporters, proxies and crashes do; invariants look at everything."""

    world: World

    def __init__(self) -> None:
        super().__init__()
        self.books = tuple(Books(self.world.tenant(next(_slugs))) for _ in range(2))
        self.whose = [attribution_of(self.world, books.tenant) for books in self.books]
        self.journals: list[tuple[int, Path]] = []
        self.seen: list[tuple[int, int, Any]] = []
        self.rows: dict[UUID, str] = {}
        self.folder = Path(tempfile.mkdtemp(prefix="usage-machine-"))

    def teardown(self) -> None:
        shutil.rmtree(self.folder)
        with self.world.database.transaction(Role.OPERATOR) as connection:
            assert rollup_differences(connection) == []

    # what is done

    @rule(whose=which, batch=batches)
    def report(self, whose: int, batch: Batch) -> None:
        self.books[whose].judge(batch, self.ingest(whose, batch))

    @rule(whose=which, batch=batches, cut=st.integers(0, 8), dice=st.randoms(use_true_random=False))
    def report_shuffled_in_pieces_and_again(
        self, whose: int, batch: Batch, cut: int, dice: Any
    ) -> None:
        shuffled = [*batch, *batch]
        dice.shuffle(shuffled)
        for piece in (shuffled[:cut], shuffled[cut:]):
            self.books[whose].judge(piece, self.ingest(whose, piece))

    @rule(whose=which, batch=batches, boundary=boundaries)
    def report_and_die(self, whose: int, batch: Batch, boundary: int) -> None:
        first: list[Verdict] | None = None
        with suppress(Crash), crash_before(self.world.database.engine, boundary):
            first = self.ingest(whose, batch)
        if first is not None:
            self.books[whose].judge(batch, first)
        self.books[whose].judge(batch, self.ingest(whose, batch))

    @rule(whose=which, ours=batches, theirs=batches, commits=st.booleans())
    def report_while_another_writer_is_open(
        self, whose: int, ours: Batch, theirs: Batch, commits: bool
    ) -> None:
        books, database = self.books[whose], self.world.database
        with ThreadPoolExecutor(1) as pool:
            with database.engine.connect() as connection, connection.begin() as transaction:
                become(connection, Role.INGEST)
                first = ingest_usage(
                    connection, reports_of(ours), tenant=books.tenant, now=self.world.now
                )
                waiting = pool.submit(self.ingest, whose, theirs)
                if commits:
                    transaction.commit()
                else:
                    transaction.rollback()
            second = waiting.result()
        if commits:
            books.judge(ours, first)
        books.judge(theirs, second)

    @rule(whose=which, batch=batches)
    def report_from_two_writers_at_once(self, whose: int, batch: Batch) -> None:
        """Whoever is first: each id is accepted once, and the other one hears of that event."""
        batch = [(number, body) for number, body in batch if body.meter != UNKNOWN]
        start = threading.Barrier(2)
        orders = (batch, list(reversed(batch)))

        def write(order: Batch) -> list[Verdict]:
            start.wait()
            return self.ingest(whose, order)

        with ThreadPoolExecutor(2) as pool:
            answers = list(pool.map(write, orders))
        books = self.books[whose]
        accepted = Counter(
            number
            for order, verdicts in zip(orders, answers, strict=True)
            for (number, _), verdict in zip(order, verdicts, strict=True)
            if verdict.kind is VerdictKind.ACCEPTED
        )
        assert accepted == dict.fromkeys(books.new(batch), 1)
        winner = 0 if self.came_first(books, orders[0], answers[0]) else 1
        books.judge(orders[winner], answers[winner])
        books.judge(orders[1 - winner], answers[1 - winner])

    def came_first(self, books: Books, order: Batch, verdicts: list[Verdict]) -> bool:
        """Whether the answer can be that of the writer who came first: all that is new is its."""
        accepted = {
            number
            for (number, _), verdict in zip(order, verdicts, strict=True)
            if verdict.kind is VerdictKind.ACCEPTED
        }
        return accepted == books.new(order)

    @rule(whose=which, usages=st.integers(0, 4), voids=st.integers(0, 2))
    def ship(self, whose: int, usages: int, voids: int) -> None:
        self.write(whose, usages, voids)
        self.ship_all()

    @rule(whose=which, usages=st.integers(1, 4), voids=st.integers(0, 2), boundary=boundaries)
    def ship_and_die(self, whose: int, usages: int, voids: int, boundary: int) -> None:
        self.write(whose, usages, voids)
        with suppress(Crash), crash_before(self.world.database.engine, boundary):
            self.ship_all()
        self.ship_all()

    @rule()
    def replay_every_journal_under_another_name(self) -> None:
        for number, (_, journal) in enumerate(self.journals):
            again = self.folder.joinpath(f"again-{len(self.seen)}-{number}", journal.name + "x")
            shutil.copytree(journal, again)
            shipper = JournalShipper(database=self.world.database, directory=again.parent)
            assert shipper.ship(now=self.world.now).events == 0

    # how it is done

    def ingest(self, whose: int, batch: Batch) -> list[Verdict]:
        def work(connection: sa.Connection) -> list[Verdict]:
            return ingest_usage(
                connection,
                reports_of(batch),
                tenant=self.books[whose].tenant,
                now=self.world.now,
            )

        return self.world.database.retrying(Role.INGEST, work)

    def write(self, whose: int, usages: int, voids: int) -> None:
        books, numbers = self.books[whose], [next(_operations) for _ in range(usages)]
        served = [
            usage_record(self.world, self.whose[whose], number, output=number % 5 + 1)
            for number in numbers
        ]
        given_up = [
            void_record(self.world, self.whose[whose], next(_operations)) for _ in range(voids)
        ]
        directory = self.folder.joinpath(f"journals-{len(self.journals)}")
        journal = write_journal(directory, [*served, *given_up, *served], segment_bytes=900)
        self.journals.append((whose, journal))
        for record in served:
            for meter, quantity in (
                ("tokens.input", record.counts.input),
                ("tokens.cached_input", record.counts.cached_input),
                ("tokens.output", record.counts.output),
                ("requests", 1),
            ):
                books.count(meter, self.world.now, quantity)
        books.events += usages
        books.scrap += voids

    def ship_all(self) -> None:
        directory = self.journals[-1][1].parent
        shipment = JournalShipper(database=self.world.database, directory=directory).ship(
            now=self.world.now
        )
        assert shipment.damaged == []

    # what holds

    @invariant()
    def L4_totals_are_those_of_the_model(self) -> None:
        for books in self.books:
            assert self.read(books, self.rollups) == books.totals
            assert self.read(books, self.raw) == books.totals

    @invariant()
    def L5_every_event_and_every_attempt_is_there_once(self) -> None:
        with self.world.database.transaction(Role.OPERATOR) as connection:
            for books in self.books:
                whose = {"tenant": books.tenant.id}
                for table, expected in (
                    ("usage_event", books.events),
                    ("scrap_attempt", books.scrap),
                    ("usage_key", len(books.known)),
                ):
                    counted = sa.text(f"SELECT count(*) FROM {table} WHERE tenant_id = :tenant")
                    assert connection.execute(counted, whose).scalar_one() == expected, table

    @invariant()
    def L8_nothing_appears_at_or_below_an_epoch_that_was_seen(self) -> None:
        tenants = [books.tenant.id for books in self.books]
        below = sa.text(
            "SELECT count(*), sum(hashtext(e::text)) FROM usage_event e "
            "WHERE tenant_id = ANY (:tenants) AND epoch <= :epoch"
        )
        with self.world.database.transaction(Role.OPERATOR, snapshot=True) as connection:
            head = connection.execute(sa.text("SELECT max(epoch) FROM ledger_epoch")).scalar_one()
            for epoch, events, digest in self.seen:
                found = connection.execute(below, {"tenants": tenants, "epoch": epoch}).one()
                assert tuple(found) == (events, digest), epoch
            now = connection.execute(below, {"tenants": tenants, "epoch": head}).one()
            everything = connection.execute(below, {"tenants": tenants, "epoch": 2**62}).one()
        assert now == everything
        self.seen.append((head, *now))

    @invariant()
    def L2_no_row_that_was_seen_is_gone_or_changed(self) -> None:
        tenants = [books.tenant.id for books in self.books]
        with self.world.database.transaction(Role.OPERATOR) as connection:
            rows = connection.execute(
                sa.text("SELECT id, e::text FROM usage_event e WHERE tenant_id = ANY (:tenants)"),
                {"tenants": tenants},
            )
            found = {row.id: row[1] for row in rows}
        assert self.rows.items() <= found.items()
        self.rows = found

    @invariant()
    def T1_a_tenant_reads_its_own_totals_and_no_other(self) -> None:
        database = self.world.database
        for books in self.books:
            with database.transaction(Role.TENANT, tenant_id=books.tenant.id) as connection:
                for other in self.books:
                    expected = books.totals if other is books else {}
                    assert self.rollups(connection, other) == expected
                    assert self.raw(connection, other) == expected

    @invariant()
    def T2_nobody_reads_nothing(self) -> None:
        with self.world.database.engine.connect() as connection, connection.begin():
            become(connection, Role.TENANT, tenant_id=None)
            for books in self.books:
                assert self.rollups(connection, books) == {}
                assert self.raw(connection, books) == {}

    def read(
        self, books: Books, how: Callable[[sa.Connection, Books], dict[Total, Decimal]]
    ) -> dict[Total, Decimal]:
        with self.world.database.transaction(Role.OPERATOR) as connection:
            return how(connection, books)

    def rollups(self, connection: sa.Connection, books: Books) -> dict[Total, Decimal]:
        period = books.tenant.billing_period(self.world.now)
        edges = sorted({bucket(at) for at in (*INSTANTS, self.world.now)})
        # The head of the ledger is for those who may see that there are others.
        may_see = sa.text("SELECT has_table_privilege('ledger_epoch', 'SELECT')")
        if connection.execute(may_see).scalar_one():
            rows = period_usage(
                connection, tenant_id=books.tenant.id, period=period, edges=edges
            ).quantities
            return {(row.meter, row.bucket_from): row.quantity for row in rows}
        found = connection.execute(
            sa.text(
                "SELECT v.code, r.bucket, sum(r.quantity) FROM usage_rollup r "
                "JOIN meter_version v ON v.id = r.meter_version_id "
                "WHERE r.tenant_id = :tenant GROUP BY 1, 2"
            ),
            {"tenant": books.tenant.id},
        )
        return {(code, start): quantity for code, start, quantity in found}

    def raw(self, connection: sa.Connection, books: Books) -> dict[Total, Decimal]:
        rows = connection.execute(
            sa.text(
                "SELECT v.code, e.occurred_at, q.quantity FROM usage_event e "
                "JOIN meter_set m ON m.id = e.meter_set_id "
                "CROSS JOIN LATERAL unnest(m.meter_version_ids, e.quantities) "
                "AS q (version, quantity) JOIN meter_version v ON v.id = q.version "
                "WHERE e.tenant_id = :tenant AND q.quantity <> 0"
            ),
            {"tenant": books.tenant.id},
        )
        totals: dict[Total, Decimal] = {}
        for code, at, quantity in rows:
            add(totals, (code, bucket(at)), quantity)
        return totals


@pytest.mark.timeout(3600 if FULL else 300)
def test_the_usage_ledger_keeps_its_invariants_whatever_happens(
    database: Database, now: datetime
) -> None:
    UsageMachine.world = make_world(database, now)
    run_state_machine_as_test(UsageMachine, settings=SETTINGS)
