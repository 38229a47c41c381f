"""Credit grants and holds."""

from __future__ import annotations

from alembic import op

revision = "20261121_1090"
down_revision = "20261121_1080"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SELECT 1")


def downgrade() -> None:
    op.execute("SELECT 1")
