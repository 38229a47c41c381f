"""Keys of reported events that were claimed before they were kept in fewer bytes."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.rows import TupleRow

from billing.metering.reported_id import reported_key
from billing.store.embedded.address import ServerAddress
from tests.migrations.test_migrations import move

BEFORE, AFTER = "20261121_1136", "20261121_1138"
IDS = [
    "e-1",
    "0190f3a1-7c2e-4b5d-9e8f-0a1b2c3d4e5f",
    "0190f3a1-7c2e-8b5d-9e8f-0a1b2c3d4e5f",
    "0190F3A1-7C2E-4B5D-9E8F-0A1B2C3D4E5F",
    "0190f3a17c2e4b5d9e8f0a1b2c3d4e5f",
    "ffffffff-ffff-ffff-ffff-ffffffffffff",
    "0190f3a1-7c2e-4b5d-9e8f-0a1b2c3d4e5f\n",
    "Größe 7",
]
KEYS = "SELECT tenant_id, source, foreign_id, event_id, body_hash FROM {} ORDER BY event_id"


@pytest.fixture
def before(postgres: ServerAddress) -> Iterator[str]:
    """Name of a database as it was before."""
    with psycopg.connect(postgres.owner_conninfo("postgres"), autocommit=True) as owner:
        owner.execute("CREATE DATABASE wordy_keys")
        move(postgres.owner_url("wordy_keys"), BEFORE)
        yield "wordy_keys"
        owner.execute("DROP DATABASE wordy_keys WITH (FORCE)")


def claimed(postgres: ServerAddress, database: str, table: str) -> list[TupleRow]:
    with psycopg.connect(postgres.owner_conninfo(database)) as owner:
        return owner.execute(KEYS.format(table).encode()).fetchall()


def test_L3_ids_that_were_claimed_stay_claimed(postgres: ServerAddress, before: str) -> None:
    url = postgres.owner_url(before)
    with psycopg.connect(postgres.owner_conninfo(before), autocommit=True) as owner:
        for tenant_id, source in ((1, "collector"), (1, "desk"), (2, "collector")):
            for text in IDS:
                owner.execute(
                    "INSERT INTO usage_key (tenant_id, source, foreign_id, event_id, body_hash) "
                    "VALUES (%s, %s, %s, %s, %s)",
                    (tenant_id, source, text, uuid4(), uuid4().bytes),
                )
    kept = claimed(postgres, before, "usage_key")
    assert len(kept) == 3 * len(IDS)

    move(url, AFTER)
    assert claimed(postgres, before, "reported_event") == kept
    with psycopg.connect(postgres.owner_conninfo(before)) as owner:
        rows = owner.execute(
            "SELECT r.foreign_id, k.foreign_key, k.foreign_id FROM usage_key k "
            "JOIN reported_event r USING (event_id)"
        ).fetchall()
    for shown, key, text in rows:
        expected, kept_text = reported_key(shown)
        assert (key, text) == (UUID(bytes=expected), kept_text)

    move(url, BEFORE, down=True)
    assert claimed(postgres, before, "usage_key") == kept
