"""Limits of many kinds, and leases: the shares of them that proxy processes hold (D3, L6).

A process draws on its lease in memory; what it drew comes with the usage events. Of a limit is
available what is neither spent, nor held, nor leased.
"""

from __future__ import annotations

from alembic import op

revision = "20261121_1140"
down_revision = "20261121_1138"
branch_labels = None
depends_on = None

TABLES = """
ALTER TABLE spend_limit
    ADD COLUMN unit text NOT NULL DEFAULT 'money'
        CHECK (unit IN ('money', 'tokens', 'requests', 'slots')),
    ADD COLUMN span text NOT NULL DEFAULT 'none'
        CHECK (span IN ('none', 'minute', 'day', 'week', 'month')),
    ADD COLUMN window_start timestamptz NOT NULL DEFAULT '-infinity',
    ADD COLUMN window_end timestamptz NOT NULL DEFAULT 'infinity',
    ADD COLUMN project_id integer REFERENCES project,
    ADD COLUMN key_id integer REFERENCES api_key,
    ADD COLUMN model_id integer REFERENCES model,
    ADD COLUMN hard boolean NOT NULL DEFAULT true,
    ADD COLUMN shadow boolean NOT NULL DEFAULT false,
    ADD COLUMN leased numeric(38, 12) NOT NULL DEFAULT 0 CHECK (leased >= 0),
    ADD COLUMN ended_at timestamptz,
    ADD CONSTRAINT spend_limit_unit_currency CHECK ((unit = 'money') = (currency <> 'XXX')),
    ADD CONSTRAINT spend_limit_credit_is_money
        CHECK (capacity IS NOT NULL OR (unit = 'money' AND span = 'none')),
    ADD CONSTRAINT spend_limit_slots_have_no_window CHECK (unit <> 'slots' OR span = 'none');
CREATE TABLE proxy_process (
    instance text PRIMARY KEY,
    turn bigint NOT NULL,
    started_at timestamptz NOT NULL,
    seen_at timestamptz NOT NULL,
    ends_at timestamptz NOT NULL,
    swept boolean NOT NULL DEFAULT false,
    drained boolean NOT NULL DEFAULT false
);
CREATE TABLE lease (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    limit_id integer NOT NULL REFERENCES spend_limit,
    tenant_id integer NOT NULL REFERENCES tenant,
    instance text NOT NULL REFERENCES proxy_process,
    window_start timestamptz NOT NULL,
    granted numeric(38, 12) NOT NULL CHECK (granted >= 0),
    drawn numeric(38, 12) NOT NULL DEFAULT 0 CHECK (drawn >= 0),
    closed boolean NOT NULL DEFAULT false
) WITH (fillfactor = 50);
CREATE UNIQUE INDEX one_open_lease ON lease (limit_id, instance) WHERE NOT closed;
CREATE INDEX open_lease_of_process ON lease (instance) WHERE NOT closed;
CREATE TABLE limit_draw (
    limit_id integer NOT NULL REFERENCES spend_limit,
    tenant_id integer NOT NULL REFERENCES tenant,
    minute timestamptz NOT NULL,
    amount numeric(38, 12) NOT NULL CHECK (amount >= 0),
    PRIMARY KEY (limit_id, minute)
);
CREATE TRIGGER announce_new AFTER INSERT ON spend_limit
    FOR EACH STATEMENT EXECUTE FUNCTION announce_control_change();
CREATE TRIGGER announce_edit AFTER UPDATE OF capacity, hard, shadow, ended_at ON spend_limit
    FOR EACH STATEMENT EXECUTE FUNCTION announce_control_change();
"""

