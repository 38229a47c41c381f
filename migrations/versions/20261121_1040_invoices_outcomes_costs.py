"""Invoices with the quantities they were rated from; outcome claims; cost statements."""

from __future__ import annotations

from alembic import op

revision = "20261121_1040"
down_revision = "20261121_1030"
branch_labels = None
depends_on = None

TABLES = """
CREATE TABLE invoice (
    id uuid PRIMARY KEY,
    tenant_id integer NOT NULL REFERENCES tenant,
    legal_entity_id integer NOT NULL REFERENCES legal_entity,
    currency char(3) NOT NULL,
    period_start timestamptz NOT NULL,
    period_end timestamptz NOT NULL,
    kind text NOT NULL CHECK (kind IN ('period')),
    ordinal integer NOT NULL CHECK (ordinal > 0),
    state text NOT NULL CHECK (state IN ('draft', 'issued', 'paid')),
    number text,
    watermark bigint NOT NULL,
    inputs jsonb NOT NULL,
    subtotal_minor bigint NOT NULL,
    tax_minor bigint NOT NULL,
    total_minor bigint NOT NULL,
    amount_due_minor bigint NOT NULL,
    residual_before numeric(38, 12) NOT NULL,
    residual_after numeric(38, 12) NOT NULL,
    drafted_at timestamptz NOT NULL,
    issued_at timestamptz,
    due_at timestamptz,
    paid_at timestamptz,
    UNIQUE (tenant_id, legal_entity_id, currency, period_start, kind, ordinal),
    UNIQUE NULLS DISTINCT (legal_entity_id, number),
    CHECK (total_minor = subtotal_minor + tax_minor),
    CHECK ((state = 'draft') = (number IS NULL)),
    CHECK ((number IS NULL) = (issued_at IS NULL) AND (number IS NULL) = (due_at IS NULL)),
    CHECK ((state = 'paid') = (paid_at IS NOT NULL))
);
CREATE TABLE invoice_line (
    invoice_id uuid NOT NULL REFERENCES invoice ON DELETE CASCADE,
    ordinal integer NOT NULL,
    tenant_id integer NOT NULL,
    kind text NOT NULL,
    key text NOT NULL,
    contract_id integer REFERENCES contract,
    description text NOT NULL,
    meter text,
    unit text,
    quantity numeric NOT NULL,
    exact numeric NOT NULL,
    amount_minor bigint NOT NULL,
    explanation jsonb NOT NULL,
    by_model jsonb NOT NULL,
    PRIMARY KEY (invoice_id, ordinal)
);
CREATE INDEX invoice_line_key ON invoice_line (contract_id, key);
CREATE TABLE invoice_quantity (
    invoice_id uuid NOT NULL REFERENCES invoice ON DELETE CASCADE,
    ordinal integer NOT NULL,
    tenant_id integer NOT NULL,
    contract_id integer,
    meter text NOT NULL,
    model text,
    quantity numeric NOT NULL,
    PRIMARY KEY (invoice_id, ordinal)
);
CREATE TABLE invoice_scope (
    invoice_id uuid NOT NULL REFERENCES invoice ON DELETE CASCADE,
    period_start timestamptz NOT NULL,
    period_end timestamptz NOT NULL,
    tenant_id integer NOT NULL,
    watermark bigint NOT NULL,
    PRIMARY KEY (invoice_id, period_start)
);
CREATE INDEX invoice_scope_tenant ON invoice_scope (tenant_id, period_start);
CREATE TABLE invoice_settlement (
    invoice_id uuid NOT NULL REFERENCES invoice ON DELETE CASCADE,
    contract_id integer NOT NULL REFERENCES contract,
    period_start timestamptz NOT NULL,
    line_key text NOT NULL,
    tenant_id integer NOT NULL,
    accrued numeric(38, 12) NOT NULL,
    amount_minor bigint NOT NULL,
    PRIMARY KEY (invoice_id, contract_id, period_start, line_key)
);
CREATE INDEX invoice_settlement_line ON invoice_settlement (contract_id, period_start);
CREATE TABLE outcome_definition (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    slug text NOT NULL,
    version integer NOT NULL CHECK (version > 0),
    name text NOT NULL,
    meter_version_id integer NOT NULL REFERENCES meter_version,
    created_at timestamptz NOT NULL,
    UNIQUE (slug, version)
);
CREATE TABLE outcome_claim (
    id uuid PRIMARY KEY,
    tenant_id integer NOT NULL REFERENCES tenant,
    definition_id integer NOT NULL REFERENCES outcome_definition,
    outcome text NOT NULL,
    subject text NOT NULL,
    occurred_at timestamptz NOT NULL,
    UNIQUE (tenant_id, outcome, subject),
    UNIQUE (tenant_id, id)
);
CREATE TABLE outcome_transition (
    claim_id uuid NOT NULL,
    ordinal integer NOT NULL CHECK (ordinal > 0),
    tenant_id integer NOT NULL,
    from_state text,
    to_state text NOT NULL,
    actor text NOT NULL,
    key_id integer NOT NULL,
    at timestamptz NOT NULL,
    usage_event_id uuid,
    PRIMARY KEY (claim_id, ordinal),
    -- With the tenant: one may not move another's claim.
    FOREIGN KEY (tenant_id, claim_id) REFERENCES outcome_claim (tenant_id, id)
);
CREATE TABLE cost_statement (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    period_start timestamptz NOT NULL,
    period_end timestamptz NOT NULL,
    currency char(3) NOT NULL,
    booked numeric(38, 12) NOT NULL,
    source text NOT NULL,
    digest bytea NOT NULL,
    recorded_at timestamptz NOT NULL
);
CREATE INDEX cost_statement_period ON cost_statement (period_start, period_end);
"""

