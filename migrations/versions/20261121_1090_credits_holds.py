"""Credit grants and balances, holds on limits, automatic top-ups; C1 and L6 by constraint."""

from __future__ import annotations

from alembic import op

revision = "20261121_1090"
down_revision = "20261121_1080"
branch_labels = None
depends_on = None

CREDITS = """
CREATE TABLE credit_grant (
    id uuid PRIMARY KEY,
    tenant_id integer NOT NULL REFERENCES tenant,
    legal_entity_id integer NOT NULL REFERENCES legal_entity,
    currency char(3) NOT NULL,
    amount numeric(38, 12) NOT NULL CHECK (amount > 0),
    kind text NOT NULL CHECK (kind IN ('paid', 'promotional')),
    taxed_at text CHECK (taxed_at IN ('purchase', 'redemption')),
    paid_from text CHECK (paid_from IN ('bank', 'stripe_clearing')),
    cost_basis numeric(38, 12) NOT NULL CHECK (cost_basis >= 0),
    counts_toward_commitment boolean NOT NULL,
    priority integer NOT NULL CHECK (priority BETWEEN 0 AND 1000),
    starts_at timestamptz NOT NULL,
    expires_at timestamptz CHECK (expires_at > starts_at),
    meters text[] CHECK (cardinality(meters) > 0),
    models text[] CHECK (cardinality(models) > 0),
    plans text[] CHECK (cardinality(plans) > 0),
    rollover_fraction numeric CHECK (rollover_fraction > 0 AND rollover_fraction <= 1),
    rollover_max numeric(38, 12) CHECK (rollover_max > 0),
    recurs boolean NOT NULL,
    series uuid REFERENCES credit_grant,
    rolled_from uuid UNIQUE REFERENCES credit_grant,
    source text NOT NULL,
    idempotency_key text NOT NULL,
    granted_at timestamptz NOT NULL,
    UNIQUE (tenant_id, idempotency_key),
    CHECK ((kind = 'paid') = (taxed_at IS NOT NULL)),
    CHECK ((kind = 'paid') = (paid_from IS NOT NULL)),
    CHECK (kind = 'paid' OR cost_basis = 0),
    CHECK (NOT recurs OR expires_at IS NOT NULL)
);
CREATE INDEX credit_grant_expiry ON credit_grant (expires_at) WHERE expires_at IS NOT NULL;
CREATE TABLE credit_event (
    id uuid PRIMARY KEY,
    grant_id uuid NOT NULL REFERENCES credit_grant,
    tenant_id integer NOT NULL,
    kind text NOT NULL CHECK (kind IN ('granted', 'applied', 'expired', 'voided', 'rolled_over')),
    amount numeric(38, 12) NOT NULL CHECK (amount > 0 OR (kind = 'voided' AND amount = 0)),
    contract_id integer REFERENCES contract,
    period_start timestamptz,
    line_key text,
    day date,
    idempotency_key text NOT NULL,
    recorded_at timestamptz NOT NULL,
    UNIQUE (grant_id, idempotency_key),
    CHECK ((kind = 'applied') = (num_nulls(contract_id, period_start, line_key, day) = 0)),
    CHECK (num_nulls(contract_id, period_start, line_key, day) IN (0, 4))
);
CREATE INDEX credit_event_line ON credit_event (contract_id, period_start, line_key, day)
    WHERE kind = 'applied';
CREATE TABLE credit_balance (
    grant_id uuid PRIMARY KEY REFERENCES credit_grant,
    tenant_id integer NOT NULL,
    granted numeric(38, 12) NOT NULL,
    used numeric(38, 12) NOT NULL DEFAULT 0 CHECK (used >= 0),
    expired numeric(38, 12) NOT NULL DEFAULT 0 CHECK (expired >= 0),
    remaining numeric(38, 12) NOT NULL CHECK (remaining >= 0),
    CHECK (granted = used + expired + remaining)
);
CREATE INDEX credit_balance_tenant ON credit_balance (tenant_id) WHERE remaining > 0;
"""

