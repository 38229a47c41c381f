"""What a contract agreed beside its plan, stored with it and never changed."""

from __future__ import annotations

from alembic import op

revision = "20261121_1320"
down_revision = "20261121_1290"
branch_labels = None
depends_on = None

TABLE = """
ALTER TABLE contract ADD UNIQUE (id, tenant_id);
CREATE TABLE contract_terms (
    contract_id integer PRIMARY KEY,
    tenant_id integer NOT NULL,
    document jsonb NOT NULL,
    digest bytea NOT NULL CHECK (length(digest) = 32),
    created_at timestamptz NOT NULL,
    FOREIGN KEY (contract_id, tenant_id) REFERENCES contract (id, tenant_id)
);
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON contract_terms
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
ALTER TABLE contract_terms ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant_only ON contract_terms TO steelyard_tenant
    USING (tenant_id = current_tenant()) WITH CHECK (tenant_id = current_tenant());
CREATE POLICY all_rows ON contract_terms TO steelyard_operator, steelyard_ingest
    USING (true) WITH CHECK (true);
GRANT SELECT ON contract_terms TO steelyard_operator, steelyard_tenant, steelyard_ingest;
GRANT INSERT ON contract_terms TO steelyard_operator;
"""


def upgrade() -> None:
    op.execute(TABLE)


def downgrade() -> None:
    op.execute("DROP TABLE contract_terms")
    op.execute("ALTER TABLE contract DROP CONSTRAINT contract_id_tenant_id_key")
