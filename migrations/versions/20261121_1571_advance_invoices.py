"""Invoices of fees that are billed before their period."""

from __future__ import annotations

from alembic import op

revision = "20261121_1571"
down_revision = "20261121_1570"
branch_labels = None
depends_on = None

BEFORE = "'period', 'correction', 'credit_note', 'progressive'"


def upgrade() -> None:
    _allow(f"{BEFORE}, 'advance'")


def downgrade() -> None:
    _allow(BEFORE)


def _allow(kinds: str) -> None:
    op.execute("ALTER TABLE invoice DROP CONSTRAINT invoice_kind_check")
    op.execute(f"ALTER TABLE invoice ADD CONSTRAINT invoice_kind_check CHECK (kind IN ({kinds}))")
