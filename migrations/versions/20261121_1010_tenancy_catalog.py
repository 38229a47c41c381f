"""Legal entities, tenants, projects, keys; models, meters, plans, contracts, price versions."""

from __future__ import annotations

from alembic import op

revision = "20261121_1010"
down_revision = "20261121_1000"
branch_labels = None
depends_on = None

TABLES = """
CREATE TABLE legal_entity (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    slug text NOT NULL UNIQUE,
    name text NOT NULL,
    country char(2) NOT NULL,
    currency char(3) NOT NULL,
    zone text NOT NULL,
    created_at timestamptz NOT NULL
);
CREATE TABLE number_series (
    legal_entity_id integer NOT NULL REFERENCES legal_entity,
    kind text NOT NULL,
    prefix text NOT NULL,
    next_number bigint NOT NULL DEFAULT 1 CHECK (next_number > 0),
    PRIMARY KEY (legal_entity_id, kind)
);
CREATE TABLE tenant (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    slug text NOT NULL UNIQUE,
    name text NOT NULL,
    legal_entity_id integer NOT NULL REFERENCES legal_entity,
    zone text NOT NULL,
    anchor_day integer NOT NULL CHECK (anchor_day BETWEEN 1 AND 31),
    created_at timestamptz NOT NULL
);
CREATE TABLE project (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id integer NOT NULL REFERENCES tenant,
    slug text NOT NULL,
    created_at timestamptz NOT NULL,
    UNIQUE (tenant_id, slug),
    UNIQUE (tenant_id, id)
);
CREATE TABLE api_key (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id integer REFERENCES tenant,
    project_id integer,
    role text NOT NULL CHECK (role IN ('tenant', 'inference', 'operator', 'finance')),
    public text NOT NULL,
    digest bytea NOT NULL UNIQUE CHECK (length(digest) = 32),
    name text NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz,
    revoked_at timestamptz,
    -- With the tenant: one may not name another's project.
    FOREIGN KEY (tenant_id, project_id) REFERENCES project (tenant_id, id),
    CHECK ((role IN ('tenant', 'inference')) = (tenant_id IS NOT NULL)),
    CHECK ((tenant_id IS NULL) = (project_id IS NULL))
);
CREATE INDEX api_key_tenant ON api_key (tenant_id);
CREATE TABLE model (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE
);
CREATE TABLE meter_version (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    code text NOT NULL,
    version integer NOT NULL,
    unit text NOT NULL,
    aggregation text NOT NULL CHECK (aggregation IN ('sum')),
    informational boolean NOT NULL,
    effective_from timestamptz NOT NULL,
    UNIQUE (code, version)
);
CREATE TABLE plan_version (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    slug text NOT NULL,
    version integer NOT NULL CHECK (version > 0),
    name text NOT NULL,
    currency char(3) NOT NULL,
    document jsonb NOT NULL,
    digest bytea NOT NULL,
    created_at timestamptz NOT NULL,
    UNIQUE (slug, version)
);
CREATE TABLE contract (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id integer NOT NULL REFERENCES tenant,
    plan_version_id integer NOT NULL REFERENCES plan_version,
    valid_from timestamptz NOT NULL,
    valid_until timestamptz,
    created_at timestamptz NOT NULL,
    CHECK (valid_until > valid_from)
);
CREATE INDEX contract_tenant ON contract (tenant_id, valid_from);
CREATE TABLE price_version (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id integer NOT NULL REFERENCES tenant,
    contract_ids integer[] NOT NULL,
    UNIQUE (tenant_id, contract_ids)
);
"""

NEVER_CHANGED = ("meter_version", "plan_version", "price_version")
TENANT_READS = ("project", "api_key", "contract", "price_version")
ALL = (
    "price_version",
    "contract",
    "plan_version",
    "meter_version",
    "model",
    "api_key",
    "project",
    "tenant",
    "number_series",
    "legal_entity",
)

