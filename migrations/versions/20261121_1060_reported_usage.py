"""Reported usage: parking with decisions, corrections."""

from __future__ import annotations

from alembic import op

revision = "20261121_1060"
down_revision = "20261121_1050"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SELECT 1")


def downgrade() -> None:
    op.execute("SELECT 1")
