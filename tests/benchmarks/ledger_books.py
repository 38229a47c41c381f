"""How many postings the money ledger takes: one transaction per commit, and many per commit.

A posting is numbered and balanced by the database's triggers, so postings on one account wait for
each other; pairs are posted for tenants of their own, as the rater does.
"""

from __future__ import annotations

import threading
import time
from decimal import Decimal
from itertools import count

from billing.ledger.account import AccountCode
from billing.ledger.posting import Transaction
from billing.ledger.template import Books
from billing.operations.minting import mint_id
from billing.store import ledger
from billing.store.database import Role
from billing.store.tenancy import legal_entity
from billing.tenancy.tenant import Tenant
from tests.world import World

TRANSACTIONS = 600
"""Of one pair of postings each, per poster."""
PER_COMMIT = 100
POSTERS = 2


def _post(world: World, books: Books, numbers: range, *, per_commit: int) -> None:
    for first in range(numbers.start, numbers.stop, per_commit):
        with world.database.transaction(Role.OPERATOR) as connection:
            for number in range(first, first + per_commit):
                transaction = Transaction(
                    id=mint_id(world.now),
                    legal_entity_id=books.legal_entity_id,
                    tenant_id=books.tenant_id,
                    kind="usage_accrued",
                    idempotency_key=f"bench/{books.tenant_id}/{number}",
                    effective_at=world.now,
                    postings=books.moved(
                        Decimal(number + 1).scaleb(-6),
                        debit=AccountCode.UNBILLED,
                        credit=AccountCode.REVENUE,
                    ),
                )
                ledger.post(connection, transaction, now=world.now)


_numbers = count()


def postings_per_second(world: World, tenants: list[Tenant], *, per_commit: int) -> float:
    """Postings/s of `POSTERS` threads, each posting pairs for a tenant of its own."""
    with world.database.transaction(Role.OPERATOR) as connection:
        entity = legal_entity(connection, tenants[0].legal_entity)
    assert entity is not None
    start = next(_numbers) * TRANSACTIONS
    numbers = range(start, start + TRANSACTIONS)
    threads = [
        threading.Thread(
            target=_post,
            args=(
                world,
                Books(legal_entity_id=entity.id, tenant_id=tenant.id, currency="USD"),
                numbers,
            ),
            kwargs={"per_commit": per_commit},
        )
        for tenant in tenants[:POSTERS]
    ]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(threads) * TRANSACTIONS * 2 / (time.perf_counter() - begun)
