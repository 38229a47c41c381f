"""What tenants and operators want to be told about spend, and what was told: once per period."""

from __future__ import annotations

from alembic import op

revision = "20261121_1501"
down_revision = "20261121_1500"
branch_labels = None
depends_on = None

TABLES = """
CREATE TABLE spend_threshold (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id integer NOT NULL REFERENCES tenant,
    name text NOT NULL,
    amount numeric(38, 12) CHECK (amount > 0),
    percent numeric CHECK (percent > 0 AND percent < 1000),
    base_kind text CHECK (base_kind IN ('commitment', 'limit')),
    base_name text,
    made_by text NOT NULL CHECK (made_by IN ('tenant', 'operator')),
    created_at timestamptz NOT NULL,
    ended_at timestamptz,
    UNIQUE (id, tenant_id),
    CHECK ((amount IS NULL) <> (percent IS NULL)),
    CHECK ((percent IS NULL) = (base_kind IS NULL)),
    CHECK ((percent IS NULL) = (base_name IS NULL))
);
CREATE UNIQUE INDEX spend_threshold_name ON spend_threshold (tenant_id, name)
    WHERE ended_at IS NULL;
CREATE TABLE spend_alert (
    threshold_id integer NOT NULL,
    period_start timestamptz NOT NULL,
    period_end timestamptz NOT NULL CHECK (period_end > period_start),
    tenant_id integer NOT NULL,
    currency char(3) NOT NULL,
    reached numeric(38, 12) NOT NULL,
    spent numeric(38, 12) NOT NULL CHECK (spent >= reached),
    watermark bigint NOT NULL,
    fired_at timestamptz NOT NULL,
    -- Once per billing period, whatever is corrected in it.
    PRIMARY KEY (threshold_id, period_start),
    FOREIGN KEY (threshold_id, tenant_id) REFERENCES spend_threshold (id, tenant_id)
);
CREATE INDEX spend_alert_tenant ON spend_alert (tenant_id, fired_at);
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON spend_alert
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
ALTER TABLE spend_threshold ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant_only ON spend_threshold FOR SELECT TO steelyard_tenant
    USING (tenant_id = current_tenant());
CREATE POLICY tenant_makes ON spend_threshold FOR INSERT TO steelyard_tenant
    WITH CHECK (tenant_id = current_tenant() AND made_by = 'tenant');
CREATE POLICY tenant_ends ON spend_threshold FOR UPDATE TO steelyard_tenant
    USING (tenant_id = current_tenant() AND made_by = 'tenant')
    WITH CHECK (tenant_id = current_tenant() AND made_by = 'tenant');
CREATE POLICY all_rows ON spend_threshold TO steelyard_operator USING (true) WITH CHECK (true);
ALTER TABLE spend_alert ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant_only ON spend_alert FOR SELECT TO steelyard_tenant
    USING (tenant_id = current_tenant());
CREATE POLICY all_rows ON spend_alert TO steelyard_operator USING (true) WITH CHECK (true);
GRANT SELECT, INSERT, UPDATE (ended_at) ON spend_threshold TO steelyard_operator, steelyard_tenant;
GRANT SELECT ON spend_alert TO steelyard_operator, steelyard_tenant;
GRANT INSERT ON spend_alert TO steelyard_operator;
-- A live balance names the newest epoch in it, as an invoice does.
GRANT SELECT ON ledger_epoch TO steelyard_tenant;
"""

# It may be reached already: the worker looks at once.
NOTES = """
CREATE FUNCTION note_threshold() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    INSERT INTO public.accrual_due (tenant_id, touched, onwards, due_at, noted_at)
        VALUES (NEW.tenant_id, NEW.created_at, false, NEW.created_at, now());
    RETURN NULL;
END $$;
CREATE TRIGGER note AFTER INSERT ON spend_threshold
    FOR EACH ROW EXECUTE FUNCTION note_threshold();
REVOKE EXECUTE ON FUNCTION note_threshold() FROM PUBLIC;
"""


def upgrade() -> None:
    op.execute(TABLES)
    op.execute(NOTES)


def downgrade() -> None:
    op.execute("REVOKE SELECT ON ledger_epoch FROM steelyard_tenant")
    op.execute("DROP TABLE spend_alert")
    op.execute("DROP TABLE spend_threshold")
    op.execute("DROP FUNCTION note_threshold")
