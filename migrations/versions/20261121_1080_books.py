"""Books: account versions, accounting periods, reversals, currencies."""

from __future__ import annotations

from alembic import op

revision = "20261121_1080"
down_revision = "20261121_1070"
branch_labels = None
depends_on = None

# A projection: what the newest posting of each account says. Its row is what posters of one
# account wait for, so versions have no gaps and no two are equal.
BALANCES = """
CREATE TABLE account_balance (
    account_id integer PRIMARY KEY REFERENCES account,
    tenant_id integer,
    version bigint NOT NULL,
    balance numeric(38, 12) NOT NULL
);
ALTER TABLE posting ADD COLUMN account_version bigint;
ALTER TABLE posting ADD COLUMN balance_after numeric(38, 12);

ALTER TABLE posting DISABLE TRIGGER append_only;
UPDATE posting p SET account_version = counted.version, balance_after = counted.balance
  FROM (SELECT q.transaction_id, q.ordinal, row_number() OVER w AS version,
               sum(q.amount) OVER w AS balance
          FROM posting q JOIN ledger_transaction t ON t.id = q.transaction_id
        WINDOW w AS (PARTITION BY q.account_id ORDER BY t.posted_at, t.id, q.ordinal)) counted
 WHERE counted.transaction_id = p.transaction_id AND counted.ordinal = p.ordinal;
ALTER TABLE posting ENABLE TRIGGER append_only;
INSERT INTO account_balance
SELECT DISTINCT ON (account_id) account_id, tenant_id, account_version, balance_after
  FROM posting ORDER BY account_id, account_version DESC;

ALTER TABLE posting ALTER COLUMN account_version SET NOT NULL;
ALTER TABLE posting ALTER COLUMN balance_after SET NOT NULL;
ALTER TABLE posting ADD UNIQUE (account_id, account_version);
DROP INDEX posting_account;
"""

# These run as the owner, with a fixed search_path: a writer states neither version nor balance.
VERSIONS = """
CREATE FUNCTION posting_takes_version() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public AS $$
BEGIN
    -- ON CONFLICT DO NOTHING would take a version here and then insert no row: a gap.
    IF EXISTS (SELECT FROM public.posting
                WHERE transaction_id = NEW.transaction_id AND ordinal = NEW.ordinal) THEN
        RAISE EXCEPTION 'transaction % has posting % already', NEW.transaction_id, NEW.ordinal
            USING ERRCODE = 'unique_violation';
    END IF;
    INSERT INTO public.account_balance AS held (account_id, tenant_id, version, balance)
    VALUES (NEW.account_id, NEW.tenant_id, 1, NEW.amount)
    ON CONFLICT (account_id) DO UPDATE
       SET version = held.version + 1, balance = held.balance + NEW.amount
    RETURNING version, balance INTO NEW.account_version, NEW.balance_after;
    RETURN NEW;
END $$;
CREATE TRIGGER takes_version BEFORE INSERT ON posting
    FOR EACH ROW EXECUTE FUNCTION posting_takes_version();
"""

PERIODS = """
ALTER TABLE ledger_transaction ADD COLUMN originated_at timestamptz;
ALTER TABLE ledger_transaction ADD CONSTRAINT moved_to_a_later_period
    CHECK (originated_at < effective_at);

CREATE TABLE accounting_period (
    legal_entity_id integer NOT NULL REFERENCES legal_entity,
    period_start timestamptz NOT NULL,
    period_end timestamptz NOT NULL CHECK (period_end > period_start),
    closed_at timestamptz NOT NULL CHECK (closed_at >= period_end),
    closed_by text NOT NULL,
    digest bytea NOT NULL CHECK (length(digest) = 32),
    PRIMARY KEY (legal_entity_id, period_end)
);

-- The end of what is closed, which stays so until the caller's transaction ends: closing waits
-- for every poster that has asked, and posters wait for who is closing.
CREATE FUNCTION books_closed_until(entity integer) RETURNS timestamptz
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public AS $$
BEGIN
    -- An older snapshot would not see the period that was closed while this waited.
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'money is posted in READ COMMITTED only'
            USING ERRCODE = 'feature_not_supported';
    END IF;
    PERFORM pg_advisory_xact_lock_shared(hashtextextended('steelyard.books/' || entity, 0));
    RETURN (SELECT max(period_end) FROM public.accounting_period WHERE legal_entity_id = entity);
END $$;

CREATE FUNCTION trial_balance_digest(entity integer, until timestamptz) RETURNS bytea
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public AS $$
    SELECT sha256(convert_to(coalesce(
             string_agg(account_id || '|' || total, E'\\n' ORDER BY account_id), ''), 'UTF8'))
      FROM (SELECT p.account_id, sum(p.amount) AS total
              FROM public.ledger_transaction t JOIN public.posting p ON p.transaction_id = t.id
             WHERE t.legal_entity_id = entity AND t.effective_at < until
             GROUP BY p.account_id) balances
$$;

CREATE FUNCTION transaction_is_in_open_period() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public AS $$
BEGIN
    IF NEW.effective_at < public.books_closed_until(NEW.legal_entity_id) THEN
        RAISE EXCEPTION 'transaction % is effective in a closed period', NEW.id
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER in_open_period BEFORE INSERT ON ledger_transaction
    FOR EACH ROW EXECUTE FUNCTION transaction_is_in_open_period();

CREATE FUNCTION period_closes_in_order() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public AS $$
DECLARE
    closed_until timestamptz;
BEGIN
    PERFORM pg_advisory_xact_lock(
        hashtextextended('steelyard.books/' || NEW.legal_entity_id, 0));
    closed_until := public.books_closed_until(NEW.legal_entity_id);
    IF closed_until <> NEW.period_start
       OR closed_until IS NULL AND EXISTS (
              SELECT FROM public.ledger_transaction
               WHERE legal_entity_id = NEW.legal_entity_id
                 AND effective_at < NEW.period_start) THEN
        RAISE EXCEPTION 'periods are closed once, in order and without gaps'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    NEW.digest := public.trial_balance_digest(NEW.legal_entity_id, NEW.period_end);
    RETURN NEW;
END $$;
CREATE TRIGGER closes_in_order BEFORE INSERT ON accounting_period
    FOR EACH ROW EXECUTE FUNCTION period_closes_in_order();
"""

