"""A closed month leaves the database only into an archive that holds it, byte for byte."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import boto3
import psycopg
import pytest
import sqlalchemy as sa
from moto.server import ThreadedMotoServer
from sqlalchemy.exc import ProgrammingError

from billing.archive.parquet import DamagedArchive
from billing.archive.places import Bucket, archive_place
from billing.errors import ConfigurationError, Conflict, NotFound
from billing.operations.metering.encode_page import append_records
from billing.operations.metering.verify_rollups import verify_rollups
from billing.operations.retention import archive_month as archiving
from billing.operations.retention.archive_month import (
    apply_retention,
    archive_month,
    drop_month,
    is_beyond,
    read_back,
)
from billing.operations.retention.verify_archives import ArchiveFinding, verify_archives
from billing.store import retention
from billing.store.database import Role, query
from billing.store.embedded.address import ServerAddress
from billing.tenancy.tenant import Tenant
from tests.operations.crash_points import attribution_of, usage_record
from tests.retention.conftest import LATER, MONTH, Closed, seal

NOVEMBER = (datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC))


@pytest.fixture
def owner(postgres: ServerAddress, database_name: str) -> Iterator[psycopg.Connection]:
    """The owner of the tables with every trigger switched off: who can do anything at all."""
    with psycopg.connect(postgres.owner_conninfo(database_name), autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        yield connection


def rows_of(closed: Closed, table: str, order: str = "epoch, id") -> list[tuple[object, ...]]:
    with closed.world.database.transaction(Role.OPERATOR) as connection:
        return [tuple(row) for row in query(connection, f"SELECT * FROM {table} ORDER BY {order}")]


def findings(closed: Closed) -> list[ArchiveFinding]:
    with closed.world.database.transaction(Role.OPERATOR) as connection:
        return verify_archives(connection, closed.place)


def november(closed: Closed) -> list[tuple[object, ...]]:
    """Events that were minted in November, as the ledger has them, and what they carried."""
    with closed.world.database.transaction(Role.OPERATOR) as connection:
        found = query(
            connection,
            "SELECT e.*, p.tenant_id AS carrier, p.shape_id, p.texts FROM usage_event e "
            "LEFT JOIN usage_property p ON p.event_id = e.id "
            "WHERE e.id < first_event_id('2026-12-01Z') ORDER BY e.epoch, e.id",
        )
    assert any(row.texts for row in found)
    return [tuple(row) for row in found]


def test_a_month_is_archived_dropped_and_read_back_as_it_was(
    closed: Closed, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Several row groups, so that none of the counts can come from one batch alone.
    monkeypatch.setattr(archiving, "EVENTS_AT_ONCE", 7)
    database = closed.world.database
    before = november(closed)
    totals = rows_of(closed, "usage_rollup", "1, 2, 3, 4, 5, 6, 7, 8")
    assert len(before) > 80
    archive = archive_month(database, closed.place, MONTH, now=LATER)
    assert (archive.events, archive.ordinal) == (len(before), 1)
    assert archive_month(database, closed.place, MONTH, now=LATER) == archive
    assert drop_month(database, closed.place, MONTH, now=LATER, keep_months=2) == len(before)
    assert rows_of(closed, "usage_property", "1") == []
    assert len(rows_of(closed, "usage_event")) == 1
    assert rows_of(closed, "usage_rollup", "1, 2, 3, 4, 5, 6, 7, 8") == totals
    assert findings(closed) == []
    with database.transaction(Role.OPERATOR) as connection:
        assert verify_rollups(connection) == []
    for _ in range(2):
        assert read_back(database, closed.place, MONTH) == ("restored_usage_202611", len(before))
        assert rows_of(closed, "restored_usage_202611") == before


def test_the_same_month_gives_the_same_bytes(
    closed: Closed, owner: psycopg.Connection, tmp_path: Path
) -> None:
    database = closed.world.database
    other = archive_place(str(tmp_path.joinpath("other")), Bucket())
    first = archive_month(database, closed.place, MONTH, now=LATER)
    with database.transaction(Role.OPERATOR) as connection:
        (lost,) = verify_archives(connection, other)
    assert "no archive" in lost.what
    owner.execute("DELETE FROM usage_archived_total")
    owner.execute("DELETE FROM usage_archive")
    again = archive_month(database, other, MONTH, now=LATER)
    assert (again.url, again.sha256) == (other.url("usage-2026-11.1.parquet"), first.sha256)


def test_D7_the_horizon_moves_with_the_oldest_month(closed: Closed) -> None:
    database = closed.world.database
    with database.transaction(Role.INGEST) as connection:
        assert retention.horizon(connection) is None
    archive_month(database, closed.place, MONTH, now=LATER)
    with database.transaction(Role.INGEST) as connection:
        assert retention.horizon(connection) is None
    drop_month(database, closed.place, MONTH, now=LATER)
    with database.transaction(Role.INGEST) as connection:
        assert retention.horizon(connection) == NOVEMBER[1]


def test_totals_of_a_dropped_month_stand_in_for_its_events(closed: Closed) -> None:
    database = closed.world.database
    archive_month(database, closed.place, MONTH, now=LATER)
    drop_month(database, closed.place, MONTH, now=LATER)
    with database.transaction(Role.OPERATOR) as connection:
        rows = query(
            connection,
            "SELECT tenant_id, meter_version_id, sum(quantity) AS quantity FROM ("
            "SELECT t.tenant_id, t.meter_version_id, t.quantity FROM usage_archived_total t "
            "JOIN usage_horizon h USING (archive_id) UNION ALL "
            "SELECT e.tenant_id, q.v, q.n FROM usage_event e JOIN meter_set m "
            "ON m.id = e.meter_set_id CROSS JOIN LATERAL "
            "unnest(m.meter_version_ids, e.quantities) AS q (v, n)) AS raw GROUP BY 1, 2",
        )
        rollups = query(
            connection,
            "SELECT tenant_id, meter_version_id, sum(quantity) AS quantity FROM usage_rollup "
            "GROUP BY 1, 2",
        )
    assert {tuple(row) for row in rows if row.quantity} == {tuple(row) for row in rollups}


@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_L7_a_flipped_byte_of_an_archive_is_found_and_named(closed: Closed, place: int) -> None:
    archive = archive_month(closed.world.database, closed.place, MONTH, now=LATER)
    path = Path(archive.url)
    content = bytearray(path.read_bytes())
    content[len(content) * place // 4 + 5] ^= 1
    path.write_bytes(content)
    (finding,) = findings(closed)
    assert (finding.month, finding.url) == (MONTH, archive.url)
    assert "checksum" in finding.what
    with pytest.raises(DamagedArchive):
        drop_month(closed.world.database, closed.place, MONTH, now=LATER)
    assert november(closed) != []
    with pytest.raises(DamagedArchive):
        read_back(closed.world.database, closed.place, MONTH)


def test_L7_an_event_forged_before_it_was_archived_meets_the_seal(
    closed: Closed, owner: psycopg.Connection
) -> None:
    archive_month(closed.world.database, closed.place, MONTH, now=LATER)
    (forged,) = owner.execute(
        "UPDATE usage_event SET duration_us = duration_us + 1 WHERE id = "
        "(SELECT id FROM usage_event ORDER BY id LIMIT 1) RETURNING id"
    ).fetchall()
    owner.execute("DELETE FROM usage_archived_total")
    owner.execute("DELETE FROM usage_archive")
    with pytest.raises(DamagedArchive, match=rf"event {forged[0]} is not as it was sealed"):
        archive_month(closed.world.database, closed.place, MONTH, now=LATER)
    assert rows_of(closed, "usage_archive", "1") == []


def test_L7_forged_totals_of_an_archive_are_found(
    closed: Closed, owner: psycopg.Connection
) -> None:
    archive_month(closed.world.database, closed.place, MONTH, now=LATER)
    owner.execute(
        "UPDATE usage_archived_total SET quantity = quantity + 1 "
        "WHERE tenant_id = (SELECT max(tenant_id) FROM usage_archived_total)"
    )
    (finding,) = findings(closed)
    assert "totals" in finding.what


def test_a_lost_archive_is_named(closed: Closed) -> None:
    archive = archive_month(closed.world.database, closed.place, MONTH, now=LATER)
    Path(archive.url).unlink()
    (finding,) = findings(closed)
    assert archive.url in finding.what


def test_archives_are_their_users_only(closed: Closed) -> None:
    archive = archive_month(closed.world.database, closed.place, MONTH, now=LATER)
    assert Path(archive.url).stat().st_mode & 0o777 == 0o600
    assert closed.folder.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in closed.folder.iterdir()] == ["usage-2026-11.1.parquet"]


def late_event(closed: Closed, tenant: Tenant) -> None:
    whose = attribution_of(closed.world, tenant)
    with closed.world.database.transaction(Role.INGEST) as connection:
        assert append_records(connection, [usage_record(closed.world, whose, 1 << 20)]) == (1, 0)


def test_a_month_that_changed_is_archived_again_before_it_goes(
    closed: Closed, tmp_path: Path
) -> None:
    database = closed.world.database
    archive_month(database, closed.place, MONTH, now=LATER)
    late_event(closed, closed.acme)
    with pytest.raises(Conflict, match="not archived as it is now"):
        drop_month(database, closed.place, MONTH, now=LATER)
    with pytest.raises(Conflict, match="sealed"):
        archive_month(database, closed.place, MONTH, now=LATER)
    seal(database, tmp_path)
    again = archive_month(database, closed.place, MONTH, now=LATER)
    assert again.ordinal == 2
    assert drop_month(database, closed.place, MONTH, now=LATER) == again.events


def test_what_may_not_be_archived_or_dropped_yet(closed: Closed, now: datetime) -> None:
    database = closed.world.database
    with pytest.raises(Conflict, match="not over"):
        archive_month(database, closed.place, MONTH, now=now)
    with pytest.raises(NotFound):
        archive_month(database, closed.place, date(2019, 1, 1), now=LATER)
    with pytest.raises(NotFound):
        drop_month(database, closed.place, MONTH, now=LATER)
    archive_month(database, closed.place, MONTH, now=LATER)
    with pytest.raises(Conflict, match="to be kept"):
        drop_month(database, closed.place, MONTH, now=LATER, keep_months=3)
    # December is archived as well, but November is older.
    archive_month(database, closed.place, date(2026, 12, 1), now=LATER)
    with pytest.raises(Conflict, match="oldest"):
        drop_month(database, closed.place, date(2026, 12, 1), now=LATER)


def test_dropping_waits_for_nobody_for_long(closed: Closed) -> None:
    database = closed.world.database
    archive_month(database, closed.place, MONTH, now=LATER)
    with database.transaction(Role.OPERATOR) as reader:
        reader.execute(sa.text("SELECT count(*) FROM usage_event"))
        with pytest.raises(Conflict, match="busy"):
            drop_month(database, closed.place, MONTH, now=LATER)
    assert drop_month(database, closed.place, MONTH, now=LATER) > 0


def test_retention_keeps_full_months(closed: Closed) -> None:
    database = closed.world.database
    assert apply_retention(database, closed.place, keep_months=3, now=LATER) == []
    assert apply_retention(database, closed.place, keep_months=2, now=LATER) == [MONTH]
    assert apply_retention(database, closed.place, keep_months=2, now=LATER) == []


def test_months_are_counted_in_the_calendar() -> None:
    first, end = datetime(2027, 2, 1, tzinfo=UTC), timedelta(microseconds=1)
    assert is_beyond(date(2026, 12, 1), 1, now=first)
    assert not is_beyond(date(2026, 12, 1), 1, now=first - end)
    assert not is_beyond(date(2027, 2, 1), 0, now=first)


def test_only_the_maintainer_drops(closed: Closed) -> None:
    for role in (Role.OPERATOR, Role.INGEST):
        with (
            pytest.raises(ProgrammingError, match="permission denied"),
            closed.world.database.transaction(role) as connection,
        ):
            retention.drop_month(connection, MONTH, now=LATER)


@pytest.fixture
def s3() -> Iterator[str]:
    """The address of an S3-compatible server with a bucket `books`."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    boto3.client(
        "s3", endpoint_url=address, region_name="us-east-1",
        aws_access_key_id="ak", aws_secret_access_key="sk",
    ).create_bucket(Bucket="books")  # fmt: skip
    yield address
    server.stop()


