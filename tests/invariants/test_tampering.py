"""L7: whoever changes anything that counts, even with every guard off, is found and named.

Columns are read from the catalog: every one of the tables below is changed, and a column that
may be changed unseen is in `NOT_EVIDENCE` with its reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from billing.store.database import Database
from billing.store.embedded.address import ServerAddress
from tests.conftest import migrated_copy
from tests.invariants.tampering import Sealed, make_sealed

TREE = "kind || coalesce(':' || coalesce(tenant_id, legal_entity_id), '')"

TABLES = {
    "usage_event": "id",
    "usage_key": "event_id",
    "usage_correction": "event_id",
    "usage_property": "event_id",
    "usage_rollup": "bucket",
    "usage_rollup_day": "day",
    "usage_run_total": "run_id",
    "usage_dimension_rollup": "dimension || '=' || value",
    "usage_dimension_rollup_day": "dimension || '=' || value",
    "account": "id",
    "account_balance": "account_id",
    "ledger_transaction": "id",
    "posting": "transaction_id",
    "accounting_period": "period_end::date",
    "seal_key": "id",
    "seal_tree": TREE,
    "seal_hashes": f"(SELECT {TREE} FROM seal_tree WHERE id = tree_id)",
    "seal_fold": "size",
    "seal_head": "size",
    "sealed_transaction": "transaction_id",
    "usage_archive": "url",
    "usage_archived_total": "bucket",
    "usage_archived_dimension_total": "dimension || '=' || value",
    "usage_carried_level": "event_id",
    "usage_horizon": "month",
}
"""What is verified, and what of a row names it."""

NAMES = {
    "meter_set": ("meter_version_ids",),
    "meter_version": ("code",),
    "model": ("name",),
    "backend": ("name",),
    "usage_shape": ("paths",),
    "usage_source": ("tenant_id", "source"),
}
"""Words that the records of events spell out; what else these tables say counts nothing."""

NOT_EVIDENCE = {
    # Numbers of batches: they say when a sum was touched last, and no sum depends on them.
    ("usage_rollup", "epoch"),
    ("usage_rollup_day", "epoch"),
    ("usage_run_total", "epoch"),
    ("usage_dimension_rollup", "epoch"),
    ("usage_dimension_rollup_day", "epoch"),
    # When and by whom: the digest of the balances is what a closed period promises.
    ("accounting_period", "closed_at"),
    ("accounting_period", "closed_by"),
    # Signed heads say themselves when they were made, and in which order.
    ("seal_key", "valid_from"),
    # Of a file that its checksum, its rows and the seal describe already.
    ("usage_archive", "ordinal"),
    ("usage_archive", "bytes"),
    ("usage_archive", "first_epoch"),
    ("usage_archive", "last_epoch"),
    ("usage_archive", "archived_at"),
    ("usage_horizon", "dropped_at"),
    # Only the order counts, and another order is named.
    ("sealed_transaction", "ordinal"),
    # Which database transaction wrote it: asked only until that one ends.
    ("ledger_transaction", "written_by"),
}
"""Columns that may be changed unseen."""

MOVED = {
    # Named by the leaf that is gone, or by what carries the row now.
    "usage_event.epoch",
    "usage_event.tenant_id",
    # Named by the account whose versions they are.
    "posting.account_version",
    "posting.balance_after",
    "posting.reached_at",
    "posting.known_at",
    "posting.out_of_order",
    # Named by the leaf in the fold that it was taken out of.
    "sealed_transaction.fold_size",
    # Named by the legal entity whose periods do not follow each other.
    "accounting_period.digest",
    # Every sum of the month, or of the run, is wrong at once.
    "usage_horizon.archive_id",
    "usage_archived_total.run_id",
}
"""Columns whose change is found under another name than the row's."""

MAY_BE_GONE = {
    # The newest closed period would be open again. What its postings say is sealed without it,
    # and whatever is posted into it then is sealed with the time of that.
    "accounting_period",
}
"""Tables whose newest row may be taken away unseen."""

CHANGED = {
    "uuid": "overlay({c}::text placing (CASE right({c}::text, 1) WHEN '0' THEN '1' ELSE '0' END) "
    "from 36)::uuid",
    "timestamp with time zone": "{c} + interval '1 microsecond'",
    "date": "{c} + interval '1 month'",
    "boolean": "NOT {c}",
    "text": "{c} || 'x'",
    "character": "'XXX'",
    "bytea": "CASE length({c}) WHEN 0 THEN '\\x00' ELSE set_byte({c}, 0, get_byte({c}, 0) # 1) END",
    "numeric": "{c} + 0.000000000001",
    "numeric[]": "array_append({c}[2:], {c}[1] + 0.000001)",
    "integer[]": "{c} || 1",
    "text[]": "{c} || '{{x}}'",
    "xid8": "(({c}::text::bigint + 1)::text)::xid8",
    "integer": "{c} + 1000",
    "bigint": "{c} + 1000",
    "smallint": "{c} + 100",
}
FILLED = {
    "uuid": "'0190c0de-0000-7000-8000-000000000001'",
    "timestamp with time zone": "'2026-11-02Z'",
    "text": "'x'",
    "integer": "1",
    "bigint": "1",
    "numeric": "1.5",
    "bytea": "sha256('x')",
}


