"""Retention: archives of closed months, what they held, the oldest kept instant, refused records.

A month leaves the database in one transaction of the owner's function, and only if the newest
archive of it holds every row that the partition holds.
"""

from __future__ import annotations

from alembic import op

revision = "20261121_1100"
down_revision = "20261121_1090"
branch_labels = None
depends_on = None

TABLES = """
CREATE TABLE usage_archive (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    month date NOT NULL CHECK (extract(day FROM month) = 1),
    ordinal integer NOT NULL CHECK (ordinal > 0),
    url text NOT NULL,
    bytes bigint NOT NULL,
    sha256 bytea NOT NULL CHECK (length(sha256) = 32),
    events bigint NOT NULL,
    first_epoch bigint,
    last_epoch bigint,
    archived_at timestamptz NOT NULL,
    UNIQUE (month, ordinal),
    CHECK ((events = 0) = (last_epoch IS NULL) AND (events = 0) = (first_epoch IS NULL))
);
-- What the rollups hold of an archived month, so that they can be checked without its events.
CREATE TABLE usage_archived_total (
    archive_id integer NOT NULL REFERENCES usage_archive,
    tenant_id integer NOT NULL,
    bucket timestamptz NOT NULL,
    meter_version_id integer NOT NULL,
    model_id integer NOT NULL,
    price_version_id integer NOT NULL,
    project_id integer NOT NULL,
    key_id integer NOT NULL,
    kind smallint NOT NULL,
    run_id text NOT NULL,
    quantity numeric NOT NULL,
    events bigint NOT NULL,
    PRIMARY KEY (archive_id, tenant_id, bucket, meter_version_id, model_id, price_version_id,
                 project_id, key_id, kind, run_id)
);
CREATE TABLE usage_horizon (
    month date PRIMARY KEY,
    archive_id integer NOT NULL UNIQUE REFERENCES usage_archive,
    oldest_kept timestamptz NOT NULL,
    dropped_at timestamptz NOT NULL
);
CREATE TABLE refused_record (
    event_id uuid NOT NULL,
    kind text NOT NULL CHECK (kind IN ('usage', 'void')),
    instance text NOT NULL,
    segment integer NOT NULL,
    page_offset bigint NOT NULL,
    reason text NOT NULL,
    payload bytea NOT NULL,
    refused_at timestamptz NOT NULL,
    PRIMARY KEY (event_id, kind)
);
"""

# Plain DETACH: the concurrent form cannot run in a transaction, and a crash between detaching and
# dropping would leave a table that nobody counts. The lock on the ledger is short, because rows
# are counted before under a lock on the old partition alone.
FUNCTIONS = """
CREATE FUNCTION drop_usage_month(of_month date, at timestamptz) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public SET lock_timeout = '2s' AS $$
DECLARE
    name text := 'usage_event_' || to_char(of_month, 'YYYYMM');
    oldest text;
    held bigint;
    newest bigint;
    archive public.usage_archive;
BEGIN
    SELECT min(c.relname) INTO oldest FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
     WHERE i.inhparent = 'public.usage_event'::regclass;
    IF oldest IS DISTINCT FROM name THEN
        RAISE EXCEPTION 'months leave from the oldest one on, which is not %', of_month
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    EXECUTE format('LOCK TABLE public.%I IN SHARE MODE', name);
    EXECUTE format('SELECT count(*), max(epoch) FROM public.%I', name) INTO held, newest;
    SELECT * INTO archive FROM public.usage_archive a WHERE a.month = of_month
     ORDER BY a.ordinal DESC LIMIT 1;
    IF archive.id IS NULL OR archive.events <> held
       OR archive.last_epoch IS DISTINCT FROM newest THEN
        RAISE EXCEPTION 'month % is not archived as it is now', of_month
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    EXECUTE format('ALTER TABLE public.usage_event DETACH PARTITION public.%I', name);
    EXECUTE format('DROP TABLE public.%I', name);
    INSERT INTO public.usage_horizon
    VALUES (of_month, archive.id, (of_month + interval '1 month') AT TIME ZONE 'UTC', at);
    RETURN held;
END $$;
CREATE FUNCTION make_restored_usage(of_month date) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public AS $$
DECLARE
    name text := 'restored_usage_' || to_char(of_month, 'YYYYMM');
BEGIN
    EXECUTE format('CREATE TABLE public.%I (LIKE public.usage_event INCLUDING CONSTRAINTS)', name);
    EXECUTE format('ALTER TABLE public.%I ADD PRIMARY KEY (id)', name);
    EXECUTE format('CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON public.%I '
                   'FOR EACH STATEMENT EXECUTE FUNCTION public.refuse_change()', name);
    EXECUTE format('GRANT SELECT, INSERT ON public.%I TO steelyard_operator', name);
    RETURN name;
END $$;
CREATE FUNCTION drop_restored_usage(of_month date) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public AS $$
BEGIN
    EXECUTE format('DROP TABLE IF EXISTS public.%I',
                   'restored_usage_' || to_char(of_month, 'YYYYMM'));
END $$;
"""

LEDGERS = ("usage_archive", "usage_archived_total", "usage_horizon", "refused_record")
MAINTAINED = (
    "drop_usage_month(date, timestamptz)",
    "make_restored_usage(date)",
    "drop_restored_usage(date)",
)


def upgrade() -> None:
    op.execute(TABLES)
    op.execute(FUNCTIONS)
    for table in LEDGERS:
        op.execute(
            f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
    op.execute("ALTER TABLE usage_archived_total ENABLE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY all_rows ON usage_archived_total TO steelyard_operator "
        "USING (true) WITH CHECK (true)"
    )
    op.execute(f"GRANT SELECT ON {', '.join(LEDGERS)} TO steelyard_operator")
    op.execute("GRANT INSERT ON usage_archive, usage_archived_total TO steelyard_operator")
    op.execute("GRANT SELECT ON usage_horizon TO steelyard_ingest, steelyard_maintainer")
    op.execute("GRANT INSERT, SELECT ON refused_record TO steelyard_ingest")
    for function in MAINTAINED:
        op.execute(f"REVOKE EXECUTE ON FUNCTION {function} FROM public")
        op.execute(f"GRANT EXECUTE ON FUNCTION {function} TO steelyard_maintainer")
    # Archives are read back into temporary tables, batch by batch, to be compared.
    op.execute(
        """
        DO $$ BEGIN
            EXECUTE format('GRANT TEMPORARY ON DATABASE %I TO steelyard_operator',
                           current_database());
        END $$
        """
    )


def downgrade() -> None:
    op.execute(
        """
        DO $$ BEGIN
            EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM steelyard_operator',
                           current_database());
        END $$
        """
    )
    for function in MAINTAINED:
        op.execute(f"DROP FUNCTION {function}")
    for table in ("refused_record", "usage_horizon", "usage_archived_total", "usage_archive"):
        op.execute(f"DROP TABLE {table}")
