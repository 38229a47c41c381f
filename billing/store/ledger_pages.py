"""Post many transactions at once: a page of them costs a few statements, not a dozen for each.

Decides nothing about amounts: these are the postings that `ledger.post` would write one after the
other, checked by the database as a set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from billing.ledger.account import Account
from billing.ledger.posting import Transaction, stated, stated_digest
from billing.store.arrays import plain_array, text_array
from billing.store.database import only, run
from billing.store.ledger import closed_until, moved_to_open, require_same

# One look into the index for each account, whatever the planner believes of their number: a join
# on the columns that tenants have in common would compare every account with every other. Asked
# apart for the operator's own, since IS NOT DISTINCT FROM is not looked up in the index.
_WANTED = """
  FROM unnest(CAST(:entities AS integer[]), CAST(:codes AS text[]), CAST(:tenants AS integer[]),
              CAST(:currencies AS text[])) WITH ORDINALITY AS w (entity, code, tenant, currency, n)
 CROSS JOIN LATERAL (SELECT CASE WHEN w.tenant IS NULL THEN
           (SELECT id FROM account WHERE legal_entity_id = w.entity AND code = w.code
               AND tenant_id IS NULL AND currency = CAST(w.currency AS char(3)))
       ELSE
           (SELECT id FROM account WHERE legal_entity_id = w.entity AND code = w.code
               AND tenant_id = w.tenant AND currency = CAST(w.currency AS char(3)))
       END AS id) AS found
"""
_FIND = f"SELECT array_agg(found.id ORDER BY w.n) AS ids {_WANTED}"
_MAKE = f"""
INSERT INTO account (legal_entity_id, code, tenant_id, currency)
SELECT w.entity, w.code, w.tenant, w.currency {_WANTED} WHERE found.id IS NULL
ON CONFLICT DO NOTHING
"""
_POST = """
SELECT post_together(
    :posted, CAST(:ids AS uuid[]), CAST(:entities AS integer[]), CAST(:tenants AS integer[]),
    CAST(:kinds AS text[]), CAST(:keys AS text[]), CAST(:referred AS text[]),
    CAST(:effectives AS timestamptz[]), CAST(:originals AS timestamptz[]),
    CAST(:counts AS integer[]), CAST(:hashes AS bytea[]), CAST(:accounts AS integer[]),
    CAST(:contracts AS integer[]), CAST(:starts AS timestamptz[]), CAST(:lines AS text[]),
    CAST(:headers AS integer[]), CAST(:ordinals AS integer[]), CAST(:on_accounts AS integer[]),
    CAST(:amounts AS numeric[]), CAST(:of_contracts AS integer[]), CAST(:of_starts AS integer[]),
    CAST(:of_lines AS integer[])) AS made
"""


@dataclass(slots=True)
class _Columns:
    """Postings of a page by column; what repeats is named once, by its position from 1."""

    headers: list[int] = field(default_factory=list[int])
    ordinals: list[int] = field(default_factory=list[int])
    on_accounts: list[int] = field(default_factory=list[int])
    amounts: list[str] = field(default_factory=list[str])
    of_contracts: list[int | None] = field(default_factory=list[int | None])
    of_starts: list[int | None] = field(default_factory=list[int | None])
    of_lines: list[int | None] = field(default_factory=list[int | None])
    contracts: dict[int, int] = field(default_factory=dict[int, int])
    starts: dict[datetime, int] = field(default_factory=dict[datetime, int])
    lines: dict[str, int] = field(default_factory=dict[str, int])

    def add(
        self, header: int, transaction: Transaction, places: Sequence[int], amounts: Sequence[str]
    ) -> None:
        """Append a transaction's postings, whose accounts have these positions."""
        postings = transaction.postings
        self.headers += [header] * len(postings)
        self.ordinals += range(len(postings))
        self.on_accounts += places
        self.amounts += amounts
        contracts, starts, lines = self.contracts, self.starts, self.lines
        for posting in postings:
            line = posting.line
            if line is None:
                for column in (self.of_contracts, self.of_starts, self.of_lines):
                    column.append(None)
                continue
            self.of_contracts.append(contracts.setdefault(line.contract_id, len(contracts) + 1))
            self.of_starts.append(starts.setdefault(line.period_start, len(starts) + 1))
            self.of_lines.append(lines.setdefault(line.line_key, len(lines) + 1))


