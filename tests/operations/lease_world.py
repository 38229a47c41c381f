"""Processes that lease, on a real database, without the proxy around them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal

import sqlalchemy as sa

from billing.admission.lease_book import Held, LeaseBook, Wanted
from billing.admission.limit import Limit, Unit, Window
from billing.metering.event_id import microseconds
from billing.operations.holds.limits import set_limit
from billing.store import leases
from billing.store.database import Database, Role, acting_as, only, query
from billing.store.leases import Caller, LeaseAsk, LeaseRow, Renewal
from billing.tenancy.tenant import Tenant

LEASE_MS = 300_000


def make_limit(
    database: Database,
    tenant: Tenant,
    name: str,
    capacity: str,
    *,
    now: datetime,
    unit: Unit = Unit.MONEY,
    span: Window = Window.NONE,
    hard: bool = True,
    shadow: bool = False,
    model: str | None = None,
) -> Limit:
    """A limit of a tenant, as the proxy sees it."""
    with database.transaction(Role.OPERATOR) as connection:
        made = set_limit(
            connection,
            tenant=tenant,
            name=name,
            unit=unit,
            span=span,
            capacity=Decimal(capacity),
            currency_code="USD" if unit is Unit.MONEY else None,
            hard=hard,
            shadow=shadow,
            model=model,
            now=now,
        )
        (found,) = (
            limit for limit in leases.limits_of(connection, now=now)[tenant.id] if limit.id == made
        )
    return found


def standing(database: Database, limit: Limit, now: datetime) -> tuple[Decimal, Decimal, Decimal]:
    """(spent, leased, available) of a limit."""
    with database.transaction(Role.OPERATOR) as connection:
        row = only(
            connection,
            "SELECT spent, leased, limit_available(id, :now) AS available FROM spend_limit "
            "WHERE id = :id",
            id=limit.id,
            now=now,
        )
    return row.spent, row.leased, row.available


def require_leases_tie(database: Database) -> None:
    """What a limit says is leased is what its open leases have left; nothing is exceeded."""
    with database.transaction(Role.OPERATOR) as connection:
        for row in query(
            connection,
            "SELECT s.id, s.leased, s.spent, s.capacity, coalesce((SELECT "
            "sum(greatest(l.granted - l.drawn, 0)) FROM lease l "
            "WHERE l.limit_id = s.id AND NOT l.closed), 0) AS open FROM spend_limit s",
        ):
            assert row.leased == row.open, row.id


@dataclass(slots=True, kw_only=True)
class LeasingProcess:
    """A process by its calls to the database."""

    database: Database
    instance: str
    book: LeaseBook = field(default_factory=LeaseBook)
    turn: int = 0

    def ask(
        self,
        wanted: Sequence[Wanted],
        now: datetime,
        *,
        chunk: int = 0,
        lose_answer: bool = False,
        turn: int | None = None,
    ) -> list[LeaseRow]:
        """Lease what requests want, and up to `chunk` times as much beside it."""
        self.turn += 1
        rows = self.database.retrying(
            Role.OPERATOR,
            lambda connection: leases.lease(
                connection,
                self._caller(now, turn),
                [self._ask(each, now, chunk) for each in wanted],
                now=now,
            ),
        )
        if not lose_answer:
            for each in wanted:
                window = each.limit.window_at(microseconds(now))
                for row in rows:
                    if row.lease_id is not None and row.limit_id == each.limit.id:
                        self.book.grant(
                            each.limit,
                            lease_id=row.lease_id,
                            granted=row.granted,
                            window_end_us=None if window is None else window[1],
                            left=row.capacity - row.used,
                            now_us=microseconds(now),
                        )
        return rows

    def admit(self, wanted: Sequence[Wanted], now: datetime, *, chunk: int = 0) -> Held | None:
        """A request: from the leases, else from the database."""
        at_us = microseconds(now)
        held = self.book.take(wanted, at_us)
        if held is None:
            self.ask(wanted, now, chunk=chunk)
            held = self.book.take(wanted, at_us)
        return held

    def give_back(self, limit: Limit, now: datetime, *, lost: bool = False) -> None:
        """Return what is free."""
        smaller = self.book.give_back([limit.id])
        self.turn += 1
        if smaller and not lost:
            keep = {lease.id: (lease.limit.unit, lease.drawn + lease.held) for lease in smaller}
            self.database.retrying(
                Role.OPERATOR,
                lambda connection: leases.give_back(connection, self._caller(now), keep, now=now),
            )

    def renew(self, now: datetime, *, anew: bool = False) -> Renewal:
        self.turn += 1
        with self.database.transaction(Role.OPERATOR) as connection:
            return leases.renew(connection, self._caller(now), anew=anew, now=now)

    def _ask(self, each: Wanted, now: datetime, chunk: int) -> LeaseAsk:
        lease = self.book.leases.get(each.limit.id)
        free = 0 if lease is None else max(0, lease.free)
        return LeaseAsk(
            limit_id=each.limit.id,
            unit=each.limit.unit,
            lease_id=None if lease is None else lease.id,
            have=0 if lease is None else lease.granted,
            least=max(0, each.amount - free),
            blocks=each.blocks,
            wanted=each.amount * chunk,
            window=each.limit.window_at(microseconds(now)),
        )

    def _caller(self, now: datetime, turn: int | None = None) -> Caller:
        return Caller(
            instance=self.instance,
            turn=self.turn if turn is None else turn,
            until=now + timedelta(milliseconds=LEASE_MS),
        )


def draw(database: Database, amounts: dict[int, int], now: datetime) -> None:
    """As the writer does with the events of a page."""
    with database.transaction(Role.INGEST) as connection:
        leases.draw(connection, amounts, now=now)


def lease_credit(connection: sa.Connection, tenant: Tenant, *, now: datetime) -> None:
    """A process leases a little of a tenant's credit and draws some of it."""
    credit = only(
        connection,
        "SELECT id FROM spend_limit WHERE tenant_id = :tenant AND capacity IS NULL",
        tenant=tenant.id,
    )
    ask = LeaseAsk(
        limit_id=credit.id, unit=Unit.MONEY, lease_id=None, have=0, least=2, wanted=2, window=None
    )
    caller = Caller(instance=f"proxy-of-{tenant.slug}", turn=1, until=now)
    (row,) = leases.lease(connection, caller, [ask], now=now)
    assert row.lease_id is not None
    with acting_as(connection, Role.INGEST):
        leases.draw(connection, {row.lease_id: 1}, now=now)
