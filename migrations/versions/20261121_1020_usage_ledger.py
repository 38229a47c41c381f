"""Usage ledger: epochs, events partitioned by id, foreign keys for ever, rollups of quarter hours
and days, totals of runs, parking."""

from __future__ import annotations

from alembic import op

revision = "20261121_1020"
down_revision = "20261121_1010"
branch_labels = None
depends_on = None

TABLES = """
CREATE TABLE ledger_epoch (
    shard integer PRIMARY KEY,
    epoch bigint NOT NULL
);
INSERT INTO ledger_epoch VALUES (0, 0);
CREATE TABLE meter_set (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    meter_version_ids integer[] NOT NULL UNIQUE
);
CREATE TABLE usage_shape (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    paths text[] NOT NULL UNIQUE
);
CREATE TABLE backend (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE
);
CREATE TABLE usage_event (
    id uuid NOT NULL PRIMARY KEY,
    occurred_at timestamptz NOT NULL,
    epoch bigint NOT NULL,
    tenant_id integer NOT NULL,
    project_id integer NOT NULL,
    key_id integer NOT NULL,
    model_id integer NOT NULL,
    backend_id integer NOT NULL,
    price_version_id integer NOT NULL,
    meter_set_id integer NOT NULL,
    raw_shape_id integer NOT NULL,
    ttft_us bigint NOT NULL,
    duration_us bigint NOT NULL,
    kind smallint NOT NULL,
    cause smallint NOT NULL,
    estimated boolean NOT NULL,
    -- No column may be null: one null costs every event eight bytes of bitmap. Counts are zigzag
    -- LEB128, a byte or two each; most events belong to no run, and '' takes one byte.
    quantities numeric[] NOT NULL,
    raw_counts bytea NOT NULL,
    run_id text NOT NULL CHECK (octet_length(run_id) <= 256)
) PARTITION BY RANGE (id);
CREATE INDEX usage_event_tenant_time ON usage_event (tenant_id, occurred_at);
-- Rows lie in the order of their epochs, so "what came after epoch x" needs a few bytes per range.
CREATE INDEX usage_event_epoch ON usage_event USING brin (epoch) WITH (autosummarize = on);
CREATE TABLE usage_key (
    tenant_id integer NOT NULL,
    source text NOT NULL,
    foreign_id text NOT NULL,
    event_id uuid NOT NULL,
    body_hash bytea NOT NULL,
    PRIMARY KEY (tenant_id, source, foreign_id)
) PARTITION BY HASH (tenant_id, source, foreign_id);
CREATE TABLE usage_rollup (
    tenant_id integer NOT NULL,
    bucket timestamptz NOT NULL,
    meter_version_id integer NOT NULL,
    model_id integer NOT NULL,
    price_version_id integer NOT NULL,
    project_id integer NOT NULL,
    key_id integer NOT NULL,
    kind smallint NOT NULL,
    quantity numeric NOT NULL,
    events bigint NOT NULL,
    epoch bigint NOT NULL,
    PRIMARY KEY (tenant_id, bucket, meter_version_id, model_id, price_version_id, project_id,
                 key_id, kind)
);
CREATE TABLE usage_rollup_day (
    tenant_id integer NOT NULL,
    day date NOT NULL,
    meter_version_id integer NOT NULL,
    model_id integer NOT NULL,
    price_version_id integer NOT NULL,
    project_id integer NOT NULL,
    key_id integer NOT NULL,
    kind smallint NOT NULL,
    quantity numeric NOT NULL,
    events bigint NOT NULL,
    epoch bigint NOT NULL,
    PRIMARY KEY (tenant_id, day, meter_version_id, model_id, price_version_id, project_id, key_id,
                 kind)
);
CREATE TABLE usage_run_total (
    tenant_id integer NOT NULL,
    run_id text NOT NULL,
    meter_version_id integer NOT NULL,
    model_id integer NOT NULL,
    price_version_id integer NOT NULL,
    kind smallint NOT NULL,
    quantity numeric NOT NULL,
    events bigint NOT NULL,
    epoch bigint NOT NULL,
    PRIMARY KEY (tenant_id, run_id, meter_version_id, model_id, price_version_id, kind)
);
CREATE TABLE scrap_attempt (
    id uuid PRIMARY KEY,
    at timestamptz NOT NULL,
    tenant_id integer NOT NULL,
    model_id integer NOT NULL,
    backend_id integer NOT NULL,
    reason text NOT NULL
);
CREATE INDEX scrap_attempt_time ON scrap_attempt (at);
CREATE TABLE parked_usage (
    id uuid PRIMARY KEY,
    tenant_id integer NOT NULL,
    source text NOT NULL,
    foreign_id text NOT NULL,
    body_hash bytea NOT NULL,
    meter text NOT NULL,
    model text,
    project text,
    quantity numeric NOT NULL,
    kind smallint NOT NULL,
    occurred_at timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    reason text NOT NULL,
    UNIQUE (tenant_id, source, foreign_id)
);
CREATE TABLE journal_cursor (
    instance text PRIMARY KEY,
    segment integer NOT NULL,
    next_offset bigint NOT NULL,
    finished boolean NOT NULL DEFAULT false,
    updated_at timestamptz NOT NULL
);
"""

