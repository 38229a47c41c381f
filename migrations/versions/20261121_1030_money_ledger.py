"""Money ledger: accounts, transactions and postings, with L1 enforced at commit."""

from __future__ import annotations

from alembic import op

revision = "20261121_1030"
down_revision = "20261121_1020"
branch_labels = None
depends_on = None

TABLES = """
CREATE TABLE account (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    legal_entity_id integer NOT NULL REFERENCES legal_entity,
    code text NOT NULL,
    tenant_id integer REFERENCES tenant,
    currency char(3) NOT NULL,
    UNIQUE NULLS NOT DISTINCT (legal_entity_id, code, tenant_id, currency)
);
CREATE TABLE ledger_transaction (
    id uuid PRIMARY KEY,
    legal_entity_id integer NOT NULL REFERENCES legal_entity,
    tenant_id integer REFERENCES tenant,
    kind text NOT NULL,
    idempotency_key text NOT NULL,
    reference text NOT NULL,
    effective_at timestamptz NOT NULL,
    posted_at timestamptz NOT NULL,
    posting_count integer NOT NULL CHECK (posting_count >= 2),
    postings_hash bytea NOT NULL CHECK (length(postings_hash) = 32),
    reverses uuid UNIQUE REFERENCES ledger_transaction,
    written_by xid8 NOT NULL DEFAULT pg_current_xact_id(),
    UNIQUE (legal_entity_id, idempotency_key)
);
CREATE INDEX ledger_transaction_time ON ledger_transaction (legal_entity_id, effective_at);
CREATE INDEX ledger_transaction_reference ON ledger_transaction (legal_entity_id, reference);
CREATE TABLE posting (
    transaction_id uuid NOT NULL REFERENCES ledger_transaction,
    ordinal integer NOT NULL,
    account_id integer NOT NULL REFERENCES account,
    tenant_id integer,
    currency char(3) NOT NULL,
    amount numeric(38, 12) NOT NULL CHECK (amount <> 0),
    contract_id integer REFERENCES contract,
    period_start timestamptz,
    line_key text,
    PRIMARY KEY (transaction_id, ordinal),
    CHECK (num_nulls(contract_id, period_start, line_key) IN (0, 3))
);
CREATE INDEX posting_account ON posting (account_id);
CREATE INDEX posting_line ON posting (contract_id, period_start, line_key)
    WHERE contract_id IS NOT NULL;
"""

# Both run as the owner with a fixed search_path: the writing role cannot see every row that the
# check has to see, and must not be able to redirect the names in it.
CHECKS = """
CREATE FUNCTION posting_joins_own_header() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public AS $$
DECLARE
    header public.ledger_transaction;
    owner public.account;
BEGIN
    SELECT * INTO header FROM public.ledger_transaction WHERE id = NEW.transaction_id;
    IF header.id IS NULL OR header.written_by <> pg_current_xact_id() THEN
        RAISE EXCEPTION 'a posting cannot join a committed or missing transaction'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    -- A header has this many places and no more. Without that, a writer could have the deferred
    -- check run early (SET CONSTRAINTS) and add postings after it.
    IF NEW.ordinal NOT BETWEEN 0 AND header.posting_count - 1 THEN
        RAISE EXCEPTION 'transaction % has no place for another posting', header.id
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    SELECT * INTO owner FROM public.account WHERE id = NEW.account_id;
    IF owner.legal_entity_id <> header.legal_entity_id
       OR owner.currency <> NEW.currency
       OR owner.tenant_id IS DISTINCT FROM NEW.tenant_id
       OR (owner.tenant_id IS NOT NULL AND owner.tenant_id IS DISTINCT FROM header.tenant_id)
    THEN
        RAISE EXCEPTION 'posting, account and transaction do not belong together'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER joins_own_header BEFORE INSERT ON posting
    FOR EACH ROW EXECUTE FUNCTION posting_joins_own_header();

CREATE FUNCTION transaction_balances() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public AS $$
DECLARE
    arrived integer;
    arrived_hash bytea;
BEGIN
    IF EXISTS (SELECT FROM public.posting WHERE transaction_id = NEW.id
               GROUP BY currency HAVING sum(amount) <> 0) THEN
        RAISE EXCEPTION 'transaction % does not sum to zero', NEW.id
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    SELECT count(*),
           sha256(convert_to(string_agg(ordinal || '|' || account_id || '|' || amount, E'\\n'
                                        ORDER BY ordinal), 'UTF8'))
      INTO arrived, arrived_hash FROM public.posting WHERE transaction_id = NEW.id;
    IF arrived <> NEW.posting_count OR arrived_hash IS DISTINCT FROM NEW.postings_hash THEN
        RAISE EXCEPTION 'transaction % does not have the postings that its header states', NEW.id
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER balances AFTER INSERT ON ledger_transaction
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION transaction_balances();
"""

LEDGERS = ("account", "ledger_transaction", "posting")


def upgrade() -> None:
    op.execute(TABLES)
    op.execute(CHECKS)
    for table in LEDGERS:
        op.execute(
            f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(
            f"CREATE POLICY tenant_only ON {table} FOR SELECT TO steelyard_tenant "
            "USING (tenant_id = current_tenant())"
        )
        op.execute(
            f"CREATE POLICY all_rows ON {table} TO steelyard_operator USING (true) "
            "WITH CHECK (true)"
        )
        op.execute(f"GRANT SELECT ON {table} TO steelyard_operator, steelyard_tenant")
        op.execute(f"GRANT INSERT ON {table} TO steelyard_operator")


def downgrade() -> None:
    for table in ("posting", "ledger_transaction", "account"):
        op.execute(f"DROP TABLE {table}")
    op.execute("DROP FUNCTION transaction_balances")
    op.execute("DROP FUNCTION posting_joins_own_header")
