"""An order of the sealed books that a restore keeps, balances by time, and resolved refusals.

The order of the books' leaves was the number of the database transaction that wrote them, which
means nothing in another cluster: after a logical restore, what is new has a lower number than
what is sealed. Now a fold takes what waits, and writes down which transaction became which leaf.
"""

from __future__ import annotations

from alembic import op

revision = "20261121_1130"
down_revision = "20261121_1120"
branch_labels = None
depends_on = None

SEAL_ORDER = """
CREATE TABLE sealed_transaction (
    fold_size bigint NOT NULL REFERENCES seal_fold DEFERRABLE INITIALLY DEFERRED,
    ordinal integer NOT NULL CHECK (ordinal >= 0),
    transaction_id uuid NOT NULL UNIQUE REFERENCES ledger_transaction,
    PRIMARY KEY (fold_size, ordinal)
);
CREATE TABLE unsealed_transaction (
    transaction_id uuid PRIMARY KEY REFERENCES ledger_transaction
);
CREATE INDEX seal_fold_epoch ON seal_fold (epoch_to);

-- A fold signs how many book entries it and all folds before it took. Those that were signed
-- before this keep the numbers that they were signed with: they only have to follow each other.
ALTER TABLE seal_fold RENAME COLUMN xact_from TO books_from;
ALTER TABLE seal_fold RENAME COLUMN xact_before TO books_before;
INSERT INTO sealed_transaction
SELECT f.size, row_number() OVER (PARTITION BY f.size
                                  ORDER BY t.legal_entity_id, t.written_by, t.id) - 1, t.id
  FROM ledger_transaction t
  JOIN seal_fold f ON t.written_by >= CAST(CAST(f.books_from AS text) AS xid8)
                  AND t.written_by < CAST(CAST(f.books_before AS text) AS xid8);
INSERT INTO unsealed_transaction
SELECT id FROM ledger_transaction t
 WHERE NOT EXISTS (SELECT FROM sealed_transaction s WHERE s.transaction_id = t.id);

CREATE FUNCTION transaction_awaits_seal() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    INSERT INTO public.unsealed_transaction VALUES (NEW.id);
    RETURN NULL;
END $$;
CREATE TRIGGER awaits_seal AFTER INSERT ON ledger_transaction
    FOR EACH ROW EXECUTE FUNCTION transaction_awaits_seal();

-- Only what a fold takes stops waiting, so nobody can keep a transaction out of the seal.
CREATE FUNCTION transaction_is_sealed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    DELETE FROM public.unsealed_transaction u USING added a
     WHERE u.transaction_id = a.transaction_id;
    RETURN NULL;
END $$;
CREATE TRIGGER is_sealed AFTER INSERT ON sealed_transaction
    REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION transaction_is_sealed();

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON sealed_transaction
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
GRANT SELECT, INSERT ON sealed_transaction TO steelyard_operator;
GRANT SELECT ON unsealed_transaction TO steelyard_operator;
"""

