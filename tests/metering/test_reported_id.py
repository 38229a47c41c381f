"""What stands for a reporter's id: a UUID for itself, a fingerprint for all else."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.metering.reported_id import fingerprint, reported_key
from billing.store.embedded.address import ServerAddress
from tests.conftest import migrated_copy
from tests.strategies import PATIENT

USUAL = "0190f3a1-7c2e-4b5d-9e8f-0a1b2c3d4e5f"
TEXTS = st.one_of(
    st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), min_size=1),
    st.uuids().map(str),
    st.text("0123456789abcdefABCDEF- \t", min_size=36, max_size=36),
)


@pytest.fixture(scope="module")
def connection(postgres: ServerAddress) -> Iterator[psycopg.Connection]:
    """A connection to a migrated database."""
    with (
        migrated_copy(postgres) as name,
        psycopg.connect(postgres.owner_conninfo(name), autocommit=True) as opened,
    ):
        yield opened


@pytest.mark.parametrize(
    "text",
    [
        USUAL,
        "00000000-0000-0000-0000-000000000000",
        "ffffffff-ffff-ffff-ffff-ffffffffffff",
        "0190f3a1-7c2e-7b5d-9e8f-0a1b2c3d4e5f",
    ],
)
def test_a_uuid_in_its_usual_form_is_its_own_key(text: str) -> None:
    assert reported_key(text) == (UUID(text).bytes, None)


@pytest.mark.parametrize(
    "text",
    [
        "e-1",
        "",
        USUAL.upper(),
        USUAL.replace("-", ""),
        f"{{{USUAL}}}",
        f"urn:uuid:{USUAL}",
        USUAL.replace("b", "g"),
        USUAL[:-1] + "-",
        USUAL[:-2] + " f",
        USUAL[:-1] + "\N{FULLWIDTH DIGIT FIVE}",
        "0190f3a-17c2e-4b5d-9e8f-0a1b2c3d4e5f",
        "0190f3a1-7c2e-8b5d-9e8f-0a1b2c3d4e5f",
    ],
)
def test_any_other_text_is_kept_beside_its_fingerprint(text: str) -> None:
    assert reported_key(text) == (fingerprint(text), text)


@settings(PATIENT, max_examples=200)
@given(text=TEXTS)
def test_a_key_tells_its_id_and_no_uuid_is_a_fingerprint(text: str) -> None:
    key, kept = reported_key(text)
    assert len(key) == 16
    assert text == (str(UUID(bytes=key)) if kept is None else kept)
    assert (UUID(bytes=key).version == 8) == (kept is not None)
    if kept is None:
        assert fingerprint(text) != key


@settings(PATIENT, max_examples=60)
@given(text=TEXTS)
def test_the_database_computes_the_same_fingerprint(
    connection: psycopg.Connection, text: str
) -> None:
    rows = connection.execute("SELECT fingerprint_key(%s)", (text,)).fetchall()
    assert rows == [(UUID(bytes=fingerprint(text)),)]
