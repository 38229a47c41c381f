"""Levels outlive their months: the last reading of each stays when its events leave.

Seats or capacity hold until the next reading. Without it, later periods would read nothing.
"""

from __future__ import annotations

from alembic import op

revision = "20261122_1600"
down_revision = "20261121_1571"
branch_labels = None
depends_on = None

TABLE = """
CREATE TABLE usage_carried_level (
    tenant_id integer NOT NULL,
    archive_id integer NOT NULL REFERENCES usage_archive,
    meter_version_id integer NOT NULL,
    model_id integer NOT NULL,
    kind smallint NOT NULL,
    project_id integer NOT NULL,
    event_id uuid NOT NULL,
    occurred_at timestamptz NOT NULL,
    epoch bigint NOT NULL,
    -- None if every reading was taken back.
    value numeric,
    -- When the first of the readings occurred for which this one stands.
    since timestamptz NOT NULL,
    -- The newest epoch of those readings and of what took some of them back.
    known_epoch bigint NOT NULL,
    PRIMARY KEY (tenant_id, archive_id, meter_version_id, event_id),
    CHECK (since <= occurred_at AND epoch <= known_epoch)
);
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON usage_carried_level
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
ALTER TABLE usage_carried_level ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant_only ON usage_carried_level TO steelyard_tenant
    USING (tenant_id = current_tenant()) WITH CHECK (tenant_id = current_tenant());
CREATE POLICY all_rows ON usage_carried_level TO steelyard_operator
    USING (true) WITH CHECK (true);
GRANT SELECT ON usage_carried_level TO steelyard_operator, steelyard_tenant;
"""

# Readings are read under a lock on the old partition alone, so that the lock on the ledger stays
# short. A correction may be under way meanwhile: whoever makes one has read the event, so that
# DETACH waits for its end; that there was none is looked at behind it.
CARRYING = """
CREATE OR REPLACE FUNCTION drop_usage_month(of_month date, at timestamptz) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    name text := 'usage_event_' || to_char(of_month, 'YYYYMM');
    ends timestamptz := (of_month + interval '1 month') AT TIME ZONE 'UTC';
    first_id uuid := public.first_event_id(of_month::timestamp AT TIME ZONE 'UTC');
    end_id uuid := public.first_event_id(ends);
    oldest text;
    held bigint;
    newest bigint;
    taken_back bigint;
    archive public.usage_archive;
    sets integer[];
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
    SELECT count(*) INTO taken_back FROM public.usage_correction
     WHERE corrects >= first_id AND corrects < end_id;
    SELECT array_agg(s.id) INTO sets FROM public.meter_set s
     WHERE EXISTS (SELECT FROM public.meter_version v WHERE v.id = ANY (s.meter_version_ids)
                      AND v.aggregation = 'time_weighted_sum');
    EXECUTE format($carry$
        INSERT INTO public.usage_carried_level
        SELECT DISTINCT ON (tenant_id, code, model_id, kind, project_id, alone)
               tenant_id, $1, meter_version_id, model_id, kind, project_id, id, occurred_at, epoch,
               CASE WHEN taken_back_by IS NULL THEN value END, min(occurred_at) OVER same,
               max(greatest(epoch, taken_back_in)) OVER same
          FROM (SELECT e.tenant_id, v.code, v.id AS meter_version_id, e.model_id, e.kind,
                       e.project_id, e.id, e.occurred_at, e.epoch, q.value,
                       c.event_id AS taken_back_by, x.epoch AS taken_back_in,
                       -- Behind the month's end each counts, where a period begins there.
                       CASE WHEN e.occurred_at >= $2 THEN e.id END AS alone
                  FROM public.%I e
                  JOIN public.meter_set s ON s.id = e.meter_set_id
                 CROSS JOIN LATERAL unnest(s.meter_version_ids, e.quantities)
                       AS q (meter_version_id, value)
                  JOIN public.meter_version v ON v.id = q.meter_version_id
                       AND v.aggregation = 'time_weighted_sum'
                  LEFT JOIN public.usage_correction c ON c.corrects = e.id
                  LEFT JOIN public.usage_event x ON x.id = c.event_id
                 WHERE e.meter_set_id = ANY ($3)
                   AND NOT EXISTS (SELECT FROM public.usage_correction o
                                    WHERE o.event_id = e.id)) r
        WINDOW same AS (PARTITION BY tenant_id, code, model_id, kind, project_id, alone)
         ORDER BY tenant_id, code, model_id, kind, project_id, alone, taken_back_by IS NOT NULL,
                  occurred_at DESC, epoch DESC, id DESC
        $carry$, name) USING archive.id, ends, sets;
    EXECUTE format('ALTER TABLE public.usage_event DETACH PARTITION public.%I', name);
    IF taken_back <> (SELECT count(*) FROM public.usage_correction
                       WHERE corrects >= first_id AND corrects < end_id) THEN
        RAISE EXCEPTION 'an event of month % was corrected meanwhile', of_month
            USING ERRCODE = 'lock_not_available';
    END IF;
    EXECUTE format('DROP TABLE public.%I', name);
    INSERT INTO public.usage_horizon VALUES (of_month, archive.id, ends, at);
    RETURN held;
END $$;
"""

FORGETTING = """
CREATE OR REPLACE FUNCTION drop_usage_month(of_month date, at timestamptz) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp SET lock_timeout = '2s' AS $$
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
"""


def upgrade() -> None:
    op.execute(TABLE)
    op.execute(CARRYING)


def downgrade() -> None:
    op.execute(FORGETTING)
    op.execute("DROP TABLE usage_carried_level")
