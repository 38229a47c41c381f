"""Stripe: customers, mirrored invoices, webhook inbox. Jobs: procrastinate's own schema."""

from __future__ import annotations

from alembic import op
from procrastinate.schema import SchemaManager

revision = "20261121_1050"
down_revision = "20261121_1040"
branch_labels = None
depends_on = None

TABLES = """
CREATE TABLE stripe_customer (
    tenant_id integer PRIMARY KEY REFERENCES tenant,
    stripe_id text UNIQUE,
    attempt_epoch integer NOT NULL DEFAULT 0,
    first_tried_at timestamptz
);
CREATE TABLE invoice_mirror (
    invoice_id uuid PRIMARY KEY REFERENCES invoice,
    tenant_id integer NOT NULL,
    state text NOT NULL CHECK (state IN ('pending', 'created', 'filled', 'finalized', 'failed')),
    stripe_id text UNIQUE,
    attempt_epoch integer NOT NULL DEFAULT 0,
    first_tried_at timestamptz,
    stripe_total_minor bigint,
    hosted_url text,
    last_error text,
    requested_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    CHECK ((state = 'finalized') <= (stripe_id IS NOT NULL AND stripe_total_minor IS NOT NULL))
);
CREATE TABLE stripe_event (
    id text PRIMARY KEY,
    type text NOT NULL,
    object_id text NOT NULL,
    payload bytea NOT NULL,
    created_at timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    applied_at timestamptz
);
"""


def upgrade() -> None:
    op.execute(TABLES)
    op.execute("ALTER TABLE invoice_mirror ENABLE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY tenant_only ON invoice_mirror FOR SELECT TO steelyard_tenant "
        "USING (tenant_id = current_tenant())"
    )
    op.execute(
        "CREATE POLICY all_rows ON invoice_mirror TO steelyard_operator USING (true) "
        "WITH CHECK (true)"
    )
    op.execute("GRANT SELECT ON invoice_mirror TO steelyard_tenant")
    op.execute(
        "GRANT SELECT, INSERT, UPDATE ON stripe_customer, invoice_mirror, stripe_event "
        "TO steelyard_operator"
    )
    # Driver-level execution: procrastinate's SQL holds percent signs and colons of its own.
    op.get_bind().exec_driver_sql(SchemaManager.get_schema().replace("%", "%%"))
    op.execute(
        "GRANT SELECT, INSERT, UPDATE, DELETE ON procrastinate_jobs, procrastinate_events, "
        "procrastinate_periodic_defers, procrastinate_workers TO steelyard_operator"
    )
    op.execute(
        "GRANT USAGE ON SEQUENCE procrastinate_jobs_id_seq, procrastinate_events_id_seq, "
        "procrastinate_periodic_defers_id_seq TO steelyard_operator"
    )


def downgrade() -> None:
    op.execute(
        """
        DO $$ DECLARE thing record; BEGIN
            DROP TABLE IF EXISTS procrastinate_periodic_defers, procrastinate_events,
                procrastinate_jobs, procrastinate_workers CASCADE;
            FOR thing IN SELECT oid::regprocedure AS name FROM pg_proc
                         WHERE proname LIKE 'procrastinate%' LOOP
                EXECUTE 'DROP FUNCTION ' || thing.name || ' CASCADE';
            END LOOP;
            FOR thing IN SELECT oid::regtype AS name FROM pg_type
                         WHERE typname LIKE 'procrastinate%' AND typtype IN ('e', 'c') LOOP
                EXECUTE 'DROP TYPE ' || thing.name || ' CASCADE';
            END LOOP;
        END $$
        """
    )
    op.execute("DROP TABLE stripe_event, invoice_mirror, stripe_customer")
