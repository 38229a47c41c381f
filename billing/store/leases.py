"""Tables lease, proxy_process and limit_draw: the shares of limits that proxy processes hold.

Every step is one call of a function of the schema, which takes the limits' rows first. Amounts are
whole numbers here, as the proxy and its journal count them: money in 10⁻¹² of the major unit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from billing.admission.limit import Limit, Unit, Window
from billing.errors import ConfigurationError
from billing.metering.event_id import from_microseconds, microseconds
from billing.money import EXACT
from billing.store.database import Role, acting_as, only, query

_PICO_PLACES = 12

_LIMITS = """
SELECT l.id, l.tenant_id, l.name, l.unit, l.span, l.hard, l.shadow, l.capacity, l.currency,
       l.project_id, l.key_id, l.model_id, t.slug, t.zone
  FROM spend_limit l JOIN tenant t ON t.id = l.tenant_id
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """A process that asks for shares of limits.

    Attributes:
        instance: name of its journal, so that its shares end when that is drained.
        turn: grows with every call; one that arrives after a later one is ignored.
        until: when its shares end if it is not heard of again.
    """

    instance: str
    turn: int
    until: datetime


class Renewal(StrEnum):
    """What became of a process's leases: they stand, they were swept, or it has no part left."""

    STANDS = "stands"
    SWEPT = "swept"
    GONE = "gone"


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseAsk:
    """What a process asks of one limit.

    Attributes:
        lease_id: the lease that it knows; None: none.
        have: what it knows to be granted.
        least: how much more it needs.
        blocks: without that nothing is leased at all; else as much as there is.
        wanted: how much more it would like.
        window: start and end in µs since 1970 UTC of the present window; None: it has none.
    """

    limit_id: int
    unit: Unit
    lease_id: int | None
    have: int
    least: int
    wanted: int
    blocks: bool = True
    window: tuple[int, int] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRow:
    """What a limit said: its lease, or that too little is left of it.

    Attributes:
        lease_id: None: refused.
        granted: by the lease in all.
        used: spent, held and leased, of all processes.
        capacity: of the window; of credit, all that is there.
        elsewhere: leased to other processes and not drawn by them; 0 where a lease was granted.
        ends_us: when some of the credit that it counts on expires, in µs since 1970 UTC: more may
            be leased then than is left; None: never.
    """

    limit_id: int
    lease_id: int | None
    granted: int
    used: int
    capacity: int
    elsewhere: int
    ends_us: int | None = None


def limits_of(connection: sa.Connection, *, now: datetime) -> dict[int, tuple[Limit, ...]]:
    """The limits in force by tenant, in order of id; the credit is not among them.

    Raises:
        ConfigurationError: a row says what this version does not know.
    """
    found: dict[int, list[Limit]] = {}
    for row in query(
        connection,
        f"{_LIMITS} WHERE l.capacity IS NOT NULL AND (l.ended_at IS NULL OR l.ended_at > :now) "
        "ORDER BY l.id",
        now=now,
    ):
        try:
            limit = _limit(row)
        except ValueError:
            raise ConfigurationError(
                f"the limit `{row.name}` of tenant `{row.slug}` has a unit or window that this "
                "version does not know",
                field="limit",
                remedy="run the version that made it, or end it with `steelyard limit end`",
            ) from None
        found.setdefault(row.tenant_id, []).append(limit)
    return {tenant_id: tuple(limits) for tenant_id, limits in found.items()}


def _limit(row: sa.Row[Any]) -> Limit:
    unit = Unit(row.unit)
    return Limit(
        id=row.id,
        name=row.name,
        unit=unit,
        window=Window(row.span),
        hard=row.hard,
        shadow=row.shadow,
        capacity=_counted(row.capacity or Decimal(0), unit),
        currency=row.currency if unit is Unit.MONEY else "",
        project_id=row.project_id,
        key_id=row.key_id,
        model_id=row.model_id,
        zone=row.zone,
    )