# Everything locks limits first, in the order of their ids, then the process: no two can wait for
# each other. A process numbers its calls: one that was lost on the way and arrives after a later
# one would grant, or take back, what the process has forgotten.
LEASING = """
-- 'stands': so do its leases. 'swept': they were given up for lost, and it has to forget them
-- before it begins `anew`. 'gone': its journal is drained, or the call came too late.
CREATE FUNCTION renew_process(the_process text, the_turn bigint, until timestamptz,
                              at timestamptz, anew boolean) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    INSERT INTO public.proxy_process AS p (instance, turn, started_at, seen_at, ends_at)
        VALUES (the_process, the_turn, at, at, until)
        ON CONFLICT (instance) DO UPDATE
            SET turn = the_turn, seen_at = at, ends_at = until, swept = false
            WHERE p.turn < the_turn AND NOT p.drained AND (anew OR NOT p.swept);
    RETURN CASE WHEN FOUND THEN 'stands'
        WHEN (SELECT swept AND NOT drained FROM public.proxy_process WHERE instance = the_process)
        THEN 'swept' ELSE 'gone' END;
END $$;
CREATE FUNCTION close_open_leases(the_process text) RETURNS TABLE (limit_id integer, freed numeric)
LANGUAGE sql SET search_path = pg_catalog, public, pg_temp AS $$
    WITH gone AS (
        UPDATE public.lease l SET closed = true WHERE l.instance = the_process AND NOT l.closed
        RETURNING l.limit_id, greatest(l.granted - l.drawn, 0) AS freed
    ), given AS (
        UPDATE public.spend_limit s SET leased = s.leased - g.freed FROM gone g
         WHERE s.id = g.limit_id RETURNING s.id
    ) SELECT g.limit_id, g.freed FROM gone g JOIN given ON given.id = g.limit_id
$$;
CREATE FUNCTION lock_limits_of(the_process text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    PERFORM FROM public.spend_limit WHERE id IN (
        SELECT l.limit_id FROM public.lease l WHERE l.instance = the_process AND NOT l.closed
    ) ORDER BY id FOR UPDATE;
    PERFORM FROM public.proxy_process WHERE instance = the_process FOR UPDATE;
END $$;
CREATE FUNCTION lease_limits(the_process text, the_turn bigint, limits integer[],
                             leases bigint[], have numeric[], least_more numeric[],
                             blocks boolean[], wanted numeric[], starts timestamptz[],
                             ends timestamptz[],
                             until timestamptz, at timestamptz)
RETURNS TABLE (limit_id integer, lease_id bigint, granted numeric, used numeric,
               capacity numeric, elsewhere numeric)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    live integer;
    short boolean := false;
    ours public.lease;
    lim public.spend_limit;
    free numeric;
    surplus numeric;
    more numeric[] := '{}';
    recalled integer[] := '{}';
BEGIN
    PERFORM FROM public.spend_limit WHERE id = ANY (limits) ORDER BY id FOR UPDATE;
    IF public.renew_process(the_process, the_turn, until, at, false) <> 'stands' THEN
        RETURN;
    END IF;
    SELECT greatest(count(*), 1) INTO live FROM public.proxy_process p
        WHERE NOT p.swept AND NOT p.drained AND p.seen_at > at - interval '5 s';
    FOR i IN 1..cardinality(limits) LOOP
        SELECT * INTO lim FROM public.spend_limit WHERE id = limits[i];
        IF starts[i] > lim.window_start THEN
            UPDATE public.lease l SET closed = true WHERE l.limit_id = limits[i] AND NOT l.closed;
            UPDATE public.spend_limit SET window_start = starts[i], window_end = ends[i],
                spent = 0, leased = 0 WHERE id = limits[i] RETURNING * INTO lim;
        END IF;
        SELECT * INTO ours FROM public.lease l
            WHERE l.limit_id = limits[i] AND l.instance = the_process AND NOT l.closed;
        -- The answer to an earlier call was lost: what it granted is ours already.
        surplus := coalesce(ours.granted, 0)
            - CASE WHEN ours.id = leases[i] THEN have[i] ELSE 0 END;
        free := public.limit_available(limits[i], at);
        IF free < least_more[i] - surplus THEN
            -- Statements of their own: one expression would not see what the sweep in it freed.
            PERFORM public.expire_open_holds(limits[i], at);
            free := public.limit_available(limits[i], at);
        END IF;
        IF free < least_more[i] - surplus AND blocks[i] THEN
            short := true;
            limit_id := limits[i];
            used := lim.spent + lim.held + lim.leased;
            capacity := free + used;
            SELECT coalesce(sum(greatest(l.granted - l.drawn, 0)), 0) INTO elsewhere
                FROM public.lease l WHERE l.limit_id = limits[i] AND NOT l.closed
                 AND l.instance <> the_process;
            IF elsewhere > 0 THEN
                recalled := recalled || limits[i];
            END IF;
            RETURN NEXT;
        END IF;
        -- Of a limit that only counts as much as there is; nothing of one that blocks is short.
        more := more || greatest(0, least(least_more[i] - surplus, free), least(
            wanted[i] - surplus,
            trunc(free / (4 * live), CASE WHEN lim.unit = 'money' THEN 12 ELSE 0 END)));
    END LOOP;
    IF short THEN
        -- Whoever has some of it that lies idle gives it back; the caller asks again.
        IF cardinality(recalled) > 0 THEN
            PERFORM pg_notify('steelyard_recall',
                              the_process || ' ' || array_to_string(recalled, ','));
        END IF;
        RETURN;
    END IF;
    FOR i IN 1..cardinality(limits) LOOP
        UPDATE public.spend_limit SET leased = leased + more[i] WHERE id = limits[i]
            RETURNING * INTO lim;
        UPDATE public.lease l SET granted = l.granted + more[i]
            WHERE l.limit_id = limits[i] AND l.instance = the_process AND NOT l.closed
            RETURNING l.id, l.granted INTO lease_id, granted;
        IF NOT FOUND THEN
            INSERT INTO public.lease AS l (limit_id, tenant_id, instance, window_start, granted)
                VALUES (lim.id, lim.tenant_id, the_process, lim.window_start, more[i])
                RETURNING l.id, l.granted INTO lease_id, granted;
        END IF;
        limit_id := limits[i];
        used := lim.spent + lim.held + lim.leased;
        capacity := used + public.limit_available(limits[i], at);
        elsewhere := 0;
        RETURN NEXT;
    END LOOP;
END $$;
CREATE FUNCTION return_leases(the_process text, the_turn bigint, leases bigint[], keep numeric[],
                              until timestamptz, at timestamptz) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    each record;
BEGIN
    PERFORM FROM public.spend_limit WHERE id IN (
        SELECT l.limit_id FROM public.lease l WHERE l.id = ANY (leases)) ORDER BY id FOR UPDATE;
    IF public.renew_process(the_process, the_turn, until, at, false) <> 'stands' THEN
        RETURN false;
    END IF;
    FOR each IN
        SELECT l.id, l.limit_id, l.granted - greatest(k.keep, l.drawn) AS freed
          FROM unnest(leases, keep) AS k (lease, keep) JOIN public.lease l ON l.id = k.lease
         WHERE l.instance = the_process AND NOT l.closed AND l.granted > greatest(k.keep, l.drawn)
    LOOP
        UPDATE public.lease SET granted = granted - each.freed WHERE id = each.id;
        UPDATE public.spend_limit SET leased = leased - each.freed WHERE id = each.limit_id;
    END LOOP;
    RETURN true;
END $$;
"""

