"""Why an hour's tokens leaked, and how far journals are shipped: else no hour is complete."""

from __future__ import annotations

from alembic import op

revision = "20261121_1270"
down_revision = "20261121_1200"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE journal_cursor ADD COLUMN shipped_through timestamptz")
    op.execute(
        "ALTER TABLE leakage ADD COLUMN reasons jsonb NOT NULL DEFAULT '{}', "
        "ADD COLUMN journals_behind integer NOT NULL DEFAULT 0 CHECK (journals_behind >= 0)"
    )
    op.execute("CREATE INDEX leakage_behind ON leakage (hour) WHERE journals_behind > 0")


def downgrade() -> None:
    op.execute("DROP INDEX leakage_behind")
    op.execute("ALTER TABLE leakage DROP COLUMN reasons, DROP COLUMN journals_behind")
    op.execute("ALTER TABLE journal_cursor DROP COLUMN shipped_through")
