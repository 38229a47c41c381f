"""Batches by when they were billed: what was counted of them once is not counted over."""

from __future__ import annotations

from alembic import op

revision = "20261121_1570"
down_revision = "20261121_1565"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("CREATE INDEX batch_run_billed ON batch_run (billed_at) WHERE state = 'billed'")
    op.execute(
        "CREATE INDEX batch_run_unbilled ON batch_run (backend, state) WHERE state <> 'billed'"
    )


def downgrade() -> None:
    op.execute("DROP INDEX batch_run_billed, batch_run_unbilled")