# The hot row of admission. Every credit event takes it before it touches a grant's balance, so
# that a hold never counts credit which another transaction is just taking away.
HOLDS = """
CREATE TABLE spend_limit (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id integer NOT NULL REFERENCES tenant,
    name text NOT NULL,
    currency char(3) NOT NULL,
    capacity numeric(38, 12) CHECK (capacity >= 0),
    held numeric(38, 12) NOT NULL DEFAULT 0 CHECK (held >= 0),
    spent numeric(38, 12) NOT NULL DEFAULT 0 CHECK (spent >= 0),
    settled_through timestamptz NOT NULL DEFAULT '-infinity',
    UNIQUE (tenant_id, name, currency),
    CHECK ((name = 'credit') = (capacity IS NULL))
) WITH (fillfactor = 50);
CREATE TABLE hold_event (
    hold_id uuid NOT NULL,
    ordinal integer NOT NULL CHECK (ordinal >= 0),
    tenant_id integer NOT NULL REFERENCES tenant,
    limit_id integer NOT NULL REFERENCES spend_limit,
    kind text NOT NULL CHECK (kind IN ('taken', 'extended', 'posted', 'voided', 'expired')),
    amount numeric(38, 12) NOT NULL CHECK (amount >= 0),
    expires_at timestamptz,
    recorded_at timestamptz NOT NULL,
    PRIMARY KEY (hold_id, ordinal),
    CHECK ((kind = 'taken') = (ordinal = 0)),
    CHECK ((kind IN ('taken', 'extended')) = (expires_at IS NOT NULL))
);
CREATE UNIQUE INDEX hold_resolves_once ON hold_event (hold_id)
    WHERE kind IN ('posted', 'voided', 'expired');
CREATE INDEX hold_event_posted ON hold_event (limit_id, recorded_at) WHERE kind = 'posted';
CREATE TABLE open_hold (
    hold_id uuid PRIMARY KEY,
    tenant_id integer NOT NULL,
    limit_id integer NOT NULL REFERENCES spend_limit,
    amount numeric(38, 12) NOT NULL CHECK (amount > 0),
    expires_at timestamptz NOT NULL
);
CREATE INDEX open_hold_expiry ON open_hold (limit_id, expires_at);
"""

TOP_UPS = """
CREATE TABLE top_up_policy (
    tenant_id integer NOT NULL REFERENCES tenant,
    currency char(3) NOT NULL,
    version integer NOT NULL CHECK (version > 0),
    threshold numeric(38, 12) NOT NULL CHECK (threshold >= 0),
    amount numeric(38, 12) NOT NULL CHECK (amount > 0),
    window_ms bigint NOT NULL CHECK (window_ms > 0),
    count_max integer NOT NULL CHECK (count_max >= 0),
    amount_max numeric(38, 12) NOT NULL CHECK (amount_max >= 0),
    cool_down_ms bigint NOT NULL CHECK (cool_down_ms >= 0),
    set_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, currency, version)
);
CREATE TABLE top_up (
    id uuid PRIMARY KEY,
    tenant_id integer NOT NULL REFERENCES tenant,
    currency char(3) NOT NULL,
    amount numeric(38, 12) NOT NULL CHECK (amount > 0),
    policy_version integer NOT NULL,
    requested_at timestamptz NOT NULL,
    FOREIGN KEY (tenant_id, currency, policy_version) REFERENCES top_up_policy
);
CREATE INDEX top_up_time ON top_up (tenant_id, currency, requested_at);
CREATE TABLE top_up_resolution (
    top_up_id uuid PRIMARY KEY REFERENCES top_up,
    tenant_id integer NOT NULL,
    outcome text NOT NULL CHECK (outcome IN ('paid', 'declined')),
    grant_id uuid UNIQUE REFERENCES credit_grant,
    resolved_at timestamptz NOT NULL,
    CHECK ((outcome = 'paid') = (grant_id IS NOT NULL))
);
"""