BUILT_IN_METERS = """
INSERT INTO meter_version (code, version, unit, aggregation, informational, effective_from)
VALUES ('tokens.input', 1, 'tokens', 'sum', false, '1970-01-01Z'),
       ('tokens.cached_input', 1, 'tokens', 'sum', false, '1970-01-01Z'),
       ('tokens.cache_write', 1, 'tokens', 'sum', false, '1970-01-01Z'),
       ('tokens.output', 1, 'tokens', 'sum', false, '1970-01-01Z'),
       ('requests', 1, 'requests', 'sum', true, '1970-01-01Z')
"""

# The proxy holds keys, contracts and models in memory: it hears of a change by this channel.
ANNOUNCE = """
CREATE FUNCTION announce_control_change() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    PERFORM pg_notify('steelyard_control', TG_TABLE_NAME);
    RETURN NULL;
END $$;
CREATE TRIGGER announce AFTER INSERT OR UPDATE OR DELETE ON api_key
    FOR EACH STATEMENT EXECUTE FUNCTION announce_control_change();
CREATE TRIGGER announce AFTER INSERT OR UPDATE OR DELETE ON contract
    FOR EACH STATEMENT EXECUTE FUNCTION announce_control_change();
"""


def upgrade() -> None:
    op.execute(TABLES)
    op.execute(BUILT_IN_METERS)
    op.execute(ANNOUNCE)
    for table in NEVER_CHANGED:
        op.execute(
            f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
    for table in TENANT_READS:
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(
            f"CREATE POLICY tenant_only ON {table} TO steelyard_tenant "
            "USING (tenant_id = current_tenant()) WITH CHECK (tenant_id = current_tenant())"
        )
        op.execute(
            f"CREATE POLICY all_rows ON {table} TO steelyard_operator, steelyard_ingest "
            "USING (true) WITH CHECK (true)"
        )
    op.execute("ALTER TABLE tenant ENABLE ROW LEVEL SECURITY")
    op.execute("CREATE POLICY own_row ON tenant TO steelyard_tenant USING (id = current_tenant())")
    op.execute(
        "CREATE POLICY all_rows ON tenant TO steelyard_operator, steelyard_ingest "
        "USING (true) WITH CHECK (true)"
    )
    # Prices that were negotiated with one tenant are nobody else's business. A tenant's contracts
    # are its own rows already, so what it sees here are the plans that it is bound to.
    op.execute("ALTER TABLE plan_version ENABLE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY own_plans ON plan_version TO steelyard_tenant USING (EXISTS "
        "(SELECT FROM contract c WHERE c.plan_version_id = plan_version.id))"
    )
    op.execute(
        "CREATE POLICY all_rows ON plan_version TO steelyard_operator, steelyard_ingest "
        "USING (true) WITH CHECK (true)"
    )
    reads = ", ".join(ALL)
    op.execute(f"GRANT SELECT ON {reads} TO steelyard_operator")
    op.execute(
        "GRANT SELECT ON legal_entity, model, meter_version, plan_version, tenant, project, "
        "api_key, contract, price_version TO steelyard_tenant"
    )
    op.execute(
        "GRANT SELECT ON model, meter_version, plan_version, tenant, project, contract, "
        "price_version TO steelyard_ingest"
    )
    op.execute("GRANT INSERT ON price_version, model TO steelyard_ingest")
    op.execute(f"GRANT INSERT ON {reads} TO steelyard_operator")
    op.execute("GRANT UPDATE (next_number) ON number_series TO steelyard_operator")
    op.execute("GRANT UPDATE (revoked_at) ON api_key TO steelyard_operator, steelyard_tenant")
    op.execute("GRANT INSERT ON api_key TO steelyard_tenant")
    op.execute("GRANT UPDATE (valid_until) ON contract TO steelyard_operator")


def downgrade() -> None:
    op.execute("DROP POLICY own_plans ON plan_version")
    for table in ALL:
        op.execute(f"DROP TABLE {table}")
    op.execute("DROP FUNCTION announce_control_change()")
