"""Objects that backends keep for tenants, and the batches that they run: whose, where, how much."""

from __future__ import annotations

from alembic import op

revision = "20261121_1200"
down_revision = "20261121_1195"
branch_labels = None
depends_on = None

# Ids only: what the objects hold stays with the backend. An id is never given to another tenant,
# not even after its object was deleted: a process that still remembers the first owner would let
# it in.
TABLES = """
CREATE TABLE backend_object (
    kind text NOT NULL CHECK (kind IN ('response', 'file', 'batch')),
    backend text NOT NULL,
    object_id text NOT NULL CHECK (octet_length(object_id) BETWEEN 1 AND 128),
    tenant_id integer NOT NULL,
    project_id integer NOT NULL,
    key_id integer NOT NULL,
    model_id integer,
    created_at timestamptz NOT NULL,
    deleted_at timestamptz,
    PRIMARY KEY (kind, backend, object_id),
    UNIQUE (tenant_id, kind, object_id)
);
CREATE INDEX backend_object_newest ON backend_object (tenant_id, kind, created_at, object_id)
    WHERE deleted_at IS NULL;
CREATE TABLE batch_run (
    batch_id text NOT NULL,
    backend text NOT NULL,
    tenant_id integer NOT NULL,
    project_id integer NOT NULL,
    key_id integer NOT NULL,
    model_id integer,
    price_version_id integer NOT NULL,
    endpoint text NOT NULL,
    input_file_id text NOT NULL,
    submitted_at timestamptz NOT NULL,
    state text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'billed', 'lost')),
    completed_at timestamptz,
    checked_at timestamptz,
    lines bigint NOT NULL DEFAULT 0 CHECK (lines >= 0),
    events bigint NOT NULL DEFAULT 0 CHECK (events >= 0),
    errors bigint NOT NULL DEFAULT 0 CHECK (errors >= 0),
    unreadable bigint NOT NULL DEFAULT 0 CHECK (unreadable >= 0),
    hold_id uuid,
    billed_at timestamptz,
    PRIMARY KEY (backend, batch_id),
    CHECK (state <> 'billed' OR lines = events + errors + unreadable),
    CHECK ((state = 'billed') = (billed_at IS NOT NULL))
);
CREATE INDEX batch_run_open ON batch_run (checked_at) WHERE state = 'open';
CREATE INDEX batch_run_tenant ON batch_run (tenant_id, submitted_at);
GRANT SELECT, INSERT ON backend_object, batch_run TO steelyard_operator;
GRANT UPDATE (deleted_at) ON backend_object TO steelyard_operator;
GRANT SELECT, INSERT ON backend_object TO steelyard_ingest;
GRANT SELECT ON batch_run TO steelyard_ingest;
GRANT SELECT ON backend_object, batch_run TO steelyard_tenant;
GRANT UPDATE (state, completed_at, checked_at, lines, events, errors, unreadable, hold_id,
    billed_at) ON batch_run TO steelyard_operator, steelyard_ingest;
"""
TABLE_NAMES = ("backend_object", "batch_run")


def upgrade() -> None:
    op.execute(TABLES)
    for table in TABLE_NAMES:
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(
            f"CREATE POLICY tenant_only ON {table} TO steelyard_tenant "
            "USING (tenant_id = current_tenant()) WITH CHECK (tenant_id = current_tenant())"
        )
        op.execute(
            f"CREATE POLICY all_rows ON {table} TO steelyard_operator, steelyard_ingest "
            "USING (true) WITH CHECK (true)"
        )


def downgrade() -> None:
    op.execute(f"DROP TABLE {', '.join(TABLE_NAMES)}")
