"""A request that ends behind the end of its month stays when the month leaves.

A month holds what was admitted in it, and a request is billed by its last byte. Without those
events the next month, which is kept, would have lost some of its maxima, percentiles, last and
distinct values and single transactions, and would be credited for them when it is rated again.
"""

from __future__ import annotations

from alembic import op

revision = "20261122_1640"
down_revision = "20261122_1631"
branch_labels = None
depends_on = None

# What stays lies in a partition of its own, of all ids before the oldest kept one. It is complete
# when it joins the ledger, and takes no row after that: what comes too late is refused as before.
KEEPING = """
CREATE FUNCTION refuse_left_month() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    RAISE EXCEPTION 'the month of this row has left the database'
        USING ERRCODE = 'check_violation';
END $$;
CREATE FUNCTION keep_rows(parent text, staying text, before uuid) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    held bigint;
BEGIN
    IF to_regclass('public.' || parent || '_kept') IS NOT NULL THEN
        EXECUTE format('ALTER TABLE public.%I DETACH PARTITION public.%I', parent,
                       parent || '_kept');
        EXECUTE format('DROP TABLE public.%I', parent || '_kept');
    END IF;
    EXECUTE format('SELECT count(*) FROM public.%I', staying) INTO held;
    IF held = 0 THEN
        EXECUTE format('DROP TABLE public.%I', staying);
        RETURN;
    END IF;
    EXECUTE format('ALTER TABLE public.%I RENAME TO %I', staying, parent || '_kept');
    EXECUTE format('ALTER TABLE public.%I ATTACH PARTITION public.%I '
                   'FOR VALUES FROM (MINVALUE) TO (%L)', parent, parent || '_kept', before);
    EXECUTE format('CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON public.%I '
                   'FOR EACH STATEMENT EXECUTE FUNCTION public.refuse_change()',
                   parent || '_kept');
    EXECUTE format('CREATE TRIGGER complete BEFORE INSERT ON public.%I '
                   'FOR EACH ROW EXECUTE FUNCTION public.refuse_left_month()',
                   parent || '_kept');
END $$;
REVOKE EXECUTE ON FUNCTION refuse_left_month, keep_rows FROM public;
"""

DROPPING = """
ALTER FUNCTION drop_usage_month(date, timestamptz) RENAME TO drop_whole_usage_month;
ALTER FUNCTION drop_property_month(date) RENAME TO drop_whole_property_month;
REVOKE EXECUTE ON FUNCTION drop_whole_usage_month(date, timestamptz),
    drop_whole_property_month(date) FROM steelyard_maintainer;
CREATE FUNCTION drop_usage_month(of_month date, at timestamptz) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    name text := 'usage_event_' || to_char(of_month, 'YYYYMM');
    ends timestamptz := (of_month + interval '1 month') AT TIME ZONE 'UTC';
    source text;
    held bigint;
BEGIN
    CREATE TABLE public.usage_event_staying (LIKE public.usage_event INCLUDING CONSTRAINTS);
    FOREACH source IN ARRAY ARRAY[name, 'usage_event_kept'] LOOP
        IF to_regclass('public.' || source) IS NOT NULL THEN
            EXECUTE format('LOCK TABLE public.%I IN SHARE MODE', source);
            EXECUTE format('INSERT INTO public.usage_event_staying SELECT * FROM public.%I '
                           'WHERE occurred_at >= $1', source) USING ends;
        END IF;
    END LOOP;
    held := public.drop_whole_usage_month(of_month, at);
    PERFORM public.keep_rows('usage_event', 'usage_event_staying', public.first_event_id(ends));
    RETURN held;
END $$;
CREATE FUNCTION drop_property_month(of_month date) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    name text := 'usage_property_' || to_char(of_month, 'YYYYMM');
    end_id uuid := public.first_event_id((of_month + interval '1 month') AT TIME ZONE 'UTC');
    source text;
BEGIN
    CREATE TABLE public.usage_property_staying (LIKE public.usage_property INCLUDING CONSTRAINTS);
    FOREACH source IN ARRAY ARRAY[name, 'usage_property_kept'] LOOP
        IF to_regclass('public.' || source) IS NOT NULL THEN
            EXECUTE format('INSERT INTO public.usage_property_staying SELECT p.* FROM public.%I p '
                           'JOIN public.usage_event e ON e.id = p.event_id AND e.id < $1', source)
                USING end_id;
        END IF;
    END LOOP;
    PERFORM public.drop_whole_property_month(of_month);
    PERFORM public.keep_rows('usage_property', 'usage_property_staying', end_id);
END $$;
REVOKE EXECUTE ON FUNCTION drop_usage_month(date, timestamptz), drop_property_month(date)
    FROM public;
GRANT EXECUTE ON FUNCTION drop_usage_month(date, timestamptz), drop_property_month(date)
    TO steelyard_maintainer;
"""

FORGETTING = """
DO $$
DECLARE
    parent text;
BEGIN
    FOREACH parent IN ARRAY ARRAY['usage_event', 'usage_property'] LOOP
        IF to_regclass('public.' || parent || '_kept') IS NOT NULL THEN
            EXECUTE format('ALTER TABLE public.%I DETACH PARTITION public.%I', parent,
                           parent || '_kept');
            EXECUTE format('DROP TABLE public.%I', parent || '_kept');
        END IF;
    END LOOP;
END $$;
DROP FUNCTION drop_usage_month(date, timestamptz), drop_property_month(date), refuse_left_month,
    keep_rows;
ALTER FUNCTION drop_whole_usage_month(date, timestamptz) RENAME TO drop_usage_month;
ALTER FUNCTION drop_whole_property_month(date) RENAME TO drop_property_month;
GRANT EXECUTE ON FUNCTION drop_usage_month(date, timestamptz), drop_property_month(date)
    TO steelyard_maintainer;
"""


def upgrade() -> None:
    op.execute(KEEPING)
    op.execute(DROPPING)


def downgrade() -> None:
    op.execute(FORGETTING)
