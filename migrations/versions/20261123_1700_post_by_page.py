"""Post a page of transactions with one check of everything it wrote, and none by row.

What is checked stays the same; it is asked once for all rows that are written together.

- `post_together` compares its postings with their headers itself: sums, counts, hashes, currencies.
  All places of a header are taken then, and nothing joins it or leaves it, so there is nothing left
  to find out at commit. Headers that are written in any other way are checked at commit as before.
- A posting that is written in any other way, be it by the owner, passes one check instead of three
  and a fourth for its statement: one look at its header, its account and its contract.
- Accounts and transactions name tenants and legal entities that are there and stay there: asked
  once per statement.
- The lines of a contract's billing period are found by contract and period. Their names were part
  of the index, and nothing ever looked for one.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from alembic import op

revision = "20261123_1700"
down_revision = "20261122_1640"
branch_labels = None
depends_on = None

REFERENCES = (
    ("account", "legal_entity_id"),
    ("account", "tenant_id"),
    ("ledger_transaction", "legal_entity_id"),
    ("ledger_transaction", "tenant_id"),
)

KEEPERS = ("tenant", "legal_entity")
KEPT = "".join(
    f"""
CREATE TRIGGER stays BEFORE DELETE OR TRUNCATE ON {table}
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER keeps_identity BEFORE UPDATE OF id ON {table}
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
"""
    for table in KEEPERS
)

NAMED = """
CREATE FUNCTION books_name_who_exists() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
SET enable_seqscan = off AS $$
DECLARE
    entities integer[];
    tenants integer[];
BEGIN
    SELECT array_agg(DISTINCT legal_entity_id),
           array_agg(DISTINCT tenant_id) FILTER (WHERE tenant_id IS NOT NULL)
      INTO entities, tenants FROM added;
    IF cardinality(entities) <> (SELECT count(*) FROM public.legal_entity
                                  WHERE id = ANY (entities))
       OR cardinality(tenants) <> (SELECT count(*) FROM public.tenant
                                    WHERE id = ANY (tenants)) THEN
        RAISE EXCEPTION 'the books name a tenant or legal entity that is not there'
            USING ERRCODE = 'foreign_key_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER names_who_exists AFTER INSERT ON account
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION books_name_who_exists();
CREATE TRIGGER names_who_exists AFTER INSERT ON ledger_transaction
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION books_name_who_exists();
"""

PLACES = """
DROP FUNCTION postings_name_what_exists, posting_takes_version, posting_names_own_contract,
              posting_joins_own_header CASCADE;
CREATE FUNCTION posting_takes_place() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
SET enable_seqscan = off AS $$
DECLARE
    header public.ledger_transaction;
    owner public.account;
    contract_tenant integer;
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
    -- ON CONFLICT DO NOTHING would take a version below and then insert no row: a gap.
    IF EXISTS (SELECT FROM public.posting
                WHERE transaction_id = NEW.transaction_id AND ordinal = NEW.ordinal) THEN
        RAISE EXCEPTION 'transaction % has posting % already', NEW.transaction_id, NEW.ordinal
            USING ERRCODE = 'unique_violation';
    END IF;
    SELECT * INTO owner FROM public.account WHERE id = NEW.account_id;
    IF owner.id IS NULL THEN
        RAISE EXCEPTION 'a posting names an account that is not there'
            USING ERRCODE = 'foreign_key_violation';
    END IF;
    IF owner.legal_entity_id <> header.legal_entity_id
       OR owner.currency <> NEW.currency
       OR owner.tenant_id IS DISTINCT FROM NEW.tenant_id
       OR (owner.tenant_id IS NOT NULL AND owner.tenant_id IS DISTINCT FROM header.tenant_id)
    THEN
        RAISE EXCEPTION 'posting, account and transaction do not belong together'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    IF NEW.contract_id IS NOT NULL THEN
        SELECT tenant_id INTO contract_tenant FROM public.contract WHERE id = NEW.contract_id;
        IF contract_tenant IS NULL THEN
            RAISE EXCEPTION 'a posting names a contract that is not there'
                USING ERRCODE = 'foreign_key_violation';
        ELSIF contract_tenant IS DISTINCT FROM header.tenant_id THEN
            RAISE EXCEPTION 'posting, contract and transaction do not belong together'
                USING ERRCODE = 'integrity_constraint_violation';
        END IF;
    END IF;
    INSERT INTO public.account_balance AS held
           (account_id, tenant_id, version, balance, reached_at, known_at)
    VALUES (NEW.account_id, NEW.tenant_id, 1, NEW.amount, header.effective_at, header.posted_at)
    ON CONFLICT (account_id) DO UPDATE
       SET version = held.version + 1, balance = held.balance + NEW.amount,
           reached_at = greatest(held.reached_at, header.effective_at),
           known_at = greatest(held.known_at, header.posted_at)
    RETURNING version, balance, reached_at, known_at
         INTO NEW.account_version, NEW.balance_after, NEW.reached_at, NEW.known_at;
    NEW.out_of_order := header.effective_at < NEW.reached_at OR header.posted_at < NEW.known_at;
    RETURN NEW;
