"""Quantities of an invoice keep how a level moved, where its units are prorated by days."""

from __future__ import annotations

from alembic import op

revision = "20261121_1540"
down_revision = "20261121_1510"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Each as [instant, units, prorated units], by time.
    op.execute("ALTER TABLE invoice_quantity ADD COLUMN changes jsonb NOT NULL DEFAULT '[]'")


def downgrade() -> None:
    op.execute("ALTER TABLE invoice_quantity DROP COLUMN changes")