# Draws of money come in 10⁻¹² of the major unit, as the journal has them. What is drawn beyond a
# lease, or on one that was given up for lost, counts as spent all the same: it was used. Only a
# draw on a window that has passed counts no more.
DRAWING = """
CREATE FUNCTION draw_leases(leases bigint[], amounts numeric[], at timestamptz) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    each record;
BEGIN
    PERFORM FROM public.spend_limit WHERE id IN (
        SELECT l.limit_id FROM public.lease l WHERE l.id = ANY (leases)) ORDER BY id FOR UPDATE;
    FOR each IN
        SELECT l.id, l.limit_id, l.tenant_id, s.capacity IS NULL AS is_credit, s.settled_through,
               CASE WHEN l.closed THEN 0 ELSE greatest(l.granted - l.drawn, 0) END AS left,
               d.amount * CASE WHEN s.unit = 'money' THEN 0.000000000001 ELSE 1 END AS amount
          FROM unnest(leases, amounts) AS d (lease, amount)
          JOIN public.lease l ON l.id = d.lease JOIN public.spend_limit s ON s.id = l.limit_id
         WHERE s.window_start = l.window_start ORDER BY l.id
    LOOP
        UPDATE public.lease SET drawn = drawn + each.amount WHERE id = each.id;
        UPDATE public.spend_limit SET spent = spent + each.amount,
            leased = leased - least(each.amount, each.left) WHERE id = each.limit_id;
        IF each.is_credit THEN
            -- Never before what was settled already: it would be spent and never settled.
            INSERT INTO public.limit_draw AS d (limit_id, tenant_id, minute, amount)
                VALUES (each.limit_id, each.tenant_id,
                        date_trunc('minute', greatest(at, each.settled_through), 'UTC'),
                        each.amount)
                ON CONFLICT (limit_id, minute) DO UPDATE SET amount = d.amount + EXCLUDED.amount;
        END IF;
    END LOOP;
END $$;
CREATE FUNCTION close_leases(the_process text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    PERFORM public.lock_limits_of(the_process);
    PERFORM public.close_open_leases(the_process);
    UPDATE public.proxy_process SET drained = true WHERE instance = the_process;
END $$;
CREATE FUNCTION sweep_leases(at timestamptz)
RETURNS TABLE (instance text, limit_id integer, freed numeric)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    FOR instance IN SELECT p.instance FROM public.proxy_process p
        WHERE NOT p.swept AND NOT p.drained AND p.ends_at <= at ORDER BY 1
    LOOP
        PERFORM public.lock_limits_of(sweep_leases.instance);
        UPDATE public.proxy_process p SET swept = true WHERE p.instance = sweep_leases.instance
            AND NOT p.swept AND NOT p.drained AND p.ends_at <= at;
        IF FOUND THEN
            FOR limit_id, freed IN SELECT c.limit_id, c.freed
                FROM public.close_open_leases(sweep_leases.instance) c
            LOOP
                RETURN NEXT;
            END LOOP;
        END IF;
    END LOOP;
END $$;
"""

