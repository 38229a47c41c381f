"""A month that is read back from its archive has what its events carried for dimensions, too.

The columns stand behind the ledger's own, in the order in which archives have them.
"""

from __future__ import annotations

from alembic import op

revision = "20261121_1136"
down_revision = "20261121_1135"
branch_labels = None
depends_on = None

BEFORE = "    EXECUTE format('ALTER TABLE public.%I ADD PRIMARY KEY (id)', name);\n"
CARRIED = """    EXECUTE format('ALTER TABLE public.%I ADD COLUMN property_tenant_id integer, '
                   'ADD COLUMN property_shape_id integer, ADD COLUMN property_texts text[]', name);
"""
CHANGE = """
DO $change$ BEGIN
    EXECUTE replace(pg_get_functiondef('make_restored_usage(date)'::regprocedure),
                    $before${before}$before$, $after${after}$after$);
END $change$;
"""


def upgrade() -> None:
    op.execute(CHANGE.format(before=BEFORE, after=CARRIED + BEFORE))


def downgrade() -> None:
    op.execute(CHANGE.format(before=CARRIED + BEFORE, after=BEFORE))
