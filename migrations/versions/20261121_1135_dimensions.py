"""Dimensions of meters: what events carry for them, and rollups by their values.

`usage_property` keeps what an event carried as it was sent, not the band it fell into: other edges
can be drawn later. Rollups are by the value or band that the meter's version of the time declared.
"""

from __future__ import annotations

from alembic import op

revision = "20261121_1135"
down_revision = "20261121_1130"
branch_labels = None
depends_on = None

_KEY = """
    dimension text NOT NULL,
    value text NOT NULL,
    meter_version_id integer NOT NULL,
    model_id integer NOT NULL,
    price_version_id integer NOT NULL,
    project_id integer NOT NULL,
    key_id integer NOT NULL,
    kind smallint NOT NULL,
    quantity numeric NOT NULL,
    events bigint NOT NULL,
"""
_KEY_NAMES = (
    "dimension, value, meter_version_id, model_id, price_version_id, project_id, key_id, kind"
)

TABLES = f"""
CREATE VIEW meter_dimension WITH (security_invoker = true) AS
SELECT v.id AS meter_version_id, d ->> 'name' AS name, d ->> 'path' AS path,
       ARRAY(SELECT jsonb_array_elements_text(d -> 'edges')) AS edges
  FROM meter_version v CROSS JOIN LATERAL jsonb_array_elements(v.reading -> 'dimensions') AS d;
-- Only events that carry something have a row: those of other meters cost nothing.
CREATE TABLE usage_property (
    event_id uuid NOT NULL PRIMARY KEY,
    tenant_id integer NOT NULL,
    shape_id integer NOT NULL,
    texts text[] NOT NULL
) PARTITION BY RANGE (event_id);
CREATE TABLE usage_dimension_rollup (
    tenant_id integer NOT NULL,
    bucket timestamptz NOT NULL,
    {_KEY}
    epoch bigint NOT NULL,
    PRIMARY KEY (tenant_id, dimension, bucket, value, meter_version_id, model_id,
                 price_version_id, project_id, key_id, kind)
);
CREATE TABLE usage_dimension_rollup_day (
    tenant_id integer NOT NULL,
    day date NOT NULL,
    {_KEY}
    epoch bigint NOT NULL,
    PRIMARY KEY (tenant_id, dimension, day, value, meter_version_id, model_id,
                 price_version_id, project_id, key_id, kind)
);
CREATE TABLE usage_archived_dimension_total (
    archive_id integer NOT NULL REFERENCES usage_archive,
    tenant_id integer NOT NULL,
    bucket timestamptz NOT NULL,
    {_KEY}
    PRIMARY KEY (archive_id, tenant_id, bucket, {_KEY_NAMES})
);
"""  # noqa: S608  # our own names

# A month of properties is made and leaves with the month of their events.
FUNCTIONS = """
CREATE FUNCTION dimension_value(carried text, edges text[]) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE
        WHEN carried IS NULL THEN 'none'
        WHEN cardinality(edges) = 0 THEN carried
        WHEN length(carried) > 64 OR carried !~ '^-?[0-9]+([.][0-9]+)?$' THEN 'none'
        ELSE (SELECT CASE
                  WHEN band = 0 THEN '<' || edges[1]
                  WHEN band = cardinality(edges) THEN '>=' || edges[band]
                  ELSE edges[band] || '..' || edges[band + 1] END
                FROM width_bucket(CAST(carried AS numeric), CAST(edges AS numeric[])) AS band)
    END
$$;
CREATE FUNCTION ensure_property_partitions(from_time timestamptz, months integer) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    start timestamptz;
    name text;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('ensure_property_partitions'));
    FOR step IN 0..months LOOP
        start := date_trunc('month', from_time, 'UTC') + make_interval(months => step);
        start := date_trunc('month', start + interval '3 days', 'UTC');
        name := 'usage_property_' || to_char(start AT TIME ZONE 'UTC', 'YYYYMM');
        IF to_regclass('public.' || name) IS NULL THEN
            EXECUTE format(
                'CREATE TABLE public.%I PARTITION OF public.usage_property '
                'FOR VALUES FROM (%L) TO (%L)',
                name, public.first_event_id(start),
                public.first_event_id(date_trunc('month', start + interval '35 days', 'UTC')));
            EXECUTE format(
                'CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON public.%I '
                'FOR EACH STATEMENT EXECUTE FUNCTION public.refuse_change()', name);
        END IF;
    END LOOP;
END $$;
CREATE FUNCTION drop_property_month(of_month date) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    name text := 'usage_property_' || to_char(of_month, 'YYYYMM');
BEGIN
    IF NOT EXISTS (SELECT FROM public.usage_horizon h WHERE h.month = of_month) THEN
        RAISE EXCEPTION 'the events of month % have not left', of_month
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    IF to_regclass('public.' || name) IS NOT NULL THEN
        EXECUTE format('ALTER TABLE public.usage_property DETACH PARTITION public.%I', name);
        EXECUTE format('DROP TABLE public.%I', name);
    END IF;
END $$;
"""

