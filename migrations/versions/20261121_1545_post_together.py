"""Post the transactions of many tenants at once, under the same checks.

Row by row, a posting asks for its header, its account, its contract, and moves the balance of its
account: ten lines of one tenant move two balances ten times. Here a page's postings are checked as
a set, and each balance moves once. Versions and balances are worked out by the database as before.
"""

from __future__ import annotations

from alembic import op

revision = "20261121_1545"
down_revision = "20261121_1540"
branch_labels = None
depends_on = None

# What a role writes by itself goes through these row by row, whatever version it states: row-level
# security is active for it. For `post_together`, which runs as the owner, it is not; that function
# states versions, and checks the same of all its rows.
STATED = """
DROP TRIGGER joins_own_header ON posting;
CREATE TRIGGER joins_own_header BEFORE INSERT ON posting
    FOR EACH ROW WHEN (NEW.account_version IS NULL OR row_security_active('public.posting'))
    EXECUTE FUNCTION posting_joins_own_header();
DROP TRIGGER names_own_contract ON posting;
CREATE TRIGGER names_own_contract BEFORE INSERT ON posting
    FOR EACH ROW WHEN (NEW.contract_id IS NOT NULL
        AND (NEW.account_version IS NULL OR row_security_active('public.posting')))
    EXECUTE FUNCTION posting_names_own_contract();
DROP TRIGGER takes_version ON posting;
CREATE TRIGGER takes_version BEFORE INSERT ON posting
    FOR EACH ROW WHEN (NEW.account_version IS NULL OR row_security_active('public.posting'))
    EXECUTE FUNCTION posting_takes_version();
"""

# Positions in the arrays are counted from 1. Accounts and contracts are looked up by index: a plan
# from when their tables were small would read all of them. Postings then join nothing: what they
# need is taken from the arrays by position, so that no estimate can make it slow.
TOGETHER = """
CREATE FUNCTION post_together(
    posted timestamptz, ids uuid[], entities integer[], tenants integer[], kinds text[],
    keys text[], referred text[], effectives timestamptz[], originals timestamptz[],
    counts integer[], hashes bytea[], accounts integer[], contracts integer[],
    starts timestamptz[], lines text[], headers integer[], ordinals integer[],
    on_accounts integer[], amounts numeric[], of_contracts integer[], of_starts integer[],
    of_lines integer[]
) RETURNS uuid[]
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
SET enable_seqscan = off SET plan_cache_mode = force_generic_plan AS $$
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
    stated bigint;
    written bigint;
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
            ON CONFLICT (legal_entity_id, idempotency_key) DO NOTHING RETURNING id, posting_count)
    SELECT array_agg(id), sum(posting_count) INTO made, stated FROM new;
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
           array_agg(b.known_at ORDER BY n)
      INTO account_entities, account_tenants, currencies, versions, balances, reached, known
      FROM unnest(accounts) WITH ORDINALITY AS asked (id, n)
      LEFT JOIN public.account a ON a.id = asked.id
      LEFT JOIN public.account_balance b ON b.account_id = a.id;
    SELECT array_agg(c.tenant_id ORDER BY n) INTO contract_tenants
      FROM unnest(contracts) WITH ORDINALITY AS asked (id, n)
      LEFT JOIN public.contract c ON c.id = asked.id;

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
            WINDOW by_account AS (PARTITION BY s.account ORDER BY s.place)) AS p;
    GET DIAGNOSTICS written = ROW_COUNT;
    IF written <> stated THEN
        RAISE EXCEPTION 'posting, account, contract and transaction do not belong together'
            USING ERRCODE = 'integrity_constraint_violation';
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
REVOKE EXECUTE ON FUNCTION post_together FROM PUBLIC;
GRANT EXECUTE ON FUNCTION post_together TO steelyard_operator;
"""

REMOVED = """
DROP FUNCTION post_together;
DROP TRIGGER takes_version ON posting;
CREATE TRIGGER takes_version BEFORE INSERT ON posting
    FOR EACH ROW EXECUTE FUNCTION posting_takes_version();
DROP TRIGGER names_own_contract ON posting;
CREATE TRIGGER names_own_contract BEFORE INSERT ON posting
    FOR EACH ROW WHEN (NEW.contract_id IS NOT NULL) EXECUTE FUNCTION posting_names_own_contract();
DROP TRIGGER joins_own_header ON posting;
CREATE TRIGGER joins_own_header BEFORE INSERT ON posting
    FOR EACH ROW EXECUTE FUNCTION posting_joins_own_header();
"""


def upgrade() -> None:
    op.execute(STATED)
    op.execute(TOGETHER)


def downgrade() -> None:
    op.execute(REMOVED)
