"""Invoices of corrections, credit notes, and the quantities of every period that they rate."""

from __future__ import annotations

from alembic import op

revision = "20261121_1510"
down_revision = "20261121_1501"
branch_labels = None
depends_on = None

KINDS = "'period', 'correction', 'credit_note'"


def upgrade() -> None:
    op.execute("ALTER TABLE invoice DROP CONSTRAINT invoice_kind_check")
    op.execute(f"ALTER TABLE invoice ADD CONSTRAINT invoice_kind_check CHECK (kind IN ({KINDS}))")
    # Issued rows are never changed: theirs stay NULL, which is the invoice's own period.
    op.execute("ALTER TABLE invoice_quantity ADD COLUMN period_start timestamptz")


def downgrade() -> None:
    op.execute("ALTER TABLE invoice_quantity DROP COLUMN period_start")
    op.execute("ALTER TABLE invoice DROP CONSTRAINT invoice_kind_check")
    op.execute("ALTER TABLE invoice ADD CONSTRAINT invoice_kind_check CHECK (kind IN ('period'))")