@pytest.fixture(scope="module")
def sealed(postgres: ServerAddress, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sealed]:
    """One for all tests here: whatever they change is rolled back.

    Its owner keeps one connection, whose server process knows the catalog after the first test.
    """
    with migrated_copy(postgres) as name:
        owner = sa.create_engine(postgres.owner_url(name), pool_size=1, max_overflow=0)
        database = Database(postgres.app_url(name))
        sealed = make_sealed(database, owner, tmp_path_factory.mktemp("sealed"))
        without_checks(owner)
        yield sealed
        database.close()
        owner.dispose()


def without_checks(owner: sa.Engine) -> None:
    """A check would refuse some of the values before anybody has to find them."""
    with owner.begin() as connection:
        for table, name in connection.exec_driver_sql(
            "SELECT conrelid::regclass::text, conname FROM pg_constraint WHERE contype = 'c' "
            "AND connamespace = 'public'::regnamespace AND conislocal "
            # Which kind of tree belongs to whom is for the database alone to say.
            "AND conrelid <> 'seal_tree'::regclass"
        ).fetchall():
            connection.exec_driver_sql(f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {name}")


@pytest.fixture(autouse=True)
def _nothing_stays_changed(sealed: Sealed) -> Iterator[None]:
    """What one test left behind would be found in place of what the next one changes."""
    yield
    assert sealed.findings() == []


def columns(sealed: Sealed, table: str) -> list[tuple[str, str, bool]]:
    """(name, type, whether it is a number that the database alone gives)."""
    rows = sealed.rows(
        "SELECT attname, format_type(atttypid, NULL), attidentity <> '' FROM pg_attribute "
        f"WHERE attrelid = '{table}'::regclass AND attnum > 0 AND NOT attisdropped "
        "AND attgenerated = '' ORDER BY attnum"
    )
    return [(str(name), str(kind), bool(fixed)) for name, kind, fixed in rows]


def change(column: str, kind: str, *, null: bool) -> str:
    """An expression that is another value of the column, however little it differs."""
    if null:
        return FILLED[kind]
    if column in ("epoch_after", "books_from"):
        # Not across the other end of the stretch.
        return f"{column} - 1000"
    return CHANGED[kind].format(c=column)


def names(said: str, subject: str) -> bool:
    """Whether it is said as a word of its own: a number alone is in many another one."""
    return re.search(rf"(?<![\w-]){re.escape(subject)}(?![\w-])", said) is not None


def unnamed(sealed: Sealed, table: str, name: str, column: str, kind: str) -> list[str]:
    """Changes of a column, in a row with a value and in one without, that no finding names."""
    missed: list[str] = []
    for null in (False, True):
        chosen = sealed.rows(
            f"SELECT tableoid, ctid::text, ({name})::text, {column}::text FROM {table} "
            f"WHERE {column} IS {'NULL' if null else 'NOT NULL'} ORDER BY 1, ctid LIMIT 1"
        )
        for oid, ctid, subject, before in chosen:
            try:
                found = sealed.findings(
                    f"UPDATE {table} SET {column} = {change(column, kind, null=null)} "
                    f"WHERE tableoid = {oid} AND ctid = '{ctid}'"
                )
            except IntegrityError:
                assert table == "seal_tree"
                continue
            said = " ".join(f"{each.kind} {each.subject} {each.problem}" for each in found)
            # Where the name itself was changed, the place is named where it was sealed.
            moved = column in name or f"{table}.{column}" in MOVED
            if not found or not (moved or names(said, str(subject))):
                missed.append(f"{table}.{column} of {subject}, was {before}: {said or 'nothing'}")
    return missed


def test_L7_every_column_of_what_is_sealed_is_verified_and_named(sealed: Sealed) -> None:
    assert sealed.findings() == []
    missed: list[str] = []
    tried = 0
    for table, name in TABLES.items():
        for column, kind, fixed in columns(sealed, table):
            if fixed or (table, column) in NOT_EVIDENCE:
                continue
            missed += unnamed(sealed, table, name, column, kind)
            tried += 1
    assert not missed, "\n".join(missed)
    assert tried > 120


def test_L7_a_word_that_events_spell_out_is_verified(sealed: Sealed) -> None:
    for table, spelled in NAMES.items():
        for column, kind, _ in columns(sealed, table):
            if column in spelled:
                found = sealed.findings(
                    f"UPDATE {table} SET {column} = {change(column, kind, null=False)}"
                )
                assert {"event", "rollup"} & {each.kind for each in found}, (table, column)


def test_every_exception_names_a_column_that_is_there(sealed: Sealed) -> None:
    there = {
        (table, column)
        for table in {table for table, _ in NOT_EVIDENCE}
        for column, _, _ in columns(sealed, table)
    }
    assert there >= NOT_EVIDENCE


def test_L7_every_row_that_is_taken_away_is_missed(sealed: Sealed) -> None:
    unseen: list[tuple[str, str]] = []
    for table in TABLES.keys() - MAY_BE_GONE:
        for place in ("min", "max"):
            found = sealed.findings(
                f"DELETE FROM {table} WHERE (tableoid::bigint, ctid) = (SELECT tableoid::bigint, "
                f"{place}(ctid) FROM {table} GROUP BY tableoid ORDER BY 1 LIMIT 1)"
            )
            if not found or not all(each.subject for each in found):
                unseen.append((table, place))
    assert unseen == []


@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        (
            (
                "INSERT INTO usage_event SELECT (overlay(id::text placing 'ffff' from 33))::uuid, "
                "{others} FROM usage_event ORDER BY id LIMIT 1"
            ),
            "event",
        ),
        (
            (
                "INSERT INTO usage_rollup SELECT tenant_id, bucket - interval '1 day', {others} "
                "FROM usage_rollup LIMIT 1"
            ),
            "rollup",
        ),
        (
            (
                "INSERT INTO usage_run_total SELECT tenant_id, 'forged', {others} "
                "FROM usage_run_total LIMIT 1"
            ),
            "rollup",
        ),
        (
            (
                "INSERT INTO usage_dimension_rollup SELECT tenant_id, bucket - interval '1 day', "
                "{others} FROM usage_dimension_rollup LIMIT 1"
            ),
            "rollup",
        ),
        (
            (
                "INSERT INTO usage_property SELECT (SELECT max(id::text)::uuid FROM usage_event "
                "WHERE run_id <> ''), tenant_id, {others} FROM usage_property LIMIT 1"
            ),
            "event",
        ),
        (
            (
                "INSERT INTO posting SELECT transaction_id, ordinal + 10, {others} FROM posting "
                "ORDER BY account_version DESC LIMIT 1"
            ),
            "transaction",
        ),
        (
            (
                "INSERT INTO seal_head SELECT tree_id, size + 1, root, 1, 10000, fold_size "
                "FROM seal_head ORDER BY size DESC LIMIT 1"
            ),
            "head",
        ),
    ],
)
def test_L7_a_forged_row_is_named(sealed: Sealed, statement: str, kind: str) -> None:
    table = statement.split()[2]
    keys = {"usage_event": 1, "seal_head": 6}.get(table, 2)
    others = ", ".join(name for name, _, _ in columns(sealed, table)[keys:])
    # As forgers would: without the constraint that stands in their way.
    found = sealed.findings(
        "ALTER TABLE posting DROP CONSTRAINT posting_account_id_account_version_key",
        statement.format(others=others),
    )
    assert kind in {each.kind for each in found}


