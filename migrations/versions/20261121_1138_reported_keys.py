"""Keys of reported events in fewer bytes: interned sources, ids as 16 bytes, hashes as 16 bytes.

An id that is a UUID is its own key; another one has a fingerprint as its key and stays as text
beside it. `reported_event` shows both as what was reported.
"""

from __future__ import annotations

from alembic import op

revision = "20261121_1138"
down_revision = "20261121_1136"
branch_labels = None
depends_on = None

KEY_PARTITIONS = 8

# Wide columns first, so that nothing is lost to alignment; the one that may be null comes last.
# With at most eight columns a null costs nothing: its bitmap fits into the row's header.
COMPACT = """
CREATE TABLE usage_source (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id integer NOT NULL,
    source text NOT NULL,
    UNIQUE (tenant_id, source)
);
CREATE TABLE usage_key (
    foreign_key uuid NOT NULL,
    event_id uuid NOT NULL,
    body_hash uuid NOT NULL,
    tenant_id integer NOT NULL,
    source_id integer NOT NULL,
    foreign_id text,
    PRIMARY KEY (tenant_id, source_id, foreign_key)
) PARTITION BY HASH (tenant_id, source_id, foreign_key);
"""
WORDY = """
CREATE TABLE usage_key (
    tenant_id integer NOT NULL,
    source text NOT NULL,
    foreign_id text NOT NULL,
    event_id uuid NOT NULL,
    body_hash bytea NOT NULL,
    PRIMARY KEY (tenant_id, source, foreign_id)
) PARTITION BY HASH (tenant_id, source, foreign_id);
"""
INDEX = "CREATE INDEX usage_key_event ON usage_key USING brin (event_id)"

# A key that is not the one of its text stands for no id at all: the event's record then differs
# from what was sealed, so that a change of either is found.
SHOWN = """
-- One expression and stable, as `convert_to` is: only then is it unfolded where it is called, which
-- takes less than half of a call's time although it digests the text three times.
CREATE FUNCTION fingerprint_key(foreign_id text) RETURNS uuid
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT CAST(encode(set_byte(set_byte(
        substr(sha256(convert_to(foreign_id, 'UTF8')), 1, 16),
        6, get_byte(sha256(convert_to(foreign_id, 'UTF8')), 6) & 15 | 128),
        8, get_byte(sha256(convert_to(foreign_id, 'UTF8')), 8) & 63 | 128), 'hex') AS uuid)
$$;
CREATE VIEW reported_event WITH (security_invoker = true) AS
SELECT k.event_id, k.tenant_id, u.source,
       CASE WHEN k.foreign_id IS NULL THEN CAST(k.foreign_key AS text)
            WHEN k.foreign_key = fingerprint_key(k.foreign_id) THEN k.foreign_id
       END AS foreign_id,
       uuid_send(k.body_hash) AS body_hash
  FROM usage_key k
  LEFT JOIN usage_source u ON u.id = k.source_id AND u.tenant_id = k.tenant_id;
"""

TO_COMPACT = """
INSERT INTO usage_source (tenant_id, source)
SELECT DISTINCT tenant_id, source FROM kept_key ORDER BY tenant_id, source;
INSERT INTO usage_key (foreign_key, event_id, body_hash, tenant_id, source_id, foreign_id)
SELECT CASE WHEN is_uuid THEN CAST(foreign_id AS uuid) ELSE fingerprint_key(foreign_id) END,
       event_id, CAST(encode(body_hash, 'hex') AS uuid), k.tenant_id, u.id,
       CASE WHEN is_uuid THEN NULL ELSE foreign_id END
  FROM kept_key k JOIN usage_source u USING (tenant_id, source),
       LATERAL (SELECT foreign_id ~
           '^[0-9a-f]{8}-[0-9a-f]{4}-[0-79a-f][0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}$'
       ) AS form (is_uuid)
 ORDER BY event_id;
"""
TO_WORDY = """
INSERT INTO usage_key (tenant_id, source, foreign_id, event_id, body_hash)
SELECT tenant_id, source, foreign_id, event_id, body_hash FROM kept_key ORDER BY event_id;
"""


def upgrade() -> None:
    op.execute("CREATE TEMPORARY TABLE kept_key ON COMMIT DROP AS SELECT * FROM usage_key")
    op.execute("DROP TABLE usage_key")
    op.execute(COMPACT)
    _guard("usage_source")
    _make_partitions()
    op.execute(SHOWN)
    op.execute("GRANT SELECT ON reported_event TO steelyard_operator")
    op.execute(TO_COMPACT)
    op.execute("DROP TABLE kept_key")


def downgrade() -> None:
    op.execute("CREATE TEMPORARY TABLE kept_key ON COMMIT DROP AS SELECT * FROM reported_event")
    op.execute("DROP VIEW reported_event")
    op.execute("DROP FUNCTION fingerprint_key(text)")
    op.execute("DROP TABLE usage_key")
    op.execute("DROP TABLE usage_source")
    op.execute(WORDY)
    _make_partitions()
    op.execute(TO_WORDY)
    op.execute("DROP TABLE kept_key")


def _make_partitions() -> None:
    for part in range(KEY_PARTITIONS):
        op.execute(
            f"CREATE TABLE usage_key_{part} PARTITION OF usage_key "
            f"FOR VALUES WITH (MODULUS {KEY_PARTITIONS}, REMAINDER {part})"
        )
        _refuse_change(f"usage_key_{part}")
    _guard("usage_key")
    op.execute(INDEX)


def _guard(table: str) -> None:
    _refuse_change(table)
    op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
    op.execute(
        f"CREATE POLICY tenant_only ON {table} TO steelyard_tenant "
        "USING (tenant_id = current_tenant()) WITH CHECK (tenant_id = current_tenant())"
    )
    op.execute(
        f"CREATE POLICY all_rows ON {table} TO steelyard_operator, steelyard_ingest "
        "USING (true) WITH CHECK (true)"
    )
    op.execute(f"GRANT SELECT ON {table} TO steelyard_operator")
    op.execute(f"GRANT INSERT ON {table} TO steelyard_ingest")
    op.execute(f"GRANT SELECT ON {table} TO steelyard_ingest")


def _refuse_change(table: str) -> None:
    op.execute(
        f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
        "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )
