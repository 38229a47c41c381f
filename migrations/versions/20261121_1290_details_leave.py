"""Steps and failed attempts lie in months, and leave the database with their month's events."""

from __future__ import annotations

from alembic import op

revision = "20261121_1290"
down_revision = "20261121_1285"
branch_labels = None
depends_on = None

# What failed attempts came to stays: the margin of a past month tells their number.
TABLES = """
CREATE TABLE usage_archive_detail (
    archive_id integer NOT NULL REFERENCES usage_archive,
    kind text NOT NULL CHECK (kind IN ('steps', 'attempts')),
    url text NOT NULL,
    bytes bigint NOT NULL,
    sha256 bytea NOT NULL CHECK (length(sha256) = 32),
    rows bigint NOT NULL CHECK (rows > 0),
    PRIMARY KEY (archive_id, kind)
);
CREATE TABLE usage_archived_attempt_total (
    archive_id integer NOT NULL REFERENCES usage_archive,
    bucket timestamptz NOT NULL,
    tenant_id integer NOT NULL,
    model_id integer NOT NULL,
    backend_id integer NOT NULL,
    reason text NOT NULL,
    attempts bigint NOT NULL,
    PRIMARY KEY (archive_id, bucket, tenant_id, model_id, backend_id, reason)
);
CREATE INDEX usage_archived_attempt_time ON usage_archived_attempt_total (bucket);
"""

FUNCTIONS = """
CREATE FUNCTION ensure_detail_partitions(from_time timestamptz, months integer) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    start timestamptz;
    parent text;
    name text;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('ensure_detail_partitions'));
    FOR step IN 0..months LOOP
        start := date_trunc('month', from_time, 'UTC') + make_interval(months => step);
        start := date_trunc('month', start + interval '3 days', 'UTC');
        FOREACH parent IN ARRAY ARRAY['usage_attempt', 'usage_step'] LOOP
            name := parent || '_' || to_char(start AT TIME ZONE 'UTC', 'YYYYMM');
            IF to_regclass('public.' || name) IS NULL THEN
                EXECUTE format(
                    'CREATE TABLE public.%I PARTITION OF public.%I FOR VALUES FROM (%L) TO (%L)',
                    name, parent, public.first_event_id(start),
                    public.first_event_id(date_trunc('month', start + interval '35 days', 'UTC')));
                EXECUTE format(
                    'CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON public.%I '
                    'FOR EACH STATEMENT EXECUTE FUNCTION public.refuse_change()', name);
            END IF;
        END LOOP;
    END LOOP;
END $$;
CREATE FUNCTION drop_detail_month(of_month date) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    detail record;
    name text;
    held bigint;
    archived bigint;
BEGIN
    FOR detail IN SELECT * FROM (VALUES ('usage_attempt', 'attempts'), ('usage_step', 'steps'))
                           AS d (parent, kind) LOOP
        name := detail.parent || '_' || to_char(of_month, 'YYYYMM');
        CONTINUE WHEN to_regclass('public.' || name) IS NULL;
        EXECUTE format('LOCK TABLE public.%I IN SHARE MODE', name);
        EXECUTE format('SELECT count(*) FROM public.%I', name) INTO held;
        SELECT coalesce(sum(a.rows), 0) INTO archived FROM public.usage_horizon h
          JOIN public.usage_archive_detail a ON a.archive_id = h.archive_id
         WHERE h.month = of_month AND a.kind = detail.kind;
        IF held <> archived OR NOT EXISTS (
            SELECT FROM public.usage_horizon h WHERE h.month = of_month) THEN
            RAISE EXCEPTION '% of month % are not archived as they are now', detail.kind, of_month
                USING ERRCODE = 'object_not_in_prerequisite_state';
        END IF;
        EXECUTE format('ALTER TABLE public.%I DETACH PARTITION public.%I', detail.parent, name);
        EXECUTE format('DROP TABLE public.%I', name);
    END LOOP;
END $$;
"""

