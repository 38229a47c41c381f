"""Who applied a plan version, and who approved it: facts that are only added."""

from __future__ import annotations

from alembic import op

revision = "20261121_1350"
down_revision = "20261121_1330"
branch_labels = None
depends_on = None

TABLE = """
CREATE TABLE plan_approval (
    plan_version_id integer NOT NULL REFERENCES plan_version,
    key_id integer NOT NULL REFERENCES api_key,
    act text NOT NULL CHECK (act IN ('applied', 'approved')),
    at timestamptz NOT NULL,
    -- One key is one act: who applied a version cannot be its second approver.
    PRIMARY KEY (plan_version_id, key_id)
);
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON plan_approval
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
GRANT SELECT, INSERT ON plan_approval TO steelyard_operator;
"""


def upgrade() -> None:
    op.execute(TABLE)


def downgrade() -> None:
    op.execute("DROP TABLE plan_approval")