def post_many(
    connection: sa.Connection, transactions: Sequence[Transaction], *, now: datetime
) -> frozenset[UUID]:
    """Post transactions as `ledger.post` does; those that were posted before change nothing (L3).

    Args:
        transactions: neither reversals nor exchanges.

    Returns:
        Ids of those that are new.

    Raises:
        IdempotencyConflict: a key was used for other postings; none is posted then.
    """
    assert all(each.reverses is None and each.fx_rate is None for each in transactions)
    if not transactions:
        return frozenset()
    closed = {
        entity: closed_until(connection, entity)
        for entity in sorted({each.legal_entity_id for each in transactions})
    }
    moved = [moved_to_open(each, closed[each.legal_entity_id]) for each in transactions]
    places: dict[Account, int] = {}
    placed = [_places(transaction, places) for transaction in moved]
    ids = _account_ids(connection, list(places))
    columns = _Columns()
    digests: list[bytes] = []
    for header, (transaction, on) in enumerate(zip(moved, placed, strict=True), start=1):
        amounts = [stated(posting.amount) for posting in transaction.postings]
        columns.add(header, transaction, on, amounts)
        digests.append(stated_digest([ids[at - 1] for at in on], amounts))
    made = frozenset(_posted(connection, moved, digests, ids, columns, now=now))
    for transaction, digest in zip(moved, digests, strict=True):
        if transaction.id not in made:
            require_same(connection, transaction, digest)
    return made


def _places(transaction: Transaction, places: dict[Account, int]) -> list[int]:
    """The positions of a transaction's accounts, by posting; new accounts get the next ones."""
    on: list[int] = []
    last, place = None, 0
    for posting in transaction.postings:
        # Lines follow each other on one account, which takes longer to look up than to compare.
        if posting.account is not last:
            last = posting.account
            place = places.setdefault(last, len(places) + 1)
        on.append(place)
    return on


def _posted(
    connection: sa.Connection,
    moved: Sequence[Transaction],
    digests: Sequence[bytes],
    accounts: Sequence[int],
    columns: _Columns,
    *,
    now: datetime,
) -> list[UUID]:
    return only(
        connection,
        _POST,
        posted=now,
        ids=plain_array(each.id for each in moved),
        entities=plain_array(each.legal_entity_id for each in moved),
        tenants=plain_array(each.tenant_id for each in moved),
        kinds=text_array(each.kind for each in moved),
        keys=text_array(each.idempotency_key for each in moved),
        referred=text_array(each.reference for each in moved),
        effectives=plain_array(each.effective_at for each in moved),
        originals=plain_array(each.originated_at for each in moved),
        counts=plain_array(len(each.postings) for each in moved),
        hashes=text_array(f"\\x{digest.hex()}" for digest in digests),
        accounts=plain_array(accounts),
        contracts=plain_array(columns.contracts),
        starts=plain_array(columns.starts),
        lines=text_array(columns.lines),
        headers=plain_array(columns.headers),
        ordinals=plain_array(columns.ordinals),
        on_accounts=plain_array(columns.on_accounts),
        amounts=plain_array(columns.amounts),
        of_contracts=plain_array(columns.of_contracts),
        of_starts=plain_array(columns.of_starts),
        of_lines=plain_array(columns.of_lines),
    ).made


def _account_ids(connection: sa.Connection, accounts: Sequence[Account]) -> list[int]:
    """Row ids in order; accounts on which nothing was posted yet are made."""
    wanted = {
        "entities": plain_array(each.legal_entity_id for each in accounts),
        "codes": plain_array(each.code.value for each in accounts),
        "tenants": plain_array(each.tenant_id for each in accounts),
        "currencies": text_array(each.currency for each in accounts),
    }
    found = only(connection, _FIND, **wanted).ids
    if None in found:
        run(connection, _MAKE, **wanted)
        found = only(connection, _FIND, **wanted).ids
    return found