# As the owner: no role may write a balance, so none can be wrong (C1).
BALANCE = """
CREATE FUNCTION credit_event_moves_balance() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public AS $$
DECLARE
    lot public.credit_grant;
BEGIN
    SELECT * INTO lot FROM public.credit_grant WHERE id = NEW.grant_id;
    IF lot.tenant_id IS DISTINCT FROM NEW.tenant_id THEN
        RAISE EXCEPTION 'a credit event belongs to the tenant of its grant'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    -- Made at the first grant only: an insert that meets its conflict still burns an id.
    IF NOT EXISTS (SELECT FROM public.spend_limit WHERE tenant_id = lot.tenant_id
                   AND name = 'credit' AND currency = lot.currency) THEN
        INSERT INTO public.spend_limit (tenant_id, name, currency)
            VALUES (lot.tenant_id, 'credit', lot.currency)
            ON CONFLICT (tenant_id, name, currency) DO NOTHING;
    END IF;
    PERFORM FROM public.spend_limit WHERE tenant_id = lot.tenant_id AND name = 'credit'
        AND currency = lot.currency FOR UPDATE;
    IF NEW.kind = 'granted' THEN
        IF NEW.amount <> lot.amount THEN
            RAISE EXCEPTION 'a grant is granted whole' USING ERRCODE = 'check_violation';
        END IF;
        INSERT INTO public.credit_balance (grant_id, tenant_id, granted, remaining)
            VALUES (NEW.grant_id, NEW.tenant_id, NEW.amount, NEW.amount);
    ELSE
        UPDATE public.credit_balance SET
            used = used + CASE WHEN NEW.kind = 'applied' THEN NEW.amount ELSE 0 END,
            expired = expired + CASE WHEN NEW.kind = 'applied' THEN 0 ELSE NEW.amount END,
            remaining = remaining - NEW.amount
            WHERE grant_id = NEW.grant_id;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'credit that was not granted cannot be spent'
                USING ERRCODE = 'integrity_constraint_violation';
        END IF;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER moves_balance AFTER INSERT ON credit_event
    FOR EACH ROW EXECUTE FUNCTION credit_event_moves_balance();
"""

