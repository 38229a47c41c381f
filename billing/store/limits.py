"""Table spend_limit as people see it: what each limit counts, for whom, and what is left of it.

The credit is not among them: it has no capacity of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

import sqlalchemy as sa

from billing.admission.limit import Unit, Window
from billing.store.database import members, query, run


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitRow:
    """A limit as it stands.

    Attributes:
        currency: None where it does not count money.
        project, key, model: slug, public part and name of whose requests it counts; None: of all.
        used: in the present window, for certain.
        leased: set aside in the present window by proxies and by open holds.
        left: what neither used nor set aside.
        ended_at: from when on it counts nothing; None while it does.
    """

    id: int
    name: str
    unit: Unit
    window: Window
    currency: str | None
    capacity: Decimal
    hard: bool
    shadow: bool
    project: str | None
    key: str | None
    model: str | None
    used: Decimal
    leased: Decimal
    left: Decimal
    ended_at: datetime | None


# A window that is over has not been rolled yet where nobody asked since: nothing of it counts.
_LIMITS = """
SELECT l.id, l.name, l.unit, l.span AS window, l.capacity, l.hard, l.shadow, l.ended_at,
       CASE WHEN l.unit = 'money' THEN l.currency END AS currency,
       p.slug AS project, k.public AS key, m.name AS model,
       s.used, s.leased + l.held AS leased,
       greatest(l.capacity - s.used - s.leased - l.held, 0) AS left
  FROM spend_limit l
  CROSS JOIN LATERAL (
       SELECT CASE WHEN l.window_end > :now THEN l.spent ELSE 0 END AS used,
              CASE WHEN l.window_end > :now THEN l.leased ELSE 0 END AS leased) AS s
  LEFT JOIN project p ON p.id = l.project_id
  LEFT JOIN api_key k ON k.id = l.key_id
  LEFT JOIN model m ON m.id = l.model_id
 WHERE l.tenant_id = :tenant AND l.capacity IS NOT NULL
 ORDER BY l.name, l.id
"""


def limits(connection: sa.Connection, *, tenant_id: int, now: datetime) -> list[LimitRow]:
    """A tenant's limits by name, ended ones too."""
    return [
        LimitRow(**members(row, unit=Unit(row.unit), window=Window(row.window)))
        for row in query(connection, _LIMITS, tenant=tenant_id, now=now)
    ]


def other_currencies(
    connection: sa.Connection, *, tenant_id: int, currency: str, now: datetime
) -> list[str]:
    """Names of a tenant's limits on money that count in another currency."""
    rows = query(
        connection,
        "SELECT name FROM spend_limit WHERE tenant_id = :tenant AND unit = 'money' "
        "AND capacity IS NOT NULL AND currency <> :currency "
        "AND (ended_at IS NULL OR ended_at > :now) ORDER BY name",
        tenant=tenant_id,
        currency=currency,
        now=now,
    )
    return [row.name for row in rows]


def end_limit(connection: sa.Connection, limit_id: int, *, now: datetime) -> None:
    """Let a limit count nothing from now on; what it counted is kept."""
    run(
        connection,
        "UPDATE spend_limit SET ended_at = :now WHERE id = :id AND ended_at IS NULL",
        id=limit_id,
        now=now,
    )