# How far an account had come with a posting, in both times: both only grow with the version, so
# the last posting before an instant is found by halving. What came out of order stands apart.
BALANCES_BY_TIME = """
ALTER TABLE account_balance ADD COLUMN reached_at timestamptz;
ALTER TABLE account_balance ADD COLUMN known_at timestamptz;
ALTER TABLE posting ADD COLUMN reached_at timestamptz;
ALTER TABLE posting ADD COLUMN known_at timestamptz;
ALTER TABLE posting ADD COLUMN out_of_order boolean;

ALTER TABLE posting DISABLE TRIGGER append_only;
UPDATE posting p SET reached_at = counted.reached_at, known_at = counted.known_at,
       out_of_order = counted.effective_at < counted.reached_at
                      OR counted.posted_at < counted.known_at
  FROM (SELECT q.transaction_id, q.ordinal, t.effective_at, t.posted_at,
               max(t.effective_at) OVER w AS reached_at, max(t.posted_at) OVER w AS known_at
          FROM posting q JOIN ledger_transaction t ON t.id = q.transaction_id
        WINDOW w AS (PARTITION BY q.account_id ORDER BY q.account_version)) counted
 WHERE counted.transaction_id = p.transaction_id AND counted.ordinal = p.ordinal;
ALTER TABLE posting ENABLE TRIGGER append_only;
UPDATE account_balance b SET reached_at = p.reached_at, known_at = p.known_at
  FROM posting p WHERE p.account_id = b.account_id AND p.account_version = b.version;

ALTER TABLE account_balance ALTER COLUMN reached_at SET NOT NULL;
ALTER TABLE account_balance ALTER COLUMN known_at SET NOT NULL;
ALTER TABLE posting ALTER COLUMN reached_at SET NOT NULL;
ALTER TABLE posting ALTER COLUMN known_at SET NOT NULL;
ALTER TABLE posting ALTER COLUMN out_of_order SET NOT NULL;
CREATE INDEX posting_out_of_order ON posting (account_id, account_version) WHERE out_of_order;

CREATE OR REPLACE FUNCTION posting_takes_version() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    effective timestamptz;
    posted timestamptz;
BEGIN
    -- ON CONFLICT DO NOTHING would take a version here and then insert no row: a gap.
    IF EXISTS (SELECT FROM public.posting
                WHERE transaction_id = NEW.transaction_id AND ordinal = NEW.ordinal) THEN
        RAISE EXCEPTION 'transaction % has posting % already', NEW.transaction_id, NEW.ordinal
            USING ERRCODE = 'unique_violation';
    END IF;
    SELECT effective_at, posted_at INTO effective, posted
      FROM public.ledger_transaction WHERE id = NEW.transaction_id;
    INSERT INTO public.account_balance AS held
           (account_id, tenant_id, version, balance, reached_at, known_at)
    VALUES (NEW.account_id, NEW.tenant_id, 1, NEW.amount, effective, posted)
    ON CONFLICT (account_id) DO UPDATE
       SET version = held.version + 1, balance = held.balance + NEW.amount,
           reached_at = greatest(held.reached_at, effective),
           known_at = greatest(held.known_at, posted)
    RETURNING version, balance, reached_at, known_at
         INTO NEW.account_version, NEW.balance_after, NEW.reached_at, NEW.known_at;
    NEW.out_of_order := effective < NEW.reached_at OR posted < NEW.known_at;
    RETURN NEW;
END $$;
"""

RESOLUTIONS = """
CREATE TABLE refused_resolution (
    event_id uuid NOT NULL,
    kind text NOT NULL,
    outcome text NOT NULL CHECK (outcome IN ('booked', 'dismissed')),
    reason text NOT NULL,
    resolved_by text NOT NULL,
    resolved_at timestamptz NOT NULL,
    PRIMARY KEY (event_id, kind),
    FOREIGN KEY (event_id, kind) REFERENCES refused_record
);
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON refused_resolution
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
GRANT SELECT, INSERT ON refused_resolution TO steelyard_ingest, steelyard_operator;
"""

REMOVED = """
DROP TABLE refused_resolution;

CREATE OR REPLACE FUNCTION posting_takes_version() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
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
DROP INDEX posting_out_of_order;
ALTER TABLE posting DROP COLUMN out_of_order;
ALTER TABLE posting DROP COLUMN known_at;
ALTER TABLE posting DROP COLUMN reached_at;
ALTER TABLE account_balance DROP COLUMN known_at;
ALTER TABLE account_balance DROP COLUMN reached_at;

DROP TRIGGER awaits_seal ON ledger_transaction;
DROP FUNCTION transaction_awaits_seal;
DROP TABLE unsealed_transaction;
DROP TABLE sealed_transaction;
DROP FUNCTION transaction_is_sealed;
DROP INDEX seal_fold_epoch;
ALTER TABLE seal_fold RENAME COLUMN books_before TO xact_before;
ALTER TABLE seal_fold RENAME COLUMN books_from TO xact_from;
"""


def upgrade() -> None:
    for step in (SEAL_ORDER, BALANCES_BY_TIME, RESOLUTIONS):
        op.execute(step)


def downgrade() -> None:
    op.execute(REMOVED)
