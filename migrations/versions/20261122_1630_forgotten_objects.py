"""Bindings of objects leave: when they end is known, and how many went is counted."""

from __future__ import annotations

from alembic import op

revision = "20261122_1630"
down_revision = "20261122_1620"
branch_labels = None
depends_on = None

# What is deleted leaves later, so that a process which remembers whose an id was has forgotten it
# by then: only such a row may go, whoever deletes. The rest of the indexes is for pages of what is
# over, which must not read what is not.
UP = """
ALTER TABLE backend_object ADD COLUMN expires_at timestamptz;
CREATE INDEX backend_object_aged ON backend_object (kind, created_at, backend, object_id)
    WHERE deleted_at IS NULL;
CREATE INDEX backend_object_expiring ON backend_object (kind, expires_at, backend, object_id)
    WHERE deleted_at IS NULL AND expires_at IS NOT NULL;
CREATE INDEX backend_object_deleted ON backend_object (kind, deleted_at, backend, object_id)
    WHERE deleted_at IS NOT NULL;
CREATE INDEX batch_run_output ON batch_run (backend, output_file_id)
    WHERE output_file_id IS NOT NULL;
CREATE INDEX batch_run_error ON batch_run (backend, error_file_id)
    WHERE error_file_id IS NOT NULL;
GRANT DELETE ON backend_object TO steelyard_operator;
CREATE POLICY deleted_only ON backend_object AS RESTRICTIVE FOR DELETE TO steelyard_operator
    USING (deleted_at IS NOT NULL);
CREATE TABLE backend_object_gone (
    kind text NOT NULL CHECK (kind IN ('response', 'file', 'batch')),
    fate text NOT NULL CHECK (fate IN ('expired', 'removed')),
    objects bigint NOT NULL CHECK (objects >= 0),
    PRIMARY KEY (kind, fate)
);
GRANT SELECT, INSERT, UPDATE (objects) ON backend_object_gone TO steelyard_operator;
"""
DOWN = """
DROP TABLE backend_object_gone;
DROP POLICY deleted_only ON backend_object;
REVOKE DELETE ON backend_object FROM steelyard_operator;
DROP INDEX batch_run_output, batch_run_error;
DROP INDEX backend_object_aged, backend_object_expiring, backend_object_deleted;
ALTER TABLE backend_object DROP COLUMN expires_at;
"""


def upgrade() -> None:
    op.execute(UP)


def downgrade() -> None:
    op.execute(DOWN)
