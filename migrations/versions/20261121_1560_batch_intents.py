"""Batches that are meant to be: written down before a backend is asked to run them.

A proxy that dies between a backend's taking a batch and our record of it would leave one that
nobody bills. So it says first what it is about to ask; what became of it is looked up afterwards.
"""

from __future__ import annotations

from alembic import op

revision = "20261121_1560"
down_revision = "20261121_1545"
branch_labels = None
depends_on = None

# Until the backend has named it, its id is that of the request that asks for it.
STATES = """
ALTER TABLE batch_run DROP CONSTRAINT batch_run_state_check,
    ADD CONSTRAINT batch_run_state_check
        CHECK (state IN ('intended', 'open', 'billed', 'lost', 'refused'));
CREATE INDEX batch_run_intended ON batch_run (submitted_at) WHERE state = 'intended';
CREATE INDEX batch_run_input ON batch_run (backend, input_file_id);
GRANT UPDATE (batch_id) ON batch_run TO steelyard_operator;
"""
BACK = """
DELETE FROM batch_run WHERE state IN ('intended', 'refused');
DROP INDEX batch_run_intended, batch_run_input;
REVOKE UPDATE (batch_id) ON batch_run FROM steelyard_operator;
ALTER TABLE batch_run DROP CONSTRAINT batch_run_state_check,
    ADD CONSTRAINT batch_run_state_check CHECK (state IN ('open', 'billed', 'lost'));
"""


def upgrade() -> None:
    op.execute(STATES)


def downgrade() -> None:
    op.execute(BACK)