END $$;
CREATE INDEX posting_period ON posting (contract_id, period_start) WHERE contract_id IS NOT NULL;
DROP INDEX posting_line;
DROP TRIGGER balances ON ledger_transaction;
"""

# Only `post_together` is passed over: it has the setting for as long as it runs, and runs as the
# owner. A role that makes the setting its own is still under row-level security.
ELSEWHERE = """
    FOR EACH ROW WHEN (current_setting('steelyard.posting', true) IS DISTINCT FROM 'together'
                       OR row_security_active('public.{table}'::regclass))
"""
CHECKED = (
    f"CREATE TRIGGER takes_place BEFORE INSERT ON posting {ELSEWHERE.format(table='posting')} "
    "EXECUTE FUNCTION posting_takes_place();"
    "CREATE CONSTRAINT TRIGGER balances AFTER INSERT ON ledger_transaction DEFERRABLE "
    f"INITIALLY DEFERRED {ELSEWHERE.format(table='ledger_transaction')} "
    "EXECUTE FUNCTION transaction_balances()"
)

# The rows that the statement returns are those that were stored. Nobody exchanges currencies here,
# so an FX account among those asked for is refused before its postings are looked at.
TOGETHER = """
CREATE OR REPLACE FUNCTION post_together(
    posted timestamptz, ids uuid[], entities integer[], tenants integer[], kinds text[],
    keys text[], referred text[], effectives timestamptz[], originals timestamptz[],
    counts integer[], hashes bytea[], accounts integer[], contracts integer[],
    starts timestamptz[], lines text[], headers integer[], ordinals integer[],
    on_accounts integer[], amounts numeric[], of_contracts integer[], of_starts integer[],
    of_lines integer[]
) RETURNS uuid[]
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
SET steelyard.posting = 'together' AS $$
DECLARE
    made uuid[];
    added boolean[];
    account_entities integer[];
    account_tenants integer[];
    currencies text[];
    versions bigint[];
    balances numeric[];
    reached timestamptz[];
    known timestamptz[];
    contract_tenants integer[];
    exchanging boolean;
    wrong text;
