"""A second pair of eyes on prices: a plan version is approved by another key than applied it.

A version that was applied by a command has no key; whoever then approves it with one is another.
Whether a contract needs an approved version is a setting of the deployment.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from billing.errors import Conflict, Forbidden
from billing.operations.catalog.plans import require_plan_row
from billing.operations.tenancy.keys import Caller
from billing.store import plan_approvals as store
from billing.store.catalog import PlanVersionRow
from billing.tenancy.api_key import Role

APPLIED = "applied"
APPROVED = "approved"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanApproval:
    """A plan version that was approved; `key_id` names the key that did it first."""

    slug: str
    version: int
    key_id: int
    approved_at: datetime


def record_application(
    connection: sa.Connection, *, slug: str, version: int | None, caller: Caller, now: datetime
) -> None:
    """Note whose key applied a new plan version."""
    row = require_plan_row(connection, slug, version)
    store.insert_act(connection, plan_version_id=row.id, key_id=caller.key_id, act=APPLIED, now=now)


def approve_plan(
    connection: sa.Connection, *, slug: str, version: int, caller: Caller, now: datetime
) -> PlanApproval:
    """Approve a plan version; a second approval returns the first.

    Raises:
        NotFound: no such plan or version.
        Forbidden: the key is not an operator's.
        Conflict: the same key applied it.
    """
    if caller.role is not Role.OPERATOR:
        raise Forbidden(
            f"a key of role {caller.role} cannot approve prices",
            remedy="use a key of role operator",
        )
    row = require_plan_row(connection, slug, version)
    acts = store.acts_on(connection, row.id)
    if any(act.act == APPLIED and act.key_id == caller.key_id for act in acts):
        raise Conflict(
            "the key that applied this version cannot approve it",
            field="plan",
            remedy="have somebody else approve it with a key of their own",
        )
    approved = next((act for act in acts if act.act == APPROVED), None)
    if approved is None:
        store.insert_act(
            connection, plan_version_id=row.id, key_id=caller.key_id, act=APPROVED, now=now
        )
    return PlanApproval(
        slug=row.slug,
        version=row.version,
        key_id=caller.key_id if approved is None else approved.key_id,
        approved_at=now if approved is None else approved.at,
    )


def require_approved(connection: sa.Connection, row: PlanVersionRow) -> None:
    """Refuse a plan version that nobody approved.

    Raises:
        Conflict: it was not approved.
    """
    if all(act.act != APPROVED for act in store.acts_on(connection, row.id)):
        name = f"{row.slug}@{row.version}"
        raise Conflict(
            f"nobody approved {name}",
            field="plan",
            remedy=f"have it approved first: steelyard plan approve {name}",
        )
