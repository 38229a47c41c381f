"""Credit that is given back, redeemed on invoices or reserved for one; holds extended once."""

from __future__ import annotations

from alembic import op

revision = "20261121_1105"
down_revision = "20261121_1100"
branch_labels = None
depends_on = None

TABLES = """
ALTER TABLE credit_event ADD COLUMN invoice_id uuid REFERENCES invoice;
ALTER TABLE credit_event DROP CONSTRAINT credit_event_kind_check;
ALTER TABLE credit_event DROP CONSTRAINT credit_event_check1;
ALTER TABLE credit_event ADD CONSTRAINT credit_event_kind_check CHECK (kind IN
    ('granted', 'applied', 'restored', 'redeemed', 'expired', 'voided', 'rolled_over'));
ALTER TABLE credit_event ADD CONSTRAINT credit_event_check1 CHECK
    ((kind IN ('applied', 'restored'))
     = (num_nulls(contract_id, period_start, line_key, day) = 0));
ALTER TABLE credit_event ADD CONSTRAINT credit_event_invoice_check CHECK
    ((kind = 'redeemed') = (invoice_id IS NOT NULL));
DROP INDEX credit_event_line;
CREATE INDEX credit_event_line ON credit_event (contract_id, period_start, line_key, day)
    WHERE kind IN ('applied', 'restored');
CREATE INDEX credit_event_invoice ON credit_event (invoice_id) WHERE kind = 'redeemed';
CREATE INDEX credit_event_tenant ON credit_event (tenant_id, recorded_at);

ALTER TABLE credit_balance ADD COLUMN version integer NOT NULL DEFAULT 1;
UPDATE credit_balance b SET version =
    (SELECT count(*) FROM credit_event e WHERE e.grant_id = b.grant_id);

CREATE TABLE credit_reservation (
    grant_id uuid NOT NULL REFERENCES credit_grant,
    period_start timestamptz NOT NULL,
    tenant_id integer NOT NULL REFERENCES tenant,
    amount numeric(38, 12) NOT NULL CHECK (amount > 0),
    PRIMARY KEY (grant_id, period_start)
);
ALTER TABLE credit_reservation ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant_only ON credit_reservation FOR SELECT TO steelyard_tenant
    USING (tenant_id = current_tenant());
CREATE POLICY all_rows ON credit_reservation TO steelyard_operator
    USING (true) WITH CHECK (true);
GRANT SELECT ON credit_reservation TO steelyard_operator, steelyard_tenant;
GRANT INSERT, DELETE ON credit_reservation TO steelyard_operator;

ALTER TABLE hold_event ADD COLUMN extension_id uuid;
ALTER TABLE hold_event ADD CONSTRAINT hold_event_extension_check
    CHECK (extension_id IS NULL OR kind = 'extended');
CREATE UNIQUE INDEX hold_extended_once ON hold_event (hold_id, extension_id);
"""

TABLES_BEFORE = """
DROP INDEX hold_extended_once;
ALTER TABLE hold_event DROP COLUMN extension_id;
DROP TABLE credit_reservation;
ALTER TABLE credit_balance DROP COLUMN version;
DROP INDEX credit_event_tenant;
DROP INDEX credit_event_invoice;
DROP INDEX credit_event_line;
CREATE INDEX credit_event_line ON credit_event (contract_id, period_start, line_key, day)
    WHERE kind = 'applied';
ALTER TABLE credit_event DROP COLUMN invoice_id;
ALTER TABLE credit_event DROP CONSTRAINT credit_event_kind_check;
ALTER TABLE credit_event DROP CONSTRAINT credit_event_check1;
ALTER TABLE credit_event ADD CONSTRAINT credit_event_kind_check CHECK (kind IN
    ('granted', 'applied', 'expired', 'voided', 'rolled_over'));
ALTER TABLE credit_event ADD CONSTRAINT credit_event_check1 CHECK
    ((kind = 'applied') = (num_nulls(contract_id, period_start, line_key, day) = 0));
"""

