"""What engines say that they counted, and what the ledger has of it, hour by hour."""

from __future__ import annotations

from alembic import op

revision = "20261121_1195"
down_revision = "20261121_1190"
branch_labels = None
depends_on = None

# Neither is a ledger: samples are forgotten when their hours are long settled, and an hour is
# worked out again while its journals are still being shipped. No tenant may see either: they tell
# what the others use.
TABLES = """
CREATE TABLE engine_sample (
    backend_id integer NOT NULL,
    at timestamptz NOT NULL,
    engine_epoch integer NOT NULL CHECK (engine_epoch > 0),
    prompt bigint NOT NULL CHECK (prompt >= 0),
    generation bigint NOT NULL CHECK (generation >= 0),
    counts_cached boolean NOT NULL,
    PRIMARY KEY (backend_id, at)
);
CREATE INDEX engine_sample_time ON engine_sample (at);
CREATE TABLE leakage (
    backend_id integer NOT NULL,
    hour timestamptz NOT NULL CHECK (hour = date_trunc('hour', hour, 'UTC')),
    engine_prompt bigint NOT NULL CHECK (engine_prompt >= 0),
    engine_generation bigint NOT NULL CHECK (engine_generation >= 0),
    ledger_prompt bigint NOT NULL CHECK (ledger_prompt >= 0),
    ledger_generation bigint NOT NULL CHECK (ledger_generation >= 0),
    scrap_attempts bigint NOT NULL CHECK (scrap_attempts >= 0),
    restarts integer NOT NULL CHECK (restarts >= 0),
    complete boolean NOT NULL,
    reconciled_at timestamptz NOT NULL,
    PRIMARY KEY (backend_id, hour)
);
CREATE INDEX leakage_hour ON leakage (hour);
GRANT SELECT, INSERT ON engine_sample TO steelyard_ingest;
GRANT SELECT, DELETE ON engine_sample TO steelyard_operator;
GRANT SELECT, INSERT, UPDATE ON leakage TO steelyard_operator;
"""
TABLE_NAMES = ("engine_sample", "leakage")


def upgrade() -> None:
    op.execute(TABLES)
    for table in TABLE_NAMES:
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(
            f"CREATE POLICY all_rows ON {table} TO steelyard_operator, steelyard_ingest "
            "USING (true) WITH CHECK (true)"
        )


def downgrade() -> None:
    op.execute(f"DROP TABLE {', '.join(TABLE_NAMES)}")
