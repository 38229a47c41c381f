"""Steps of agents' runs: which step and which agent a usage event belongs to."""

from __future__ import annotations

from alembic import op

revision = "20261121_1180"
down_revision = "20261121_1165"
branch_labels = None
depends_on = None

# A table of its own: most events belong to no step, and must not get longer by it.
TABLE = """
CREATE TABLE usage_step (
    event_id uuid PRIMARY KEY,
    at timestamptz NOT NULL,
    tenant_id integer NOT NULL,
    run_id text NOT NULL CHECK (octet_length(run_id) <= 256),
    step_id text NOT NULL CHECK (octet_length(step_id) <= 256),
    agent_id text NOT NULL CHECK (octet_length(agent_id) <= 256),
    CHECK (step_id <> '' OR agent_id <> '')
);
CREATE INDEX usage_step_run ON usage_step (tenant_id, run_id, at);
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON usage_step
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
ALTER TABLE usage_step ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant_only ON usage_step TO steelyard_tenant
    USING (tenant_id = current_tenant()) WITH CHECK (tenant_id = current_tenant());
CREATE POLICY all_rows ON usage_step TO steelyard_operator, steelyard_ingest
    USING (true) WITH CHECK (true);
GRANT SELECT ON usage_step TO steelyard_operator, steelyard_tenant, steelyard_ingest;
GRANT INSERT ON usage_step TO steelyard_ingest;
"""


def upgrade() -> None:
    op.execute(TABLE)


def downgrade() -> None:
    op.execute("DROP TABLE usage_step")
