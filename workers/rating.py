"""The worker's part in rating: what changed is rated and posted, page by page.

How often is a setting; what is due is decided in `accrue_due.py`. A tenant whose usage cannot be
rated stops nobody else: it is logged, counted, and tried again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial

import structlog
from sqlalchemy.exc import OperationalError

from billing.errors import SteelyardError
from billing.operations.invoicing.issue_drafts import EnqueueMirror
from billing.operations.rating.accrue_due import (
    AccruedPage,
    accrue_due,
    due_tenants,
    note_changes,
    postpone,
)
from billing.store.database import Database, Role

log = structlog.get_logger("steelyard.rating")

TENANTS_AT_ONCE = 100
"""Tenants of one transaction: they are locked for invoicing until it ends."""

BUG = "internal_error"


@dataclass(frozen=True, slots=True, kw_only=True)
class RatingTurn:
    """What one turn did.

    Attributes:
        rated: billing periods that were looked at.
        posted: those in which something was new.
        failed: tenants that are tried again later.
    """

    rated: int = 0
    posted: int = 0
    failed: int = 0

    def with_page(self, page: AccruedPage) -> RatingTurn:
        """This and a page."""
        return RatingTurn(
            rated=self.rated + len(page.periods),
            posted=self.posted + sum(each.posted for each in page.periods),
            failed=self.failed,
        )

    def with_failure(self) -> RatingTurn:
        """This and a tenant that failed."""
        return RatingTurn(rated=self.rated, posted=self.posted, failed=self.failed + 1)


def every(seconds: int) -> str:
    """A schedule of turns, in cron's words with seconds last.

    Args:
        seconds: divides a minute, or is whole minutes that divide an hour.
    """
    return f"* * * * * */{seconds}" if seconds < 60 else f"*/{seconds // 60} * * * *"


def accrue_changes(
    database: Database, *, enqueue_mirror: EnqueueMirror | None = None, now: datetime
) -> RatingTurn:
    """Bring the accruals of every tenant with changes up to date, and the credit that pays them.

    Args:
        enqueue_mirror: how Stripe is told of invoices on the way; None where it is not configured.
    """
    accrue = partial(_accrue, database, enqueue_mirror=enqueue_mirror, now=now)
    database.retrying(Role.OPERATOR, partial(note_changes, now=now))
    turn = RatingTurn()
    while tenant_ids := _due(database, now=now):
        try:
            turn = turn.with_page(accrue(tenant_ids))
        except OperationalError:
            raise  # the database is away, and so for everybody
        except Exception:  # noqa: BLE001  # whose it was shows one by one
            turn = _one_by_one(database, tenant_ids, turn, accrue, now=now)
    return turn


def _one_by_one(
    database: Database,
    tenant_ids: list[int],
    turn: RatingTurn,
    accrue: Callable[[list[int]], AccruedPage],
    *,
    now: datetime,
) -> RatingTurn:
    for tenant_id in tenant_ids:
        try:
            turn = turn.with_page(accrue([tenant_id]))
        except OperationalError:
            raise
        except SteelyardError as error:
            turn = turn.with_failure()
            attempts = _postpone(database, tenant_id, error.code, now=now)
            log.error(  # noqa: TRY400  # expected of data, not a bug: no traceback
                "usage cannot be accrued",
                tenant_id=tenant_id,
                code=error.code,
                field=error.field,
                attempts=attempts,
            )
        except Exception:
            # A bug that one tenant meets must not keep the others' bills from being right.
            turn = turn.with_failure()
            attempts = _postpone(database, tenant_id, BUG, now=now)
            log.exception("usage cannot be accrued", tenant_id=tenant_id, attempts=attempts)
    return turn


def _due(database: Database, *, now: datetime) -> list[int]:
    with database.transaction(Role.OPERATOR) as connection:
        return due_tenants(connection, now=now, most=TENANTS_AT_ONCE)


def _accrue(
    database: Database,
    tenant_ids: list[int],
    *,
    enqueue_mirror: EnqueueMirror | None,
    now: datetime,
) -> AccruedPage:
    page = database.retrying(
        Role.OPERATOR,
        partial(accrue_due, tenant_ids=tenant_ids, enqueue_mirror=enqueue_mirror, now=now),
    )
    for slug in page.unrated:
        log.warning("usage has no price", tenant=slug, remedy="steelyard usage unrated")
    for each in page.fired:
        log.info(
            "a spend threshold was reached",
            tenant=each.tenant,
            threshold=each.alert.name,
            period_start=str(each.alert.period.start),
        )
    for number in page.invoiced:
        log.info("invoiced a running billing period so far", number=number)
    for slug, code in page.refused:
        log.error("a running billing period cannot be invoiced", tenant=slug, code=code)
    return page


def _postpone(database: Database, tenant_id: int, code: str, *, now: datetime) -> int:
    return database.retrying(
        Role.OPERATOR, partial(postpone, tenant_id=tenant_id, problem=code, now=now)
    )
