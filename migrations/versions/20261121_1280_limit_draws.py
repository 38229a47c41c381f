"""Draws on limits without a lease: of requests admitted while limits could not be asked.

They were served and are billed, so they count in their limit as soon as it can be asked again; by
what was admitted so, it may be exceeded.
"""

from __future__ import annotations

from alembic import op

revision = "20261121_1280"
down_revision = "20261121_1275"
branch_labels = None
depends_on = None

SIGNATURE = "draw_limits(integer[], numeric[], timestamptz[], timestamptz[], timestamptz)"
# As `lease_limits` a draw in a later window begins that window, and as in `draw_leases` a draw on a
# window that has passed counts no more. Without a window both comparisons are of nulls.
DRAWING = """
CREATE FUNCTION draw_limits(limits integer[], amounts numeric[], starts timestamptz[],
                            ends timestamptz[], at timestamptz) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    lim public.spend_limit;
    drawn numeric;
BEGIN
    PERFORM FROM public.spend_limit WHERE id = ANY (limits) ORDER BY id FOR UPDATE;
    FOR i IN 1..cardinality(limits) LOOP
        SELECT * INTO STRICT lim FROM public.spend_limit WHERE id = limits[i];
        CONTINUE WHEN starts[i] < lim.window_start;
        IF starts[i] > lim.window_start THEN
            UPDATE public.lease l SET closed = true WHERE l.limit_id = lim.id AND NOT l.closed;
            UPDATE public.spend_limit SET window_start = starts[i], window_end = ends[i],
                spent = 0, leased = 0 WHERE id = lim.id;
        END IF;
        drawn := amounts[i] * CASE WHEN lim.unit = 'money' THEN 0.000000000001 ELSE 1 END;
        UPDATE public.spend_limit SET spent = spent + drawn WHERE id = lim.id;
        IF lim.capacity IS NULL THEN
            INSERT INTO public.limit_draw AS d (limit_id, tenant_id, minute, amount)
                VALUES (lim.id, lim.tenant_id,
                        date_trunc('minute', greatest(at, lim.settled_through), 'UTC'), drawn)
                ON CONFLICT (limit_id, minute) DO UPDATE SET amount = d.amount + EXCLUDED.amount;
        END IF;
    END LOOP;
END $$;
"""


def upgrade() -> None:
    op.execute(DRAWING)
    op.execute(f"REVOKE EXECUTE ON FUNCTION {SIGNATURE} FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION {SIGNATURE} TO steelyard_ingest")


def downgrade() -> None:
    op.execute(f"DROP FUNCTION {SIGNATURE}")