# One round trip each. A function's statements see what was committed while it waited for the hot
# row; a single UPDATE would judge by what stood in the other tables before it waited.
# `limit_available` alone runs as its caller: a tenant that asks for another's limit sees no row.
LIMITS = """
CREATE FUNCTION limit_available(the_limit integer, at timestamptz) RETURNS numeric
LANGUAGE sql STABLE SET search_path = pg_catalog, public AS $$
    SELECT coalesce(l.capacity, (
               SELECT coalesce(sum(b.remaining), 0) FROM public.credit_balance b
               JOIN public.credit_grant g ON g.id = b.grant_id
               WHERE b.tenant_id = l.tenant_id AND b.remaining > 0 AND g.currency = l.currency
                 AND g.starts_at <= at AND (g.expires_at IS NULL OR g.expires_at > at)
                 AND num_nonnulls(g.meters, g.models, g.plans) = 0)
           ) - l.spent - l.held
      FROM public.spend_limit l WHERE l.id = the_limit;
$$;
CREATE FUNCTION expire_open_holds(the_limit integer, at timestamptz) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public AS $$
DECLARE
    freed numeric;
    counted integer;
BEGIN
    PERFORM FROM public.spend_limit WHERE id = the_limit FOR UPDATE;
    WITH gone AS (
        DELETE FROM public.open_hold WHERE limit_id = the_limit AND expires_at <= at RETURNING *
    ), written AS (
        INSERT INTO public.hold_event
            (hold_id, ordinal, tenant_id, limit_id, kind, amount, recorded_at)
        SELECT g.hold_id, 1 + (SELECT max(e.ordinal) FROM public.hold_event e
                                WHERE e.hold_id = g.hold_id),
               g.tenant_id, the_limit, 'expired', g.amount, at FROM gone g RETURNING amount
    ) SELECT coalesce(sum(amount), 0), count(*) INTO freed, counted FROM written;
    IF counted > 0 THEN
        UPDATE public.spend_limit SET held = held - freed WHERE id = the_limit;
    END IF;
    RETURN counted;
END $$;
CREATE FUNCTION take_hold(the_hold uuid, the_limit integer, wanted numeric, until timestamptz,
                          at timestamptz) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public AS $$
DECLARE
    earlier public.hold_event;
    whose integer;
BEGIN
    SELECT tenant_id INTO whose FROM public.spend_limit WHERE id = the_limit FOR UPDATE;
    SELECT * INTO earlier FROM public.hold_event WHERE hold_id = the_hold AND ordinal = 0;
    IF earlier.hold_id IS NOT NULL THEN
        RETURN CASE WHEN (earlier.limit_id, earlier.amount, earlier.expires_at)
                         = (the_limit, wanted, until) THEN 'taken' ELSE 'conflict' END;
    END IF;
    IF public.limit_available(the_limit, at) < wanted THEN
        -- Statements of their own: one expression would not see what the sweep in it freed.
        PERFORM public.expire_open_holds(the_limit, at);
        IF public.limit_available(the_limit, at) < wanted THEN
            RETURN 'insufficient';
        END IF;
    END IF;
    INSERT INTO public.hold_event
        (hold_id, ordinal, tenant_id, limit_id, kind, amount, expires_at, recorded_at)
        VALUES (the_hold, 0, whose, the_limit, 'taken', wanted, until, at);
    INSERT INTO public.open_hold VALUES (the_hold, whose, the_limit, wanted, until);
    UPDATE public.spend_limit SET held = held + wanted WHERE id = the_limit;
    RETURN 'taken';
END $$;
CREATE FUNCTION extend_hold(the_hold uuid, the_limit integer, more numeric, until timestamptz,
                            at timestamptz) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public AS $$
DECLARE
    opened public.open_hold;
BEGIN
    PERFORM FROM public.spend_limit WHERE id = the_limit FOR UPDATE;
    SELECT * INTO opened FROM public.open_hold WHERE hold_id = the_hold AND limit_id = the_limit;
    IF opened.hold_id IS NULL OR opened.expires_at <= at THEN
        RETURN 'resolved';
    END IF;
    IF more > 0 AND public.limit_available(the_limit, at) < more THEN
        -- Statements of their own: one expression would not see what the sweep in it freed.
        PERFORM public.expire_open_holds(the_limit, at);
        IF public.limit_available(the_limit, at) < more THEN
            RETURN 'insufficient';
        END IF;
    END IF;
    INSERT INTO public.hold_event
        (hold_id, ordinal, tenant_id, limit_id, kind, amount, expires_at, recorded_at)
        SELECT the_hold, 1 + max(ordinal), opened.tenant_id, the_limit, 'extended', more, until, at
          FROM public.hold_event WHERE hold_id = the_hold;
    UPDATE public.open_hold SET amount = amount + more, expires_at = until
        WHERE hold_id = the_hold;
    UPDATE public.spend_limit SET held = held + more WHERE id = the_limit;
    RETURN 'extended';
END $$;
CREATE FUNCTION resolve_hold(the_hold uuid, the_limit integer, outcome text, used numeric,
                             at timestamptz) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public AS $$
DECLARE
    opened public.open_hold;
    earlier public.hold_event;
    lim public.spend_limit;
BEGIN
    SELECT * INTO lim FROM public.spend_limit WHERE id = the_limit FOR UPDATE;
    SELECT * INTO earlier FROM public.hold_event WHERE hold_id = the_hold
        AND limit_id = the_limit AND kind IN ('posted', 'voided', 'expired');
    IF earlier.hold_id IS NOT NULL THEN
        RETURN CASE WHEN earlier.kind = outcome AND earlier.amount = used THEN outcome
                    ELSE 'resolved' END;
    END IF;
    SELECT * INTO opened FROM public.open_hold WHERE hold_id = the_hold AND limit_id = the_limit;
    IF opened.hold_id IS NULL THEN
        RETURN 'unknown';
    ELSIF used > opened.amount THEN
        RETURN 'exceeds';
    END IF;
    DELETE FROM public.open_hold WHERE hold_id = the_hold;
    -- Never before what was settled already: it would be spent and never settled.
    INSERT INTO public.hold_event
        (hold_id, ordinal, tenant_id, limit_id, kind, amount, recorded_at)
        SELECT the_hold, 1 + max(ordinal), opened.tenant_id, the_limit, outcome, used,
               greatest(at, lim.settled_through)
          FROM public.hold_event WHERE hold_id = the_hold;
    UPDATE public.spend_limit SET held = held - opened.amount, spent = spent + used
        WHERE id = the_limit;
    RETURN outcome;
END $$;
CREATE FUNCTION settle_holds(the_limit integer, through timestamptz) RETURNS numeric
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public AS $$
DECLARE
    lim public.spend_limit;
    settled numeric;
BEGIN
    SELECT * INTO lim FROM public.spend_limit WHERE id = the_limit FOR UPDATE;
    IF lim.settled_through >= through THEN
        RETURN 0;
    END IF;
    SELECT coalesce(sum(amount), 0) INTO settled FROM public.hold_event
        WHERE limit_id = the_limit AND kind = 'posted'
          AND recorded_at >= lim.settled_through AND recorded_at < through;
    UPDATE public.spend_limit SET spent = spent - settled, settled_through = through
        WHERE id = the_limit;
    RETURN settled;
END $$;
"""

