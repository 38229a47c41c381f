"""A parked event keeps what meters read in it, so that it can be counted once one is defined.

Text and not jsonb: numbers stay as they were written, and a NUL in a text does not fail a batch.
"""

from __future__ import annotations

from alembic import op

revision = "20261121_1190"
down_revision = "20261121_1180"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        "ALTER TABLE parked_usage ADD COLUMN event_type text, "
        "ADD COLUMN data text CHECK (octet_length(data) <= 16384), "
        "ADD CONSTRAINT parked_usage_read_check CHECK ((event_type IS NULL) = (data IS NULL))"
    )


def downgrade() -> None:
    op.execute("ALTER TABLE parked_usage DROP COLUMN event_type, DROP COLUMN data")