# A draft may be replaced; an issued invoice only moves on to `paid`, and its lines never change.
GUARDS = """
CREATE FUNCTION issued_invoice_stays() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, public AS $$
BEGIN
    IF OLD.state <> 'draft' AND (TG_OP = 'DELETE' OR (to_jsonb(NEW) - 'state' - 'paid_at')
        IS DISTINCT FROM (to_jsonb(OLD) - 'state' - 'paid_at') OR NEW.state = 'draft'
        OR (OLD.state = 'paid' AND NEW IS DISTINCT FROM OLD)) THEN
        RAISE EXCEPTION 'an issued invoice is never restated'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
END $$;
CREATE TRIGGER issued_stays BEFORE UPDATE OR DELETE ON invoice
    FOR EACH ROW EXECUTE FUNCTION issued_invoice_stays();

CREATE FUNCTION issued_line_stays() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public AS $$
DECLARE
    touched uuid[] := CASE TG_OP WHEN 'INSERT' THEN ARRAY[NEW.invoice_id]
        WHEN 'DELETE' THEN ARRAY[OLD.invoice_id] ELSE ARRAY[OLD.invoice_id, NEW.invoice_id] END;
BEGIN
    IF EXISTS (SELECT FROM public.invoice WHERE id = ANY (touched) AND state <> 'draft') THEN
        RAISE EXCEPTION 'a line of an issued invoice is never changed'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
END $$;
CREATE TRIGGER issued_stays BEFORE INSERT OR UPDATE OR DELETE ON invoice_line
    FOR EACH ROW EXECUTE FUNCTION issued_line_stays();
CREATE TRIGGER issued_stays BEFORE INSERT OR UPDATE OR DELETE ON invoice_quantity
    FOR EACH ROW EXECUTE FUNCTION issued_line_stays();
CREATE TRIGGER issued_stays BEFORE INSERT OR UPDATE OR DELETE ON invoice_scope
    FOR EACH ROW EXECUTE FUNCTION issued_line_stays();
CREATE TRIGGER issued_stays BEFORE INSERT OR UPDATE OR DELETE ON invoice_settlement
    FOR EACH ROW EXECUTE FUNCTION issued_line_stays();
"""

APPEND_ONLY = ("outcome_definition", "outcome_claim", "outcome_transition", "cost_statement")
PARTS = ("invoice_line", "invoice_quantity", "invoice_scope", "invoice_settlement")
NO_TRUNCATE = ("invoice", *PARTS)
TENANT_TABLES = (
    "invoice",
    *PARTS,
    "outcome_claim",
    "outcome_transition",
)


def upgrade() -> None:
    op.execute(TABLES)
    op.execute(GUARDS)
    for table in APPEND_ONLY:
        op.execute(
            f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
    for table in NO_TRUNCATE:
        op.execute(
            f"CREATE TRIGGER no_truncate BEFORE TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
    for table in TENANT_TABLES:
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(
            f"CREATE POLICY tenant_only ON {table} TO steelyard_tenant "
            "USING (tenant_id = current_tenant()) WITH CHECK (tenant_id = current_tenant())"
        )
        op.execute(
            f"CREATE POLICY all_rows ON {table} TO steelyard_operator USING (true) "
            "WITH CHECK (true)"
        )
    everything = ", ".join((*TENANT_TABLES, "outcome_definition", "cost_statement"))
    op.execute(f"GRANT SELECT, INSERT ON {everything} TO steelyard_operator")
    op.execute("GRANT UPDATE, DELETE ON invoice TO steelyard_operator")
    op.execute(f"GRANT DELETE ON {', '.join(PARTS)} TO steelyard_operator")
    op.execute(
        f"GRANT SELECT ON invoice, {', '.join(PARTS)}, outcome_definition, "
        "outcome_claim, outcome_transition TO steelyard_tenant"
    )
    op.execute("GRANT INSERT ON outcome_claim, outcome_transition TO steelyard_tenant")


def downgrade() -> None:
    for table in (
        "cost_statement",
        "outcome_transition",
        "outcome_claim",
        "outcome_definition",
        *reversed(PARTS),
        "invoice",
    ):
        op.execute(f"DROP TABLE {table}")
    op.execute("DROP FUNCTION issued_line_stays")
    op.execute("DROP FUNCTION issued_invoice_stays")
