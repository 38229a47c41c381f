"""How far a batch is settled: which lines of its files are counted, and what did not add up."""

from __future__ import annotations

from alembic import op

revision = "20261121_1275"
down_revision = "20261121_1270"
branch_labels = None
depends_on = None

# Lines that are passed commit with their events, so that a worker that died counts none twice.
# `requests` and `answered` are what the backend says, against which the lines are held.
COLUMNS = """
ALTER TABLE batch_run
    ADD COLUMN outcome text CHECK (outcome IN ('completed', 'expired', 'cancelled', 'failed')),
    ADD COLUMN output_file_id text,
    ADD COLUMN error_file_id text,
    ADD COLUMN requests bigint CHECK (requests >= 0),
    ADD COLUMN answered bigint CHECK (answered >= 0),
    ADD COLUMN output_passed bigint NOT NULL DEFAULT 0 CHECK (output_passed >= 0),
    ADD COLUMN error_passed bigint NOT NULL DEFAULT 0 CHECK (error_passed >= 0),
    ADD COLUMN anomalies bigint NOT NULL DEFAULT 0 CHECK (anomalies >= 0),
    ADD COLUMN problem text,
    ADD COLUMN missing_since timestamptz,
    ADD CONSTRAINT batch_run_ended CHECK ((completed_at IS NULL) = (outcome IS NULL)),
    ADD CONSTRAINT batch_run_passed CHECK (lines = output_passed + error_passed);
GRANT UPDATE (outcome, output_file_id, error_file_id, requests, answered, output_passed,
    error_passed, anomalies, problem, missing_since) ON batch_run
    TO steelyard_operator, steelyard_ingest;
"""
NAMES = (
    "outcome", "output_file_id", "error_file_id", "requests", "answered", "output_passed",
    "error_passed", "anomalies", "problem", "missing_since",
)  # fmt: skip


def upgrade() -> None:
    op.execute(COLUMNS)


def downgrade() -> None:
    op.execute("ALTER TABLE batch_run DROP CONSTRAINT batch_run_ended")
    op.execute("ALTER TABLE batch_run DROP CONSTRAINT batch_run_passed")
    op.execute(f"ALTER TABLE batch_run {', '.join(f'DROP COLUMN {name}' for name in NAMES)}")