BEGIN
    WITH new AS (
        INSERT INTO public.ledger_transaction (id, legal_entity_id, tenant_id, kind,
               idempotency_key, reference, effective_at, originated_at, posted_at, posting_count,
               postings_hash)
        SELECT h.id, h.entity, h.tenant, h.kind, h.key, h.referred, h.effective, h.original,
               posted, h.places, h.hash
          FROM unnest(ids, entities, tenants, kinds, keys, referred, effectives, originals, counts,
                      hashes)
            AS h (id, entity, tenant, kind, key, referred, effective, original, places, hash)
            ON CONFLICT (legal_entity_id, idempotency_key) DO NOTHING RETURNING id)
    SELECT array_agg(id) INTO made FROM new;
    IF made IS NULL THEN
        RETURN '{}';
    ELSIF cardinality(made) = cardinality(ids) THEN
        added := array_fill(true, ARRAY[cardinality(ids)]);
    ELSE
        SELECT array_agg(h.id = ANY (made) ORDER BY h.n) INTO added
          FROM unnest(ids) WITH ORDINALITY AS h (id, n);
    END IF;

    INSERT INTO public.account_balance (account_id, tenant_id, version, balance, reached_at,
                                        known_at)
    SELECT a.id, a.tenant_id, 0, 0, '-infinity', '-infinity'
      FROM unnest(accounts) AS asked (id) JOIN public.account a ON a.id = asked.id
     WHERE NOT EXISTS (SELECT FROM public.account_balance b WHERE b.account_id = a.id)
     ORDER BY a.tenant_id IS NULL, a.id
        ON CONFLICT DO NOTHING;
    -- In this order all posters lock: opposite orders would deadlock.
    PERFORM FROM public.account_balance WHERE account_id = ANY (accounts)
      ORDER BY tenant_id IS NULL, account_id FOR UPDATE;
    SELECT array_agg(a.legal_entity_id ORDER BY n), array_agg(a.tenant_id ORDER BY n),
           array_agg(a.currency ORDER BY n), array_agg(b.version ORDER BY n),
           array_agg(b.balance ORDER BY n), array_agg(b.reached_at ORDER BY n),
           array_agg(b.known_at ORDER BY n), bool_or(a.code = 'fx_position')
      INTO account_entities, account_tenants, currencies, versions, balances, reached, known,
           exchanging
      FROM unnest(accounts) WITH ORDINALITY AS asked (id, n)
      LEFT JOIN public.account a ON a.id = asked.id
      LEFT JOIN public.account_balance b ON b.account_id = a.id;
    SELECT array_agg(c.tenant_id ORDER BY n) INTO contract_tenants
      FROM unnest(contracts) WITH ORDINALITY AS asked (id, n)
      LEFT JOIN public.contract c ON c.id = asked.id;

    WITH written AS (
    INSERT INTO public.posting (transaction_id, ordinal, account_id, tenant_id, currency, amount,
           contract_id, period_start, line_key, account_version, balance_after, reached_at,
           known_at, out_of_order)
    SELECT ids[p.header], p.ordinal, accounts[p.account], account_tenants[p.account],
           currencies[p.account], p.amount, contracts[p.contract], starts[p.start], lines[p.line],
           versions[p.account] + p.nth, balances[p.account] + p.total, p.reached,
           greatest(known[p.account], posted),
           effectives[p.header] < p.reached OR posted < known[p.account]
      FROM (SELECT s.*, row_number() OVER by_account AS nth,
                   sum(s.amount) OVER by_account AS total,
                   greatest(reached[s.account], max(effectives[s.header]) OVER by_account)
                       AS reached
              FROM unnest(headers, ordinals, on_accounts, amounts, of_contracts, of_starts,
                          of_lines) WITH ORDINALITY
                   AS s (header, ordinal, account, amount, contract, start, line, place)
             WHERE added[s.header] AND s.ordinal BETWEEN 0 AND counts[s.header] - 1
               AND account_entities[s.account] = entities[s.header]
               AND (account_tenants[s.account] IS NULL
                    OR account_tenants[s.account] = tenants[s.header])
               AND (s.contract IS NULL OR contract_tenants[s.contract] = tenants[s.header])
            WINDOW by_account AS (PARTITION BY s.account ORDER BY s.place)) AS p
    RETURNING transaction_id, ordinal, account_id, currency, amount),
    arrived AS (
        SELECT transaction_id AS id, count(*) AS places, sum(amount) AS total,
               min(currency) = max(currency) AS one_currency,
               sha256(convert_to(string_agg(ordinal || '|' || account_id || '|' || amount, E'\\n'
                                            ORDER BY ordinal), 'UTF8')) AS hash
          FROM written GROUP BY transaction_id)
    SELECT CASE
             WHEN a.places IS DISTINCT FROM h.places
             THEN 'posting, account, contract and transaction do not belong together'
             WHEN exchanging OR NOT a.one_currency
             THEN format('transaction %s crosses currencies outside the two FX accounts', h.id)
             WHEN a.total <> 0
             THEN format('transaction %s does not sum to zero', h.id)
             WHEN a.hash <> h.hash
             THEN format('transaction %s does not have the postings that its header states', h.id)
           END INTO wrong
      FROM unnest(ids, counts, hashes, added) AS h (id, places, hash, added)
      LEFT JOIN arrived a ON a.id = h.id
     WHERE h.added ORDER BY 1 NULLS LAST LIMIT 1;
    IF wrong IS NOT NULL THEN
        RAISE EXCEPTION '%', wrong USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    UPDATE public.account_balance b
       SET version = b.version + moved.postings, balance = b.balance + moved.amount,
           reached_at = greatest(b.reached_at, moved.effective),
           known_at = greatest(b.known_at, posted)
      FROM (SELECT accounts[s.account] AS id, count(*) AS postings, sum(s.amount) AS amount,
                   max(effectives[s.header]) AS effective
              FROM unnest(headers, on_accounts, amounts) AS s (header, account, amount)
             WHERE added[s.header] GROUP BY s.account) AS moved
     WHERE b.account_id = moved.id;
    RETURN made;