def renew(
    connection: sa.Connection, caller: Caller, *, anew: bool = False, now: datetime
) -> Renewal:
    """Say that a process lives; `anew` once it has forgotten the leases that were swept."""
    answer = only(
        connection,
        "SELECT renew_process(:instance, :turn, :until, :now, :anew) AS answer",
        instance=caller.instance,
        turn=caller.turn,
        until=caller.until,
        now=now,
        anew=anew,
    ).answer
    return Renewal(answer)


def live_processes(connection: sa.Connection, *, now: datetime) -> int:
    """How many processes lease and were heard of just now; at least 1."""
    live = only(
        connection,
        "SELECT count(*) AS live FROM proxy_process WHERE NOT swept AND NOT drained "
        "AND seen_at > CAST(:now AS timestamptz) - interval '5 s'",
        now=now,
    ).live
    return max(1, live)


def lease(
    connection: sa.Connection, caller: Caller, asks: Sequence[LeaseAsk], *, now: datetime
) -> list[LeaseRow]:
    """Lease from every limit, or from none: then only those that refuse are among the rows.

    No rows: the process's leases do not stand; `renew` says why.
    """
    rows = query(
        connection,
        "SELECT * FROM lease_limits(:instance, :turn, :limits, CAST(:leases AS bigint[]), "
        "CAST(:have AS numeric[]), CAST(:least AS numeric[]), :blocks, CAST(:wanted AS numeric[]), "
        "CAST(:starts AS timestamptz[]), CAST(:ends AS timestamptz[]), :until, :now)",
        instance=caller.instance,
        turn=caller.turn,
        limits=[ask.limit_id for ask in asks],
        leases=[ask.lease_id for ask in asks],
        have=[_stored(ask.have, ask.unit) for ask in asks],
        least=[_stored(ask.least, ask.unit) for ask in asks],
        blocks=[ask.blocks for ask in asks],
        wanted=[_stored(ask.wanted, ask.unit) for ask in asks],
        starts=[None if ask.window is None else from_microseconds(ask.window[0]) for ask in asks],
        ends=[None if ask.window is None else from_microseconds(ask.window[1]) for ask in asks],
        until=caller.until,
        now=now,
    )
    units = {ask.limit_id: ask.unit for ask in asks}
    ends = _credit_ends(
        connection,
        [ask.limit_id for ask in asks if ask.unit is Unit.MONEY and ask.window is None],
        now=now,
    )
    return [
        LeaseRow(
            limit_id=row.limit_id,
            lease_id=row.lease_id,
            granted=0 if row.lease_id is None else _counted(row.granted, units[row.limit_id]),
            used=_counted(row.used, units[row.limit_id]),
            capacity=_counted(row.capacity, units[row.limit_id]),
            elsewhere=_counted(row.elsewhere, units[row.limit_id]),
            ends_us=ends.get(row.limit_id),
        )
        for row in rows
    ]


def _credit_ends(
    connection: sa.Connection, limit_ids: Sequence[int], *, now: datetime
) -> dict[int, int]:
    """When the next grant that backs holds expires, in µs since 1970 UTC; of limits that are no
    credit, and where none expires, nothing."""
    if not limit_ids:
        return {}
    rows = query(
        connection,
        "SELECT l.id, min(g.expires_at) AS ends FROM spend_limit l "
        "JOIN credit_balance b ON b.tenant_id = l.tenant_id AND b.remaining > 0 "
        "JOIN credit_grant g ON g.id = b.grant_id AND g.currency = l.currency "
        "WHERE l.id = ANY(:limits) AND l.capacity IS NULL AND g.starts_at <= :now "
        "AND g.expires_at > :now AND num_nonnulls(g.meters, g.models, g.plans) = 0 GROUP BY l.id",
        limits=list(limit_ids),
        now=now,
    )
    return {row.id: microseconds(row.ends) for row in rows}


