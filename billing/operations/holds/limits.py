"""Write down what a limit counts, and for whom."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

import sqlalchemy as sa

from billing.admission.limit import Unit, Window
from billing.errors import NotFound
from billing.store import holds as store
from billing.store import leases, tenancy
from billing.tenancy.tenant import Tenant


def set_limit(
    connection: sa.Connection,
    *,
    tenant: Tenant,
    name: str,
    unit: Unit,
    span: Window,
    capacity: Decimal,
    currency_code: str | None,
    project: str | None = None,
    key: str | None = None,
    model: str | None = None,
    hard: bool = True,
    shadow: bool = False,
    now: datetime,
) -> int:
    """Make a limit, or change capacity and kind of the one of this name; its row id.

    What was used in its window stays used, and one that had ended counts again.

    Args:
        capacity: of one window; money in major units, anything else a whole number.
        currency_code: None where it does not count money.
        project, key, model: slug, public part and name of whose requests it counts; None: of all.

    Raises:
        NotFound: the tenant has no such project or key, or there is no such model.
    """
    key_ids = {
        row.public: row.id
        for row in (tenancy.keys(connection, tenant_id=tenant.id) if key is not None else [])
        if row.revoked_at is None and (row.expires_at is None or row.expires_at > now)
    }
    limit_id = store.define_limit(
        connection,
        tenant_id=tenant.id,
        name=name,
        unit=unit,
        span=span,
        currency=currency_code,
        capacity=capacity,
        project_id=_found(project, tenancy.projects(connection, tenant.id), "project"),
        key_id=_found(key, key_ids, "key"),
        model_id=_found(model, store.model_ids(connection, model), "model"),
        hard=hard,
        shadow=shadow,
    )
    leases.tell_changed(connection, limit_id)
    return limit_id


def _found(name: str | None, ids: dict[str, int], field: str) -> int | None:
    if name is None:
        return None
    if name not in ids:
        raise NotFound(f"no such {field}", field=field, remedy="check its spelling")
    return ids[name]
