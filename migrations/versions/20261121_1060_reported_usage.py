"""Reported usage: decisions about parked events, corrections, progress of imports.

`parked_decision` and `usage_correction` are ledgers. `usage_import` is a position, like the cursor
of a journal: losing it costs time, never an event.
"""

from __future__ import annotations

from alembic import op

revision = "20261121_1060"
down_revision = "20261121_1050"
branch_labels = None
depends_on = None

TABLES = """
CREATE TABLE parked_decision (
    parked_id uuid PRIMARY KEY REFERENCES parked_usage (id),
    tenant_id integer NOT NULL,
    decision text NOT NULL CHECK (decision IN ('released', 'rejected')),
    event_id uuid,
    reason text NOT NULL,
    actor text NOT NULL,
    decided_at timestamptz NOT NULL,
    CHECK ((decision = 'released') = (event_id IS NOT NULL))
);
CREATE TABLE usage_correction (
    event_id uuid PRIMARY KEY,
    tenant_id integer NOT NULL,
    kind text NOT NULL CHECK (kind IN ('void', 'amend')),
    corrects uuid NOT NULL UNIQUE,
    corrects_at timestamptz NOT NULL,
    replacement_id uuid,
    source text NOT NULL,
    foreign_id text NOT NULL,
    reason text NOT NULL,
    actor text NOT NULL,
    corrected_at timestamptz NOT NULL,
    UNIQUE (tenant_id, source, foreign_id),
    CHECK ((kind = 'amend') = (replacement_id IS NOT NULL))
);
CREATE TABLE usage_import (
    tenant_id integer NOT NULL,
    digest bytea NOT NULL,
    rows_done bigint NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, digest)
);
CREATE INDEX parked_usage_meter ON parked_usage (meter);
"""

LEDGERS = ("parked_decision", "usage_correction")
NEW = (*LEDGERS, "usage_import")


def upgrade() -> None:
    op.execute(TABLES)
    for table in LEDGERS:
        op.execute(
            f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
    for table in NEW:
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(
            f"CREATE POLICY tenant_only ON {table} TO steelyard_tenant "
            "USING (tenant_id = current_tenant()) WITH CHECK (tenant_id = current_tenant())"
        )
        op.execute(
            f"CREATE POLICY all_rows ON {table} TO steelyard_operator, steelyard_ingest "
            "USING (true) WITH CHECK (true)"
        )
    op.execute(f"GRANT SELECT ON {', '.join(NEW)} TO steelyard_operator, steelyard_ingest")
    op.execute("GRANT SELECT ON usage_correction TO steelyard_tenant")
    op.execute(f"GRANT INSERT ON {', '.join(NEW)} TO steelyard_ingest")
    op.execute("GRANT UPDATE (rows_done, updated_at) ON usage_import TO steelyard_ingest")


def downgrade() -> None:
    op.execute("DROP INDEX parked_usage_meter")
    for table in reversed(NEW):
        op.execute(f"DROP TABLE {table}")
