"""Whose accruals may be behind: a queue of what changed, and up to which epoch it was taken."""

from __future__ import annotations

from alembic import op

revision = "20261121_1500"
down_revision = "20261121_1350"
branch_labels = None
depends_on = None

TABLES = """
-- A queue: rows are only added and taken away, so that whoever binds a contract or grants credit
-- never waits for the worker that rates the same tenant.
CREATE TABLE accrual_due (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id integer NOT NULL REFERENCES tenant,
    touched timestamptz NOT NULL,
    onwards boolean NOT NULL,
    due_at timestamptz NOT NULL,
    noted_at timestamptz NOT NULL,
    by_clock boolean NOT NULL DEFAULT false,
    attempts integer NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    problem text
);
CREATE INDEX accrual_due_time ON accrual_due (due_at);
CREATE INDEX accrual_due_tenant ON accrual_due (tenant_id);
CREATE TABLE accrual_turn (
    shard integer PRIMARY KEY,
    epoch bigint NOT NULL,
    at timestamptz NOT NULL,
    periods bigint NOT NULL DEFAULT 0,
    failures bigint NOT NULL DEFAULT 0
);
ALTER TABLE accrual_due ENABLE ROW LEVEL SECURITY;
CREATE POLICY all_rows ON accrual_due TO steelyard_operator USING (true) WITH CHECK (true);
GRANT SELECT, INSERT, DELETE ON accrual_due TO steelyard_operator;
GRANT SELECT, UPDATE ON accrual_turn TO steelyard_operator;
"""

# A summarizing index: a rollup that gets another epoch stays a heap-only update.
TOUCHED = """
CREATE INDEX usage_rollup_epoch ON usage_rollup USING brin (epoch)
    WITH (pages_per_range = 16, autosummarize = on);
CREATE INDEX limit_draw_minute ON limit_draw (minute);
"""

NOTES = """
CREATE FUNCTION note_contract() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    -- An end changes the billing period that it lies in and those behind it, and none before.
    INSERT INTO public.accrual_due (tenant_id, touched, onwards, due_at, noted_at)
        VALUES (NEW.tenant_id,
                CASE TG_OP WHEN 'INSERT' THEN NEW.valid_from ELSE NEW.valid_until END,
                true, NEW.valid_from, now());
    RETURN NULL;
END $$;
CREATE TRIGGER note AFTER INSERT OR UPDATE OF valid_until ON contract
    FOR EACH ROW EXECUTE FUNCTION note_contract();
CREATE FUNCTION note_credit() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    INSERT INTO public.accrual_due (tenant_id, touched, onwards, due_at, noted_at)
        VALUES (NEW.tenant_id, NEW.starts_at, true, greatest(NEW.starts_at, NEW.granted_at), now());
    RETURN NULL;
END $$;
CREATE TRIGGER note AFTER INSERT ON credit_grant
    FOR EACH ROW EXECUTE FUNCTION note_credit();
CREATE FUNCTION note_posted_hold() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    -- It stops counting on the credit once a minute has passed, and not in the same turn.
    INSERT INTO public.accrual_due (tenant_id, touched, onwards, due_at, noted_at)
        VALUES (NEW.tenant_id, NEW.recorded_at, false, NEW.recorded_at + interval '2 minutes',
                now());
    RETURN NULL;
END $$;
CREATE TRIGGER note AFTER INSERT ON hold_event
    FOR EACH ROW WHEN (NEW.kind = 'posted') EXECUTE FUNCTION note_posted_hold();
REVOKE EXECUTE ON FUNCTION note_contract(), note_credit(), note_posted_hold() FROM PUBLIC;
"""

# Of what is in the database already, this billing period and the one before it.
BEGIN = """
INSERT INTO accrual_turn (shard, epoch, at) SELECT shard, epoch, now() FROM ledger_epoch;
INSERT INTO accrual_due (tenant_id, touched, onwards, due_at, noted_at)
    SELECT tenant_id, greatest(min(valid_from), now() - interval '31 days'), true,
           greatest(min(valid_from), now() - interval '31 days'), now()
      FROM contract GROUP BY tenant_id;
"""


def upgrade() -> None:
    for part in (TABLES, TOUCHED, NOTES, BEGIN):
        op.execute(part)


def downgrade() -> None:
    for table, function in (
        ("hold_event", "note_posted_hold"),
        ("credit_grant", "note_credit"),
        ("contract", "note_contract"),
    ):
        op.execute(f"DROP TRIGGER note ON {table}")
        op.execute(f"DROP FUNCTION {function}")
    op.execute("DROP INDEX limit_draw_minute")
    op.execute("DROP INDEX usage_rollup_epoch")
    op.execute("DROP TABLE accrual_turn")
    op.execute("DROP TABLE accrual_due")