END $$;
"""

REMOVED = """
DROP INDEX posting_period;
CREATE INDEX posting_line ON posting (contract_id, period_start, line_key)
    WHERE contract_id IS NOT NULL;

DROP TRIGGER balances ON ledger_transaction;
CREATE CONSTRAINT TRIGGER balances AFTER INSERT ON ledger_transaction
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION transaction_balances();

DROP FUNCTION posting_takes_place CASCADE;
CREATE FUNCTION posting_joins_own_header() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
SET enable_seqscan = off AS $$
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
CREATE FUNCTION posting_names_own_contract() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
SET enable_seqscan = off AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM public.ledger_transaction t
                     JOIN public.contract c ON c.tenant_id = t.tenant_id
                    WHERE t.id = NEW.transaction_id AND c.id = NEW.contract_id) THEN
        RAISE EXCEPTION 'posting, contract and transaction do not belong together'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE FUNCTION posting_takes_version() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
SET enable_seqscan = off AS $$
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
CREATE TRIGGER joins_own_header BEFORE INSERT ON posting
    FOR EACH ROW WHEN (NEW.account_version IS NULL OR row_security_active('public.posting'))
    EXECUTE FUNCTION posting_joins_own_header();
CREATE TRIGGER names_own_contract BEFORE INSERT ON posting
    FOR EACH ROW WHEN (NEW.contract_id IS NOT NULL
        AND (NEW.account_version IS NULL OR row_security_active('public.posting')))
    EXECUTE FUNCTION posting_names_own_contract();
CREATE TRIGGER takes_version BEFORE INSERT ON posting
    FOR EACH ROW WHEN (NEW.account_version IS NULL OR row_security_active('public.posting'))
    EXECUTE FUNCTION posting_takes_version();

DROP FUNCTION books_name_who_exists CASCADE;
DROP FUNCTION post_together;
"""


def upgrade() -> None:
    for step in (KEPT, NAMED, PLACES, CHECKED, TOGETHER):
        op.execute(step)
    enforce_references("NOT ENFORCED")


def downgrade() -> None:
    enforce_references("ENFORCED")
    op.execute(REMOVED)
    for table in KEEPERS:
        op.execute(f"DROP TRIGGER keeps_identity ON {table}; DROP TRIGGER stays ON {table}")
    op.execute(_as_it_was("20261121_1545_post_together").TOGETHER)
    op.execute(_as_it_was("20261122_1620_checks_by_statement").POSTINGS)


def enforce_references(how: str) -> None:
    """Have references looked up row by row, or not; they are checked anew when they are again."""
    for table, column in REFERENCES:
        op.execute(f"ALTER TABLE {table} ALTER CONSTRAINT {table}_{column}_fkey {how}")


def _as_it_was(revision_file: str) -> ModuleType:
    return import_module(f"migrations.versions.{revision_file}")
