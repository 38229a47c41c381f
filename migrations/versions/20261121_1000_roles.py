"""Roles that processes take on, and the guard that keeps ledger tables append-only.

Roles belong to the whole server, not to one database: they are made once and left in place.
"""

from __future__ import annotations

from alembic import op

revision = "20261121_1000"
down_revision = None
branch_labels = None
depends_on = None

ROLES = ("steelyard_ingest", "steelyard_tenant", "steelyard_operator", "steelyard_maintainer")


def upgrade() -> None:
    for role in ROLES:
        op.execute(
            f"""
            DO $$ BEGIN
                CREATE ROLE {role} NOLOGIN;
            EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
            END $$
            """
        )
        # The login role may take on these roles; it inherits none of their rights, so that a
        # statement outside a transaction with a role can touch nothing.
        op.execute(
            f"""
            DO $$ BEGIN
                IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'steelyard_app') THEN
                    GRANT {role} TO steelyard_app WITH INHERIT FALSE, SET TRUE;
                ELSE
                    EXECUTE format('GRANT {role} TO %I WITH INHERIT FALSE, SET TRUE', session_user);
                END IF;
            END $$
            """
        )
        op.execute(f"GRANT USAGE ON SCHEMA public TO {role}")
    op.execute(
        """
        DO $$ BEGIN
            EXECUTE format('GRANT TEMPORARY ON DATABASE %I TO steelyard_ingest',
                           current_database());
        END $$
        """
    )
    # Every process checks at its start that the schema is the one that it was written for.
    op.execute("GRANT SELECT ON alembic_version TO PUBLIC")
    op.execute(
        """
        CREATE FUNCTION refuse_change() RETURNS trigger
        LANGUAGE plpgsql SET search_path = pg_catalog AS $$
        BEGIN
            RAISE EXCEPTION 'ledger table % is append-only: % refused', TG_TABLE_NAME, TG_OP
                USING ERRCODE = 'integrity_constraint_violation';
        END $$
        """
    )
    op.execute(
        """
        CREATE FUNCTION current_tenant() RETURNS integer
        LANGUAGE sql STABLE SET search_path = pg_catalog AS
        $$ SELECT nullif(current_setting('steelyard.tenant_id', true), '')::integer $$
        """
    )


def downgrade() -> None:
    op.execute("DROP FUNCTION current_tenant()")
    op.execute("DROP FUNCTION refuse_change()")