FORM = """
ALTER TABLE ledger_transaction ADD COLUMN fx_rate numeric(38, 18) CHECK (fx_rate > 0);

CREATE FUNCTION transaction_keeps_form() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public AS $$
DECLARE
    currencies integer;
    exchanged integer;
    undone public.ledger_transaction;
BEGIN
    SELECT count(DISTINCT p.currency),
           count(DISTINCT p.currency) FILTER (WHERE a.code = 'fx_position')
      INTO currencies, exchanged
      FROM public.posting p JOIN public.account a ON a.id = p.account_id
     WHERE p.transaction_id = NEW.id;
    IF (currencies, exchanged, NEW.fx_rate IS NOT NULL)
       NOT IN ((1, 0, false), (2, 2, true)) THEN
        RAISE EXCEPTION 'transaction % crosses currencies outside the two FX accounts', NEW.id
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    IF NEW.reverses IS NULL THEN
        RETURN NULL;
    END IF;
    SELECT * INTO undone FROM public.ledger_transaction WHERE id = NEW.reverses;
    IF undone.reverses IS NOT NULL OR undone.legal_entity_id <> NEW.legal_entity_id
       OR undone.kind <> NEW.kind OR undone.posting_count <> NEW.posting_count
       OR EXISTS (SELECT account_id, amount, contract_id, period_start, line_key
                    FROM public.posting WHERE transaction_id = NEW.reverses
                  EXCEPT ALL
                  SELECT account_id, -amount, contract_id, period_start, line_key
                    FROM public.posting WHERE transaction_id = NEW.id) THEN
        RAISE EXCEPTION 'transaction % does not mirror what it reverses', NEW.id
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER keeps_form AFTER INSERT ON ledger_transaction
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION transaction_keeps_form();
"""

RIGHTS = """
ALTER TABLE account_balance ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant_only ON account_balance FOR SELECT TO steelyard_tenant
    USING (tenant_id = current_tenant());
CREATE POLICY all_rows ON account_balance FOR SELECT TO steelyard_operator USING (true);
GRANT SELECT ON account_balance TO steelyard_operator, steelyard_tenant;

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON accounting_period
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
ALTER TABLE accounting_period ENABLE ROW LEVEL SECURITY;
CREATE POLICY all_rows ON accounting_period TO steelyard_operator USING (true) WITH CHECK (true);
GRANT SELECT, INSERT ON accounting_period TO steelyard_operator;

REVOKE EXECUTE ON FUNCTION books_closed_until, trial_balance_digest FROM PUBLIC;
GRANT EXECUTE ON FUNCTION books_closed_until, trial_balance_digest TO steelyard_operator;
"""

REMOVED = """
DROP TRIGGER keeps_form ON ledger_transaction;
DROP FUNCTION transaction_keeps_form;
ALTER TABLE ledger_transaction DROP COLUMN fx_rate;
DROP TRIGGER in_open_period ON ledger_transaction;
DROP FUNCTION transaction_is_in_open_period;
DROP TABLE accounting_period;
DROP FUNCTION period_closes_in_order;
DROP FUNCTION trial_balance_digest;
DROP FUNCTION books_closed_until;
ALTER TABLE ledger_transaction DROP CONSTRAINT moved_to_a_later_period;
ALTER TABLE ledger_transaction DROP COLUMN originated_at;
DROP TRIGGER takes_version ON posting;
DROP FUNCTION posting_takes_version;
CREATE INDEX posting_account ON posting (account_id);
ALTER TABLE posting DROP COLUMN balance_after;
ALTER TABLE posting DROP COLUMN account_version;
DROP TABLE account_balance;
"""


def upgrade() -> None:
    for step in (BALANCES, VERSIONS, PERIODS, FORM, RIGHTS):
        op.execute(step)


def downgrade() -> None:
    op.execute(REMOVED)