@pytest.mark.parametrize(
    ("table", "swapped"),
    [
        ("usage_event", ("quantities",)),
        ("usage_event", ("epoch",)),
        ("usage_event", ("occurred_at",)),
        ("usage_key", ("foreign_id",)),
        ("usage_key", ("foreign_key",)),
        ("usage_property", ("texts",)),
        ("posting", ("amount",)),
        ("ledger_transaction", ("reference",)),
        ("sealed_transaction", ("transaction_id",)),
        ("seal_head", ("root",)),
        ("seal_fold", ("root", "signature")),
    ],
)
def test_L7_two_rows_that_change_places_are_named(
    sealed: Sealed, table: str, swapped: tuple[str, ...]
) -> None:
    ((one, other, oid),) = sealed.rows(
        f"SELECT a.ctid::text, b.ctid::text, a.tableoid FROM {table} a JOIN {table} b "
        f"ON a.tableoid = b.tableoid AND a.{swapped[0]} <> b.{swapped[0]} "
        "ORDER BY a.tableoid, a.ctid, b.ctid LIMIT 1"
    )
    sets = ", ".join(f"{column} = other.{column}" for column in swapped)
    found = sealed.findings(
        "ALTER TABLE usage_key DROP CONSTRAINT usage_key_pkey",
        "ALTER TABLE sealed_transaction DROP CONSTRAINT sealed_transaction_transaction_id_key",
        f"CREATE TEMP TABLE other AS SELECT ctid AS place, * FROM {table} "
        f"WHERE tableoid = {oid} AND ctid IN ('{one}', '{other}')",
        f"UPDATE {table} t SET {sets} FROM pg_temp.other WHERE t.tableoid = {oid} "
        f"AND t.ctid IN ('{one}', '{other}') AND other.place <> t.ctid",
        "DROP TABLE pg_temp.other",
    )
    assert found
    assert all(each.subject for each in found)
