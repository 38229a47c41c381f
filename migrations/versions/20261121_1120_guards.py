"""Guards against writers who come with SQL of their own.

Functions that run as the owner look at temporary objects last; a month's lines wait for whoever
issues their invoice; epochs only grow; parked reports stay; NaN is no amount; a posting names a
contract of its own tenant.
"""

from __future__ import annotations

from alembic import op

revision = "20261121_1120"
down_revision = "20261121_1105"
branch_labels = None
depends_on = None

# Unless it is named, a session's own temporary schema is searched for types before all others. A
# role could make a domain "timestamptz" there whose check calls a function of its own: a function
# of the owner's that declares such a variable would run it with the owner's rights.
TEMPORARY_LAST = """
DO $$ DECLARE
    each record;
BEGIN
    FOR each IN SELECT p.oid::regprocedure AS name, substr(s.setting, 13) AS path
                  FROM pg_proc p CROSS JOIN LATERAL unnest(p.proconfig) AS s (setting)
                 WHERE p.pronamespace = 'public'::regnamespace
                   AND s.setting LIKE 'search_path=%' AND s.setting NOT LIKE '%pg_temp' LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = %s, pg_temp', each.name, each.path);
    END LOOP;
END $$
"""
TEMPORARY_FIRST = """
DO $$ DECLARE
    each record;
BEGIN
    FOR each IN SELECT p.oid::regprocedure AS name,
                       replace(substr(s.setting, 13), ', pg_temp', '') AS path
                  FROM pg_proc p CROSS JOIN LATERAL unnest(p.proconfig) AS s (setting)
                 WHERE p.pronamespace = 'public'::regnamespace
                   AND s.setting LIKE 'search_path=%pg_temp' LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = %s', each.name, each.path);
    END LOOP;
END $$
"""

GUARDS = """
-- The line keys of a contract say what was posted for it: another tenant's postings would count.
CREATE FUNCTION posting_names_own_contract() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM public.ledger_transaction t
                     JOIN public.contract c ON c.tenant_id = t.tenant_id
                    WHERE t.id = NEW.transaction_id AND c.id = NEW.contract_id) THEN
        RAISE EXCEPTION 'posting, contract and transaction do not belong together'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER names_own_contract BEFORE INSERT ON posting
    FOR EACH ROW WHEN (NEW.contract_id IS NOT NULL) EXECUTE FUNCTION posting_names_own_contract();

-- Fires before `issued_stays`: without it a line joins an invoice that another session is just
-- issuing, as neither sees what the other did.
CREATE FUNCTION line_holds_its_invoice() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN
        PERFORM FROM public.invoice WHERE id = OLD.invoice_id FOR SHARE;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        PERFORM FROM public.invoice WHERE id = NEW.invoice_id FOR SHARE;
    END IF;
    RETURN CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
END $$;

CREATE FUNCTION epoch_only_grows() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    IF NEW.shard <> OLD.shard OR NEW.epoch <= OLD.epoch THEN
        RAISE EXCEPTION 'epochs only grow' USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER only_grows BEFORE UPDATE ON ledger_epoch
    FOR EACH ROW EXECUTE FUNCTION epoch_only_grows();

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON parked_usage
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
"""

PARTS = ("invoice_line", "invoice_quantity", "invoice_scope", "invoice_settlement")

AMOUNTS = {
    "ledger_transaction": ("fx_rate",),
    "cost_statement": ("booked",),
    "credit_grant": ("amount", "cost_basis", "rollover_max"),
    "credit_event": ("amount",),
    "spend_limit": ("capacity",),
    "hold_event": ("amount",),
    "top_up_policy": ("threshold", "amount", "amount_max"),
    "top_up": ("amount",),
}
"""PostgreSQL counts NaN as larger than every number, so `amount > 0` lets it by. A posting needs
none of this: with a NaN in it, no transaction sums to zero."""


def upgrade() -> None:
    op.execute(TEMPORARY_LAST)
    op.execute(GUARDS)
    for table in PARTS:
        op.execute(
            f"CREATE TRIGGER holds_its_invoice BEFORE INSERT OR UPDATE OR DELETE ON {table} "
            "FOR EACH ROW EXECUTE FUNCTION line_holds_its_invoice()"
        )
    for table, columns in AMOUNTS.items():
        no_nan = " AND ".join(f"{column} <> 'NaN'" for column in columns)
        op.execute(f"ALTER TABLE {table} ADD CONSTRAINT amounts_are_numbers CHECK ({no_nan})")


def downgrade() -> None:
    for table in AMOUNTS:
        op.execute(f"ALTER TABLE {table} DROP CONSTRAINT amounts_are_numbers")
    op.execute("DROP TRIGGER append_only ON parked_usage")
    op.execute("DROP FUNCTION epoch_only_grows CASCADE")
    op.execute("DROP FUNCTION line_holds_its_invoice CASCADE")
    op.execute("DROP FUNCTION posting_names_own_contract CASCADE")
    op.execute(TEMPORARY_FIRST)