# An id's first 48 bits are milliseconds since 1970; the bounds of a partition are those of a
# calendar month in UTC. Only the owner can add one; workers call this function.
PARTITIONS = """
CREATE FUNCTION first_event_id(at timestamptz) RETURNS uuid
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog AS $$
    SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0')
            || repeat('0', 20))::uuid
$$;
CREATE FUNCTION ensure_usage_partitions(from_time timestamptz, months integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public AS $$
DECLARE
    start timestamptz;
    name text;
    made integer := 0;
BEGIN
    -- Two processes that start together would both see the partition missing.
    PERFORM pg_advisory_xact_lock(hashtext('ensure_usage_partitions'));
    FOR step IN 0..months LOOP
        start := date_trunc('month', from_time, 'UTC') + make_interval(months => step);
        start := date_trunc('month', start + interval '3 days', 'UTC');
        name := 'usage_event_' || to_char(start AT TIME ZONE 'UTC', 'YYYYMM');
        IF to_regclass('public.' || name) IS NULL THEN
            EXECUTE format(
                'CREATE TABLE public.%I PARTITION OF public.usage_event '
                'FOR VALUES FROM (%L) TO (%L)',
                name, public.first_event_id(start),
                public.first_event_id(date_trunc('month', start + interval '35 days', 'UTC')));
            EXECUTE format(
                'CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON public.%I '
                'FOR EACH STATEMENT EXECUTE FUNCTION public.refuse_change()', name);
            made := made + 1;
        END IF;
    END LOOP;
    RETURN made;
END $$;
REVOKE EXECUTE ON FUNCTION ensure_usage_partitions FROM public;
GRANT EXECUTE ON FUNCTION ensure_usage_partitions TO steelyard_maintainer, steelyard_ingest;
"""

LEDGERS = ("usage_event", "usage_key", "scrap_attempt", "meter_set", "usage_shape")
ROLLUPS = ("usage_rollup", "usage_rollup_day", "usage_run_total")
TENANT_TABLES = ("usage_event", "usage_key", *ROLLUPS, "scrap_attempt", "parked_usage")
KEY_PARTITIONS = 8


def upgrade() -> None:
    op.execute(TABLES)
    op.execute(PARTITIONS)
    for part in range(KEY_PARTITIONS):
        op.execute(
            f"CREATE TABLE usage_key_{part} PARTITION OF usage_key "
            f"FOR VALUES WITH (MODULUS {KEY_PARTITIONS}, REMAINDER {part})"
        )
    for table in (*LEDGERS, *(f"usage_key_{part}" for part in range(KEY_PARTITIONS))):
        op.execute(
            f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
    op.execute("SELECT ensure_usage_partitions(now(), 3)")
    for table in TENANT_TABLES:
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(
            f"CREATE POLICY tenant_only ON {table} TO steelyard_tenant "
            "USING (tenant_id = current_tenant()) WITH CHECK (tenant_id = current_tenant())"
        )
        op.execute(
            f"CREATE POLICY all_rows ON {table} TO steelyard_operator, steelyard_ingest "
            "USING (true) WITH CHECK (true)"
        )
    names = ", ".join((*TENANT_TABLES, "meter_set", "usage_shape", "backend", "ledger_epoch"))
    op.execute(f"GRANT SELECT ON {names}, journal_cursor TO steelyard_operator")
    op.execute(
        f"GRANT SELECT ON usage_event, {', '.join(ROLLUPS)}, parked_usage, meter_set, "
        "usage_shape, backend TO steelyard_tenant"
    )
    op.execute(
        f"GRANT INSERT ON usage_event, usage_key, {', '.join(ROLLUPS)}, scrap_attempt, "
        "parked_usage, meter_set, usage_shape, backend, journal_cursor TO steelyard_ingest"
    )
    op.execute(
        f"GRANT SELECT ON usage_key, {', '.join(ROLLUPS)}, parked_usage, scrap_attempt, "
        "meter_set, usage_shape, backend, ledger_epoch, journal_cursor TO steelyard_ingest"
    )
    op.execute("GRANT SELECT (id) ON usage_event TO steelyard_ingest")
    for table in ROLLUPS:
        op.execute(f"GRANT UPDATE (quantity, events, epoch) ON {table} TO steelyard_ingest")
    op.execute("GRANT UPDATE ON journal_cursor, ledger_epoch TO steelyard_ingest")


def downgrade() -> None:
    for table in (
        "journal_cursor",
        "parked_usage",
        "scrap_attempt",
        *reversed(ROLLUPS),
        "usage_key",
        "usage_event",
        "backend",
        "usage_shape",
        "meter_set",
        "ledger_epoch",
    ):
        op.execute(f"DROP TABLE {table}")
    op.execute("DROP FUNCTION ensure_usage_partitions")
    op.execute("DROP FUNCTION first_event_id")