FUNCTIONS = (
    "limit_available(integer, timestamptz)",
    "expire_open_holds(integer, timestamptz)",
    "take_hold(uuid, integer, numeric, timestamptz, timestamptz)",
    "extend_hold(uuid, integer, numeric, timestamptz, timestamptz)",
    "resolve_hold(uuid, integer, text, numeric, timestamptz)",
    "settle_holds(integer, timestamptz)",
)
WRITTEN = ("credit_grant", "credit_event", "top_up_policy", "top_up", "top_up_resolution")
"""Those that the operator inserts into; holds are written by the functions above alone."""

LEDGERS = (*WRITTEN, "hold_event")
PROJECTIONS = ("credit_balance", "spend_limit", "open_hold")


def upgrade() -> None:
    for part in (CREDITS, HOLDS, TOP_UPS, BALANCE, LIMITS):
        op.execute(part)
    for table in LEDGERS:
        op.execute(
            f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
    for table in (*LEDGERS, *PROJECTIONS):
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(
            f"CREATE POLICY tenant_only ON {table} FOR SELECT TO steelyard_tenant "
            "USING (tenant_id = current_tenant())"
        )
        op.execute(
            f"CREATE POLICY all_rows ON {table} TO steelyard_operator USING (true) "
            "WITH CHECK (true)"
        )
        op.execute(f"GRANT SELECT ON {table} TO steelyard_operator, steelyard_tenant")
    for table in WRITTEN:
        op.execute(f"GRANT INSERT ON {table} TO steelyard_operator")
    op.execute(
        "GRANT INSERT (tenant_id, name, currency, capacity), UPDATE (capacity) "
        "ON spend_limit TO steelyard_operator"
    )
    for function in FUNCTIONS:
        op.execute(f"REVOKE EXECUTE ON FUNCTION {function} FROM PUBLIC")
        op.execute(f"GRANT EXECUTE ON FUNCTION {function} TO steelyard_operator")
    op.execute(f"GRANT EXECUTE ON FUNCTION {FUNCTIONS[0]} TO steelyard_tenant")


def downgrade() -> None:
    for function in FUNCTIONS:
        op.execute(f"DROP FUNCTION {function}")
    for table in (
        "top_up_resolution",
        "top_up",
        "top_up_policy",
        "open_hold",
        "hold_event",
        "spend_limit",
        "credit_balance",
        "credit_event",
        "credit_grant",
    ):
        op.execute(f"DROP TABLE {table}")
    op.execute("DROP FUNCTION credit_event_moves_balance()")
