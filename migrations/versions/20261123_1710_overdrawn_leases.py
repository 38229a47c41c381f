"""What was drawn beyond a lease belongs to it from then on.

A process that has used more than it had leased asks for as much more as it needs to be at zero
again. Where that use was counted as spent already, the same amount was counted as leased beside
it, for good: a limit that was exceeded once lost it a second time.
"""

from __future__ import annotations

from alembic import op

revision = "20261123_1710"
down_revision = "20261123_1700"
branch_labels = None
depends_on = None

NAME = "draw_leases(bigint[], numeric[], timestamptz)"
BEFORE = "SET drawn = drawn + each.amount WHERE"
AFTER = """SET drawn = drawn + each.amount,
            granted = greatest(granted, drawn + each.amount) WHERE"""
MENDED = """
UPDATE lease SET granted = drawn WHERE granted < drawn;
UPDATE spend_limit s SET leased = o.left_open
  FROM (SELECT l.id, coalesce(sum(e.granted - e.drawn), 0) AS left_open
          FROM spend_limit l LEFT JOIN lease e ON e.limit_id = l.id AND NOT e.closed
         GROUP BY l.id) AS o
 WHERE o.id = s.id AND s.leased <> o.left_open;
"""


def upgrade() -> None:
    op.execute("LOCK TABLE spend_limit, lease IN EXCLUSIVE MODE")
    _rewrite(BEFORE, AFTER)
    op.execute(MENDED)


def downgrade() -> None:
    _rewrite(AFTER, BEFORE)


def _rewrite(old: str, new: str) -> None:
    """Replace a part of the function's text, if it is as this revision knows it."""
    connection = op.get_bind()
    definition = f"SELECT pg_get_functiondef('{NAME}'::regprocedure)"
    text = connection.exec_driver_sql(definition).scalar_one()
    if text.count(old) != 1:
        raise RuntimeError(f"{NAME} is not as this revision knows it")
    connection.exec_driver_sql(text.replace(old, new))
