"""Seal of the usage ledger and of the books: trees, their heads, signed folds, witnesses.

`seal_hashes` holds, per tree, runs of the hashes at every eighth level: level 0 are the leaves,
a hash at level 8 stands for 256 of them. Proofs read a few hundred hashes however long the log is.
"""

from __future__ import annotations

from alembic import op

revision = "20261121_1070"
down_revision = "20261121_1065"
branch_labels = None
depends_on = None

TABLES = """
CREATE TABLE seal_key (
    id text PRIMARY KEY,
    public_key bytea NOT NULL CHECK (length(public_key) = 32),
    valid_from timestamptz NOT NULL
);
CREATE TABLE seal_tree (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind text NOT NULL CHECK (kind IN ('usage', 'books', 'operator')),
    tenant_id integer REFERENCES tenant,
    legal_entity_id integer REFERENCES legal_entity,
    UNIQUE NULLS NOT DISTINCT (kind, tenant_id, legal_entity_id),
    CHECK ((kind = 'usage') = (tenant_id IS NOT NULL)),
    CHECK ((kind = 'books') = (legal_entity_id IS NOT NULL))
);
CREATE TABLE seal_hashes (
    tree_id integer NOT NULL REFERENCES seal_tree,
    level smallint NOT NULL,
    first bigint NOT NULL,
    hashes bytea NOT NULL CHECK (length(hashes) > 0 AND length(hashes) % 32 = 0),
    PRIMARY KEY (tree_id, level, first)
);
-- Stored as it is: a part of a long run is then read without the rest of it.
ALTER TABLE seal_hashes ALTER COLUMN hashes SET STORAGE EXTERNAL;
CREATE TABLE seal_fold (
    size bigint PRIMARY KEY,
    root bytea NOT NULL CHECK (length(root) = 32),
    epoch_after bigint NOT NULL,
    epoch_to bigint NOT NULL CHECK (epoch_to >= epoch_after),
    xact_from bigint NOT NULL,
    xact_before bigint NOT NULL CHECK (xact_before >= xact_from),
    folded_at timestamptz NOT NULL,
    key_id text NOT NULL REFERENCES seal_key,
    signature bytea NOT NULL CHECK (length(signature) = 64)
);
CREATE TABLE seal_head (
    tree_id integer NOT NULL REFERENCES seal_tree,
    size bigint NOT NULL CHECK (size > 0),
    root bytea NOT NULL CHECK (length(root) = 32),
    added bigint NOT NULL CHECK (added > 0),
    operator_leaf bigint NOT NULL UNIQUE,
    fold_size bigint NOT NULL REFERENCES seal_fold DEFERRABLE INITIALLY DEFERRED,
    PRIMARY KEY (tree_id, size)
);
CREATE INDEX seal_head_fold ON seal_head (fold_size);
CREATE TABLE seal_witness (
    fold_size bigint NOT NULL REFERENCES seal_fold,
    url text NOT NULL,
    status integer NOT NULL,
    answer text NOT NULL,
    answered_at timestamptz NOT NULL,
    PRIMARY KEY (fold_size, url)
);
-- Reported events are sealed with their reporter's identity. Ids of events grow with time, and so
-- do the rows of the key table: a few bytes per range find those of the newest events.
CREATE INDEX usage_key_event ON usage_key USING brin (event_id);
"""

LEDGERS = ("seal_key", "seal_tree", "seal_hashes", "seal_fold", "seal_head", "seal_witness")


def upgrade() -> None:
    op.execute(TABLES)
    for table in LEDGERS:
        op.execute(
            f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(
            f"CREATE POLICY all_rows ON {table} TO steelyard_operator USING (true) "
            "WITH CHECK (true)"
        )
        op.execute(f"GRANT SELECT, INSERT ON {table} TO steelyard_operator")


def downgrade() -> None:
    op.execute("DROP INDEX usage_key_event")
    for table in ("seal_witness", "seal_head", "seal_fold", "seal_hashes", "seal_tree", "seal_key"):
        op.execute(f"DROP TABLE {table}")