def give_back(
    connection: sa.Connection,
    caller: Caller,
    keep: Mapping[int, tuple[Unit, int]],
    *,
    now: datetime,
) -> bool:
    """Reduce leases, by their ids, to what is kept of them; what was drawn stays in any case."""
    return only(
        connection,
        "SELECT return_leases(:instance, :turn, :leases, CAST(:keep AS numeric[]), :until, :now) "
        "AS returned",
        instance=caller.instance,
        turn=caller.turn,
        leases=list(keep),
        keep=[_stored(amount, unit) for unit, amount in keep.values()],
        until=caller.until,
        now=now,
    ).returned


def recall(connection: sa.Connection, limit_id: int, *, asker: str) -> None:
    """Have every process give back what it has leased of a limit and does not use, at commit."""
    query(
        connection,
        "SELECT pg_notify('steelyard_recall', :asker || ' ' || :limit)",
        asker=asker,
        limit=str(limit_id),
    )


CHANGED = "*"
"""In the place of an asker: a limit is another one than it was."""


def tell_changed(connection: sa.Connection, limit_id: int) -> None:
    """Have every process ask anew about a limit, at commit: what it has leased and does not use
    may be more than there is now, and what was refused may be there."""
    recall(connection, limit_id, asker=CHANGED)


def tell_credit_changed(connection: sa.Connection, *, tenant_id: int, currency: str) -> None:
    """As `tell_changed`, of a tenant's credit."""
    query(
        connection,
        "SELECT pg_notify('steelyard_recall', :asker || ' ' || id) FROM spend_limit "
        "WHERE tenant_id = :tenant AND currency = :currency AND capacity IS NULL",
        asker=CHANGED,
        tenant=tenant_id,
        currency=currency,
    )


def draw(connection: sa.Connection, amounts: Mapping[int, int], *, now: datetime) -> None:
    """Count as spent what events drew, by lease."""
    query(
        connection,
        "SELECT draw_leases(:leases, CAST(:amounts AS numeric[]), :now)",
        leases=list(amounts),
        amounts=[Decimal(amount) for amount in amounts.values()],
        now=now,
    )


def draw_on_limits(connection: sa.Connection, amounts: Mapping[int, int], *, now: datetime) -> None:
    """Count as spent what was drawn without a lease, by limit, in the window that holds `now`.

    Nothing of it counts where that window has passed.
    """
    with acting_as(connection, Role.OPERATOR):
        rows = query(
            connection,
            f"{_LIMITS} WHERE l.id = ANY (:ids) ORDER BY l.id",
            ids=list(amounts),
        )
    windows = [_limit(row).window_at(microseconds(now)) for row in rows]
    query(
        connection,
        "SELECT draw_limits(:limits, CAST(:amounts AS numeric[]), "
        "CAST(:starts AS timestamptz[]), CAST(:ends AS timestamptz[]), :now)",
        limits=[row.id for row in rows],
        amounts=[Decimal(amounts[row.id]) for row in rows],
        starts=[None if window is None else from_microseconds(window[0]) for window in windows],
        ends=[None if window is None else from_microseconds(window[1]) for window in windows],
        now=now,
    )


def close(connection: sa.Connection, instance: str) -> None:
    """End the leases of a process whose journal is drained: what it did not draw is free."""
    query(connection, "SELECT close_leases(:instance)", instance=instance)


def sweep(connection: sa.Connection, *, now: datetime) -> list[tuple[str, int, Decimal]]:
    """End the leases of processes past their end: (instance, limit, what was freed).

    What their journals still hold comes on top of it: by so much a limit may be exceeded.
    """
    rows = query(connection, "SELECT instance, limit_id, freed FROM sweep_leases(:now)", now=now)
    return [(row.instance, row.limit_id, row.freed) for row in rows]


def _stored(amount: int, unit: Unit) -> Decimal:
    return EXACT.scaleb(Decimal(amount), -_PICO_PLACES if unit is Unit.MONEY else 0)


def _counted(amount: Decimal, unit: Unit) -> int:
    return int(EXACT.scaleb(amount, _PICO_PLACES)) if unit is Unit.MONEY else int(amount)
