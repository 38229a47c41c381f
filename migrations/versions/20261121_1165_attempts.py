"""Failed attempts of operations: they cost compute, and only the operation is billed."""

from __future__ import annotations

from alembic import op

revision = "20261121_1165"
down_revision = "20261121_1160"
branch_labels = None
depends_on = None

TABLE = """
CREATE TABLE usage_attempt (
    operation_id uuid NOT NULL,
    at timestamptz NOT NULL,
    duration_us bigint NOT NULL CHECK (duration_us >= 0),
    tenant_id integer NOT NULL,
    model_id integer NOT NULL,
    backend_id integer NOT NULL,
    ordinal smallint NOT NULL CHECK (ordinal >= 0),
    reason text NOT NULL,
    PRIMARY KEY (operation_id, ordinal)
);
CREATE INDEX usage_attempt_time ON usage_attempt (at);
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON usage_attempt
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
ALTER TABLE usage_attempt ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant_only ON usage_attempt TO steelyard_tenant
    USING (tenant_id = current_tenant()) WITH CHECK (tenant_id = current_tenant());
CREATE POLICY all_rows ON usage_attempt TO steelyard_operator, steelyard_ingest
    USING (true) WITH CHECK (true);
GRANT SELECT ON usage_attempt TO steelyard_operator, steelyard_tenant, steelyard_ingest;
GRANT INSERT ON usage_attempt TO steelyard_ingest;
"""


def upgrade() -> None:
    op.execute(TABLE)


def downgrade() -> None:
    op.execute("DROP TABLE usage_attempt")