def test_a_bucket_keeps_archives_as_a_folder_does(closed: Closed, s3: str) -> None:
    bucket = Bucket(endpoint=s3, region="us-east-1", access_key="ak", secret_key="sk")
    place = archive_place("s3://books/usage/", bucket)
    assert "sk" not in repr(bucket)
    database = closed.world.database
    before = november(closed)
    archive = archive_month(database, place, MONTH, now=LATER)
    assert archive.url == "s3://books/usage/usage-2026-11.1.parquet"
    drop_month(database, place, MONTH, now=LATER)
    read_back(database, place, MONTH)
    assert rows_of(closed, "restored_usage_202611") == before
    client = boto3.client(
        "s3", endpoint_url=s3, region_name="us-east-1",
        aws_access_key_id="ak", aws_secret_access_key="sk",
    )  # fmt: skip
    key = "usage/usage-2026-11.1.parquet"
    content = bytearray(client.get_object(Bucket="books", Key=key)["Body"].read())
    content[len(content) // 2] ^= 1
    client.put_object(Bucket="books", Key=key, Body=bytes(content))
    with database.transaction(Role.OPERATOR) as connection:
        (finding,) = verify_archives(connection, place)
    assert (finding.url, "checksum" in finding.what) == (archive.url, True)
    client.delete_object(Bucket="books", Key=key)
    with pytest.raises(DamagedArchive, match="no archive at"):
        read_back(database, place, MONTH)


def test_only_folders_and_buckets_are_places() -> None:
    for url in ("ftp://host/x", "s3://", "https://bucket.example"):
        with pytest.raises(ConfigurationError):
            archive_place(url, Bucket())
