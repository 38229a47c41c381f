"""Have the ledger's checks look rows up by index, whatever the size of the ledger was at first.

A session plans a check once. Planned while the ledger fits on a page, it reads the whole table for
every row, and goes on to do so while a page of tenants makes the table a thousand times larger.
"""

from __future__ import annotations

from alembic import op

revision = "20261121_1561"
down_revision = "20261121_1560"
branch_labels = None
depends_on = None

CHECKS = (
    "posting_joins_own_header",
    "posting_names_own_contract",
    "posting_takes_version",
    "transaction_balances",
    "transaction_keeps_form",
)


def upgrade() -> None:
    for check in CHECKS:
        op.execute(f"ALTER FUNCTION {check}() SET enable_seqscan = off")


def downgrade() -> None:
    for check in CHECKS:
        op.execute(f"ALTER FUNCTION {check}() RESET enable_seqscan")
