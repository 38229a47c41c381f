"""Meters as data: how events of outside are read, which aggregations a rollup can answer."""

from __future__ import annotations

from alembic import op

revision = "20261121_1065"
down_revision = "20261121_1060"
branch_labels = None
depends_on = None

# Versions that exist keep their ids and their meaning: their quantities come counted.
UP = """
ALTER TABLE meter_version DROP CONSTRAINT meter_version_aggregation_check;
ALTER TABLE meter_version ADD CONSTRAINT meter_version_aggregation_check CHECK (aggregation IN
    ('sum', 'count', 'unique', 'max', 'latest', 'time_weighted_sum', 'percentile'));
ALTER TABLE meter_version
    ADD COLUMN additive boolean GENERATED ALWAYS AS (aggregation IN ('sum', 'count')) STORED,
    ADD COLUMN percentile numeric CHECK (percentile > 0 AND percentile <= 100),
    ADD COLUMN reading jsonb,
    ADD COLUMN digest bytea CHECK (length(digest) = 32),
    ADD COLUMN created_at timestamptz,
    ADD CONSTRAINT meter_version_percentile_belongs
        CHECK ((aggregation = 'percentile') = (percentile IS NOT NULL)),
    ADD CONSTRAINT meter_version_reading_check CHECK ((reading IS NULL) = (digest IS NULL));
"""

DOWN = """
ALTER TABLE meter_version
    DROP CONSTRAINT meter_version_reading_check,
    DROP CONSTRAINT meter_version_percentile_belongs,
    DROP COLUMN created_at,
    DROP COLUMN digest,
    DROP COLUMN reading,
    DROP COLUMN percentile,
    DROP COLUMN additive;
ALTER TABLE meter_version DROP CONSTRAINT meter_version_aggregation_check;
ALTER TABLE meter_version ADD CONSTRAINT meter_version_aggregation_check
    CHECK (aggregation IN ('sum'));
"""


def upgrade() -> None:
    op.execute(UP)


def downgrade() -> None:
    op.execute(DOWN)