ROLLUPS = ("usage_dimension_rollup", "usage_dimension_rollup_day")
OF_TENANTS = ("usage_property", *ROLLUPS)
LEDGERS = ("usage_property", "usage_archived_dimension_total")
FUNCTION_NAMES = (
    "drop_property_month(date)",
    "ensure_property_partitions(timestamptz, integer)",
)


def upgrade() -> None:
    op.execute(TABLES)
    op.execute(FUNCTIONS)
    for table in LEDGERS:
        op.execute(
            f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
    # Partitions for every month that the ledger has already, and the ones to come.
    op.execute(
        "SELECT ensure_property_partitions(to_date(right(c.relname, 6), 'YYYYMM'), 0) "
        "FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid "
        "WHERE i.inhparent = 'usage_event'::regclass"
    )
    for table in OF_TENANTS:
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(
            f"CREATE POLICY tenant_only ON {table} TO steelyard_tenant "
            "USING (tenant_id = current_tenant()) WITH CHECK (tenant_id = current_tenant())"
        )
        op.execute(
            f"CREATE POLICY all_rows ON {table} TO steelyard_operator, steelyard_ingest "
            "USING (true) WITH CHECK (true)"
        )
    op.execute("ALTER TABLE usage_archived_dimension_total ENABLE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY all_rows ON usage_archived_dimension_total TO steelyard_operator "
        "USING (true) WITH CHECK (true)"
    )
    op.execute(f"GRANT SELECT ON {', '.join(OF_TENANTS)} TO steelyard_operator, steelyard_tenant")
    op.execute("GRANT SELECT ON meter_dimension TO steelyard_operator, steelyard_tenant")
    op.execute("GRANT SELECT, INSERT ON usage_archived_dimension_total TO steelyard_operator")
    op.execute(f"GRANT INSERT ON {', '.join(OF_TENANTS)} TO steelyard_ingest")
    op.execute(f"GRANT SELECT ON {', '.join(ROLLUPS)}, meter_dimension TO steelyard_ingest")
    for table in ROLLUPS:
        op.execute(f"GRANT UPDATE (quantity, events, epoch) ON {table} TO steelyard_ingest")
    # What has left cannot be read with other edges, and whoever asks is told so.
    op.execute("GRANT SELECT ON usage_horizon TO steelyard_tenant")
    for function in FUNCTION_NAMES:
        op.execute(f"REVOKE EXECUTE ON FUNCTION {function} FROM public")
        op.execute(f"GRANT EXECUTE ON FUNCTION {function} TO steelyard_maintainer")
    op.execute(f"GRANT EXECUTE ON FUNCTION {FUNCTION_NAMES[1]} TO steelyard_ingest")


def downgrade() -> None:
    op.execute("REVOKE SELECT ON usage_horizon FROM steelyard_tenant")
    for function in FUNCTION_NAMES:
        op.execute(f"DROP FUNCTION {function}")
    op.execute("DROP FUNCTION dimension_value(text, text[])")
    for table in (*LEDGERS[::-1], *ROLLUPS):
        op.execute(f"DROP TABLE {table}")
    op.execute("DROP VIEW meter_dimension")