# Rows move into months one after the other; ids tell which.
PARTED = """
ALTER TABLE {table} RENAME TO {table}_whole;
ALTER INDEX {table}_pkey RENAME TO {table}_whole_pkey;
ALTER INDEX {index} RENAME TO {table}_whole_index;
CREATE TABLE {table} (LIKE {table}_whole INCLUDING CONSTRAINTS, PRIMARY KEY ({key}))
    PARTITION BY RANGE ({id});
"""
MOVED = """
INSERT INTO {table} SELECT * FROM {table}_whole;
DROP TABLE {table}_whole;
CREATE INDEX {index} ON {table} ({columns});
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table}
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant_only ON {table} TO steelyard_tenant
    USING (tenant_id = current_tenant()) WITH CHECK (tenant_id = current_tenant());
CREATE POLICY all_rows ON {table} TO steelyard_operator, steelyard_ingest
    USING (true) WITH CHECK (true);
GRANT SELECT ON {table} TO steelyard_operator, steelyard_tenant, steelyard_ingest;
GRANT INSERT ON {table} TO steelyard_ingest;
"""
WHOLE = """
ALTER TABLE {table} RENAME TO {table}_parted;
ALTER INDEX {table}_pkey RENAME TO {table}_parted_pkey;
ALTER INDEX {index} RENAME TO {table}_parted_index;
CREATE TABLE {table} (LIKE {table}_parted INCLUDING CONSTRAINTS, PRIMARY KEY ({key}));
"""
DETAILS = (
    {
        "table": "usage_attempt",
        "id": "operation_id",
        "key": "operation_id, ordinal",
        "index": "usage_attempt_time",
        "columns": "at",
    },
    {
        "table": "usage_step",
        "id": "event_id",
        "key": "event_id",
        "index": "usage_step_run",
        "columns": "tenant_id, run_id, at",
    },
)
LEDGERS = ("usage_archive_detail", "usage_archived_attempt_total")
MAINTAINED = ("ensure_detail_partitions(timestamptz, integer)", "drop_detail_month(date)")


def upgrade() -> None:
    op.execute(TABLES)
    op.execute(FUNCTIONS)
    for detail in DETAILS:
        op.execute(PARTED.format(**detail))
    # Of every month that the ledger has, and of those in which an operation was void.
    op.execute(
        "SELECT ensure_detail_partitions(month, 0) FROM ("
        "SELECT to_date(right(c.relname, 6), 'YYYYMM')::timestamp AT TIME ZONE 'UTC' AS month "
        "FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid "
        "WHERE i.inhparent = 'usage_event'::regclass UNION "
        "SELECT date_trunc('month', to_timestamp(('x' || lpad(left(replace("
        "operation_id::text, '-', ''), 12), 16, '0'))::bit(64)::bigint / 1000.0), 'UTC') "
        "FROM usage_attempt_whole) m"
    )
    for detail in DETAILS:
        op.execute(MOVED.format(**detail))
    for table in LEDGERS:
        op.execute(
            f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
        op.execute(f"GRANT SELECT, INSERT ON {table} TO steelyard_operator")
    op.execute("ALTER TABLE usage_archived_attempt_total ENABLE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY all_rows ON usage_archived_attempt_total TO steelyard_operator "
        "USING (true) WITH CHECK (true)"
    )
    for function in MAINTAINED:
        op.execute(f"REVOKE EXECUTE ON FUNCTION {function} FROM public")
        op.execute(f"GRANT EXECUTE ON FUNCTION {function} TO steelyard_maintainer")
    op.execute(f"GRANT EXECUTE ON FUNCTION {MAINTAINED[0]} TO steelyard_ingest")


def downgrade() -> None:
    for function in MAINTAINED:
        op.execute(f"DROP FUNCTION {function}")
    for detail in DETAILS:
        op.execute(WHOLE.format(**detail))
        op.execute(MOVED.replace("_whole", "_parted").format(**detail))
    for table in LEDGERS[::-1]:
        op.execute(f"DROP TABLE {table}")
