"""Quantities of an invoice keep what rating asked of them: values, quarter hour, transactions."""

from __future__ import annotations

from alembic import op

revision = "20261121_1330"
down_revision = "20261121_1320"
branch_labels = None
depends_on = None

COLUMNS = (
    "dimensions jsonb NOT NULL DEFAULT '{}'",
    "at timestamptz",
    # Each as [instant, epoch, event id, value], in their order.
    "transactions jsonb NOT NULL DEFAULT '[]'",
)


def upgrade() -> None:
    for column in COLUMNS:
        op.execute(f"ALTER TABLE invoice_quantity ADD COLUMN {column}")


def downgrade() -> None:
    for column in COLUMNS[::-1]:
        op.execute(f"ALTER TABLE invoice_quantity DROP COLUMN {column.split()[0]}")