# Each function as (signature before, signature after, what changes in its text).
MOVES_BALANCE = (
    "credit_event_moves_balance()",
    "credit_event_moves_balance()",
    (
        (
            "used + CASE WHEN NEW.kind = 'applied' THEN NEW.amount ELSE 0 END",
            (
                "used + CASE WHEN NEW.kind IN ('applied', 'redeemed') THEN NEW.amount\n"
                "                WHEN NEW.kind = 'restored' THEN -NEW.amount ELSE 0 END"
            ),
        ),
        (
            "expired + CASE WHEN NEW.kind = 'applied' THEN 0 ELSE NEW.amount END",
            (
                "expired + CASE WHEN NEW.kind IN ('applied', 'restored', 'redeemed') THEN 0\n"
                "                ELSE NEW.amount END"
            ),
        ),
        (
            "remaining = remaining - NEW.amount\n",
            (
                "remaining = remaining + CASE WHEN NEW.kind = 'restored' THEN NEW.amount\n"
                "                ELSE -NEW.amount END,\n            version = version + 1\n"
            ),
        ),
    ),
)
AVAILABLE = (
    "limit_available(integer, timestamptz)",
    "limit_available(integer, timestamptz)",
    (
        (
            "sum(b.remaining)",
            (
                "sum(b.remaining - (\n"
                "                   SELECT coalesce(sum(r.amount), 0)\n"
                "                   FROM public.credit_reservation r\n"
                "                   WHERE r.grant_id = b.grant_id))"
            ),
        ),
    ),
)
EXTEND = (
    "extend_hold(uuid, integer, numeric, timestamptz, timestamptz)",
    "extend_hold(uuid, uuid, integer, numeric, timestamptz, timestamptz)",
    (
        (
            "extend_hold(the_hold uuid, the_limit",
            "extend_hold(the_hold uuid, the_key uuid, the_limit",
        ),
        (
            "    opened public.open_hold;\n",
            "    opened public.open_hold;\n    earlier public.hold_event;\n",
        ),
        (
            "    SELECT * INTO opened",
            (
                "    SELECT * INTO earlier FROM public.hold_event\n"
                "        WHERE hold_id = the_hold AND extension_id = the_key;\n"
                "    IF earlier.hold_id IS NOT NULL THEN\n"
                "        RETURN CASE WHEN (earlier.limit_id, earlier.amount, earlier.expires_at)\n"
                "                         = (the_limit, more, until) THEN 'extended'\n"
                "                    ELSE 'conflict' END;\n"
                "    END IF;\n"
                "    SELECT * INTO opened"
            ),
        ),
        ("expires_at, recorded_at)\n", "expires_at, recorded_at, extension_id)\n"),
        ("more, until, at\n", "more, until, at, the_key\n"),
    ),
)


def upgrade() -> None:
    op.execute(TABLES)
    for before, after, changes in (MOVES_BALANCE, AVAILABLE, EXTEND):
        _rewrite(before, after, changes)


def downgrade() -> None:
    for before, after, changes in (MOVES_BALANCE, AVAILABLE, EXTEND):
        _rewrite(after, before, tuple((new, old) for old, new in changes))
    op.execute(TABLES_BEFORE)


def _rewrite(before: str, after: str, changes: tuple[tuple[str, str], ...]) -> None:
    """Replace parts of a function's text, if it is as this revision knows it."""
    text = (
        op.get_bind()
        .exec_driver_sql(f"SELECT pg_get_functiondef('{before}'::regprocedure)")
        .scalar_one()
    )
    for old, new in changes:
        if text.count(old) != 1:
            raise RuntimeError(f"{before} is not as this revision knows it")
        text = text.replace(old, new)
    if before != after:
        op.execute(f"DROP FUNCTION {before}")
    op.get_bind().exec_driver_sql(text)
    if before != after:
        op.execute(f"REVOKE EXECUTE ON FUNCTION {after} FROM PUBLIC")
        op.execute(f"GRANT EXECUTE ON FUNCTION {after} TO steelyard_operator")
