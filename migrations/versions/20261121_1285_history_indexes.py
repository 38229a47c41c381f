"""Find what is live among all that ever was: keys, proxy processes, a tenant's rows."""

from __future__ import annotations

from alembic import op

revision = "20261121_1285"
down_revision = "20261121_1280"
branch_labels = None
depends_on = None

# A snapshot reads the live keys, and every lease counts the live processes: rows of those that are
# gone stay for ever. No column that is updated all the time is in an index, so that a renewal
# changes none. A tenant's statement joins spent balances, too, and what his sealed events carry.
INDEXES = """
CREATE INDEX api_key_live ON api_key (id) WHERE revoked_at IS NULL;
CREATE INDEX proxy_process_live ON proxy_process (instance) WHERE NOT swept AND NOT drained;
DROP INDEX credit_balance_tenant;
CREATE INDEX credit_balance_tenant ON credit_balance (tenant_id);
CREATE INDEX usage_property_tenant ON usage_property (tenant_id, event_id);
"""
WITHOUT = """
DROP INDEX usage_property_tenant;
DROP INDEX credit_balance_tenant;
CREATE INDEX credit_balance_tenant ON credit_balance (tenant_id) WHERE remaining > 0;
DROP INDEX proxy_process_live;
DROP INDEX api_key_live;
"""


def upgrade() -> None:
    op.execute(INDEXES)


def downgrade() -> None:
    op.execute(WITHOUT)
