"""Check what is posted once per statement where a row by itself tells no more than all of them.

A page of accruals asked for the same account, contract and header again with every line, and of
every header whether its period is open: most of what posting cost. What is checked stays the same.

- References of postings, balances and waiting transactions are written down as before, and no
  longer looked up row by row. They cannot break: accounts and transactions are append-only, and
  contracts keep their row and number from here on, so what was there once stays there. Postings are
  checked against all three when their statement ends. Balances and waiting transactions are written
  by functions only, which take the number from an account or a transaction that is there.
- Whether a period is open is asked once per legal entity, after the rows and before anything else
  of their transaction: whoever closes it has either committed, and is seen, or waits.
- At commit a transaction's postings are read once: sum, count, hash, and currencies. Reversals and
  exchanges have their form checked by itself, as before.
"""

from __future__ import annotations

from alembic import op

revision = "20261122_1620"
down_revision = "20261122_1600"
branch_labels = None
depends_on = None

REFERENCES = (
    ("posting", "transaction_id"),
    ("posting", "account_id"),
    ("posting", "contract_id"),
    ("account_balance", "account_id"),
    ("unsealed_transaction", "transaction_id"),
)

KEPT = """
CREATE TRIGGER stays BEFORE DELETE OR TRUNCATE ON contract
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER keeps_identity BEFORE UPDATE OF id, tenant_id ON contract
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
"""

# Numbers are looked up in the index as a list: a join would be planned once per session, from what
# its first statement posted, and could then read all accounts for every page.
POSTINGS = """
CREATE FUNCTION postings_name_what_exists() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
SET enable_seqscan = off AS $$
DECLARE
    transactions uuid[];
    accounts integer[];
    contracts integer[];
BEGIN
    SELECT array_agg(DISTINCT transaction_id), array_agg(DISTINCT account_id),
           array_agg(DISTINCT contract_id) FILTER (WHERE contract_id IS NOT NULL)
      INTO transactions, accounts, contracts FROM added;
    IF cardinality(transactions) <> (SELECT count(*) FROM public.ledger_transaction
                                      WHERE id = ANY (transactions))
       OR cardinality(accounts) <> (SELECT count(*) FROM public.account WHERE id = ANY (accounts))
       OR cardinality(contracts) <> (SELECT count(*) FROM public.contract
                                      WHERE id = ANY (contracts)) THEN
        RAISE EXCEPTION 'a posting names a transaction, account or contract that is not there'
            USING ERRCODE = 'foreign_key_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER name_what_exists AFTER INSERT ON posting
    REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION postings_name_what_exists();
"""

HEADERS = """
DROP TRIGGER in_open_period ON ledger_transaction;
CREATE OR REPLACE FUNCTION transaction_is_in_open_period() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    entity integer;
    earliest timestamptz;
BEGIN
    FOR entity, earliest IN SELECT legal_entity_id, min(effective_at) FROM added
                             GROUP BY legal_entity_id ORDER BY legal_entity_id LOOP
        IF earliest < public.books_closed_until(entity) THEN
            RAISE EXCEPTION 'transaction % is effective in a closed period',
                  (SELECT id FROM added WHERE legal_entity_id = entity AND effective_at = earliest
                    LIMIT 1)
                USING ERRCODE = 'integrity_constraint_violation';
        END IF;
    END LOOP;
    RETURN NULL;
END $$;
CREATE TRIGGER in_open_period AFTER INSERT ON ledger_transaction
    REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION transaction_is_in_open_period();

DROP TRIGGER awaits_seal ON ledger_transaction;
CREATE OR REPLACE FUNCTION transaction_awaits_seal() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    INSERT INTO public.unsealed_transaction SELECT id FROM added;
    RETURN NULL;
END $$;
CREATE TRIGGER awaits_seal AFTER INSERT ON ledger_transaction
    REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION transaction_awaits_seal();
"""

AT_COMMIT = """
CREATE OR REPLACE FUNCTION transaction_balances() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
SET enable_seqscan = off AS $$
DECLARE
    arrived integer;
    arrived_hash bytea;
    total numeric;
    one_currency boolean;
    exchanged boolean;
BEGIN
    SELECT count(*), sum(p.amount), min(p.currency) = max(p.currency),
           bool_or(a.code = 'fx_position'),
           sha256(convert_to(string_agg(p.ordinal || '|' || p.account_id || '|' || p.amount, E'\\n'
                                        ORDER BY p.ordinal), 'UTF8'))
      INTO arrived, total, one_currency, exchanged, arrived_hash
      FROM public.posting p LEFT JOIN public.account a ON a.id = p.account_id
     WHERE p.transaction_id = NEW.id;
    IF one_currency AND total <> 0
       OR NOT one_currency AND EXISTS (SELECT FROM public.posting WHERE transaction_id = NEW.id
                                        GROUP BY currency HAVING sum(amount) <> 0) THEN
        RAISE EXCEPTION 'transaction % does not sum to zero', NEW.id
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    IF arrived <> NEW.posting_count OR arrived_hash IS DISTINCT FROM NEW.postings_hash THEN
        RAISE EXCEPTION 'transaction % does not have the postings that its header states', NEW.id
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    IF NEW.fx_rate IS NULL AND (NOT one_currency OR exchanged) THEN
        RAISE EXCEPTION 'transaction % crosses currencies outside the two FX accounts', NEW.id
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NULL;
END $$;
DROP TRIGGER keeps_form ON ledger_transaction;
CREATE CONSTRAINT TRIGGER keeps_form AFTER INSERT ON ledger_transaction
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (NEW.reverses IS NOT NULL OR NEW.fx_rate IS NOT NULL)
    EXECUTE FUNCTION transaction_keeps_form();
"""

REMOVED = """
DROP TRIGGER keeps_form ON ledger_transaction;
CREATE CONSTRAINT TRIGGER keeps_form AFTER INSERT ON ledger_transaction
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION transaction_keeps_form();
CREATE OR REPLACE FUNCTION transaction_balances() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
SET enable_seqscan = off AS $$
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

DROP TRIGGER awaits_seal ON ledger_transaction;
CREATE OR REPLACE FUNCTION transaction_awaits_seal() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    INSERT INTO public.unsealed_transaction VALUES (NEW.id);
    RETURN NULL;
END $$;
CREATE TRIGGER awaits_seal AFTER INSERT ON ledger_transaction
    FOR EACH ROW EXECUTE FUNCTION transaction_awaits_seal();

DROP TRIGGER in_open_period ON ledger_transaction;
CREATE OR REPLACE FUNCTION transaction_is_in_open_period() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    IF NEW.effective_at < public.books_closed_until(NEW.legal_entity_id) THEN
        RAISE EXCEPTION 'transaction % is effective in a closed period', NEW.id
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER in_open_period BEFORE INSERT ON ledger_transaction
    FOR EACH ROW EXECUTE FUNCTION transaction_is_in_open_period();

DROP TRIGGER name_what_exists ON posting;
DROP FUNCTION postings_name_what_exists;
DROP TRIGGER keeps_identity ON contract;
DROP TRIGGER stays ON contract;
"""


def upgrade() -> None:
    for step in (KEPT, POSTINGS, HEADERS, AT_COMMIT):
        op.execute(step)
    enforce_references("NOT ENFORCED")


def downgrade() -> None:
    enforce_references("ENFORCED")
    op.execute(REMOVED)


def enforce_references(how: str) -> None:
    """Have references looked up row by row, or not; they are checked anew when they are again."""
    for table, column in REFERENCES:
        op.execute(f"ALTER TABLE {table} ALTER CONSTRAINT {table}_{column}_fkey {how}")