# Each function as (signature, what changes in its text).
AVAILABLE = (
    "limit_available(integer, timestamptz)",
    (
        (
            "- l.spent - l.held",
            "- l.held - CASE WHEN l.window_end <= at THEN 0 ELSE l.spent + l.leased END",
        ),
    ),
)
SETTLE = (
    "settle_holds(integer, timestamptz)",
    (
        ("    settled numeric;\n", "    settled numeric;\n    drawn numeric;\n"),
        (
            "    UPDATE public.spend_limit SET spent",
            (
                "    WITH gone AS (\n"
                "        DELETE FROM public.limit_draw WHERE limit_id = the_limit\n"
                "            AND minute < date_trunc('minute', through, 'UTC') RETURNING amount\n"
                "    ) SELECT coalesce(sum(amount), 0) INTO drawn FROM gone;\n"
                "    settled := settled + drawn;\n"
                "    UPDATE public.spend_limit SET spent"
            ),
        ),
    ),
)

OF_OPERATOR = (
    "renew_process(text, bigint, timestamptz, timestamptz, boolean)",
    (
        "lease_limits(text, bigint, integer[], bigint[], numeric[], numeric[], boolean[], "
        "numeric[], timestamptz[], timestamptz[], timestamptz, timestamptz)"
    ),
    "return_leases(text, bigint, bigint[], numeric[], timestamptz, timestamptz)",
    "sweep_leases(timestamptz)",
)
OF_INGEST = ("draw_leases(bigint[], numeric[], timestamptz)", "close_leases(text)")
OF_OWNER = ("close_open_leases(text)", "lock_limits_of(text)")
SETTABLE = "unit, span, project_id, key_id, model_id, hard, shadow, ended_at"


def upgrade() -> None:
    for part in (TABLES, LEASING, DRAWING):
        op.execute(part)
    for table in ("proxy_process", "lease", "limit_draw"):
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(
            f"CREATE POLICY all_rows ON {table} TO steelyard_operator USING (true) "
            "WITH CHECK (true)"
        )
        op.execute(f"GRANT SELECT ON {table} TO steelyard_operator")
    op.execute(
        f"GRANT INSERT ({SETTABLE}), UPDATE (hard, shadow, ended_at) ON spend_limit "
        "TO steelyard_operator"
    )
    for function in (*OF_OPERATOR, *OF_INGEST, *OF_OWNER):
        op.execute(f"REVOKE EXECUTE ON FUNCTION {function} FROM PUBLIC")
    for function in OF_OPERATOR:
        op.execute(f"GRANT EXECUTE ON FUNCTION {function} TO steelyard_operator")
    for function in OF_INGEST:
        op.execute(f"GRANT EXECUTE ON FUNCTION {function} TO steelyard_ingest")
    for name, changes in (AVAILABLE, SETTLE):
        _rewrite(name, changes)


def downgrade() -> None:
    for name, changes in (AVAILABLE, SETTLE):
        _rewrite(name, tuple((new, old) for old, new in changes))
    for function in (*OF_OPERATOR, *OF_INGEST, *OF_OWNER):
        op.execute(f"DROP FUNCTION {function}")
    for table in ("limit_draw", "lease", "proxy_process"):
        op.execute(f"DROP TABLE {table}")
    op.execute("DROP TRIGGER announce_new ON spend_limit")
    op.execute("DROP TRIGGER announce_edit ON spend_limit")
    op.execute(
        "ALTER TABLE spend_limit DROP CONSTRAINT spend_limit_credit_is_money, "
        "DROP CONSTRAINT spend_limit_slots_have_no_window, "
        "DROP CONSTRAINT spend_limit_unit_currency"
    )
    for column in (*SETTABLE.split(", "), "window_start", "window_end", "leased"):
        op.execute(f"ALTER TABLE spend_limit DROP COLUMN {column}")


def _rewrite(name: str, changes: tuple[tuple[str, str], ...]) -> None:
    """Replace parts of a function's text, if it is as this revision knows it."""
    text = (
        op.get_bind()
        .exec_driver_sql(f"SELECT pg_get_functiondef('{name}'::regprocedure)")
        .scalar_one()
    )
    for old, new in changes:
        if text.count(old) != 1:
            raise RuntimeError(f"{name} is not as this revision knows it")
        text = text.replace(old, new)
    op.get_bind().exec_driver_sql(text)
