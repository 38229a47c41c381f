"""Proofs from the seal, and the bundle with which a tenant verifies a month without us.

The documents here are JSON: hashes and signatures hexadecimal, records and signed texts exactly
the bytes that were hashed or signed. `billing/verifier.py` reads them, and shares no code with us.
"""

from __future__ import annotations

from typing import Any, TypeAlias
from uuid import UUID

import sqlalchemy as sa

from billing.errors import InvalidInput, NotFound
from billing.ledger.tree import consistency_proof, inclusion_proof, leaf_hash, peaks
from billing.metering.event_id import microseconds
from billing.money import plain
from billing.operations.seal.verify import record_of, text_of
from billing.period import Period
from billing.store.database import query
from billing.store.seal import folds as store
from billing.store.seal.folds import HeadRow
from billing.store.seal.hashes import StoredTree, TreeKind, split_hashes, tree_of
from billing.store.seal.records import rolled_up, usage_records
from billing.tenancy.tenant import Tenant

Document: TypeAlias = dict[str, Any]

BUNDLE_LEAVES_MAX = 200_000
"""A bundle holds the whole records; a longer month is verified in parts, from kept heads."""


def signed_head(connection: sa.Connection) -> Document:
    """The newest signed head of the operator's tree.

    Raises:
        NotFound: nothing was sealed yet.
    """
    fold = store.newest_fold(connection)
    if fold is None:
        raise NotFound("nothing was sealed yet", remedy="ask again in a minute")
    (public_key,) = [key.public_key for key in store.keys(connection) if key.id == fold.key_id]
    return {
        "size": fold.size,
        "root": fold.root.hex(),
        "folded_at": fold.folded_at,
        "key_id": fold.key_id,
        "public_key": public_key.hex(),
        "text": text_of(fold),
        "signature": fold.signature.hex(),
    }


def published_keys(connection: sa.Connection) -> list[Document]:
    """Every key that heads were signed with."""
    return [
        {"id": key.id, "public_key": key.public_key.hex(), "valid_from": key.valid_from}
        for key in store.keys(connection)
    ]


def tenant_head(connection: sa.Connection, tenant: Tenant) -> Document:
    """The newest head of a tenant's usage, proved to be under the signed head.

    Raises:
        NotFound: nothing of the tenant's was sealed yet.
    """
    return _proved_head(connection, _newest(connection, tenant))


def prove_event(connection: sa.Connection, tenant: Tenant, event_id: UUID) -> Document:
    """The record of an event, its leaf and the proof that the tenant's head includes it.

    Raises:
        NotFound: no such event, or it is not sealed yet.
    """
    head = _newest(connection, tenant)
    found = query(
        connection,
        "SELECT h.size, h.added, f.epoch_after, f.epoch_to FROM usage_event e "
        "JOIN seal_fold f ON f.epoch_after < e.epoch AND f.epoch_to >= e.epoch "
        "JOIN seal_head h ON h.fold_size = f.size AND h.tree_id = :tree "
        "WHERE e.id = :id AND e.tenant_id = :tenant",
        tree=head.tree_id,
        id=event_id,
        tenant=tenant.id,
    )
    if not found:
        raise NotFound(
            "no sealed event has this id", field="id", remedy="a new one is sealed in a minute"
        )
    (row,) = found
    records = usage_records(connection, tenant_id=tenant.id, after=row.epoch_after, to=row.epoch_to)
    (at,) = [at for at, record in enumerate(records) if record.id == event_id]
    tree, index = StoredTree(connection, head.tree_id), row.size - row.added + at
    return {
        "record": records[at].record,
        "leaf": index,
        "proof": _hex(inclusion_proof(tree.node, index, head.size)),
        "head": _proved_head(connection, head),
    }


def prove_consistency(connection: sa.Connection, tenant: Tenant, first: int) -> Document:
    """That the tenant's newest head only appended to the one of `first` leaves.

    Raises:
        InvalidInput: the log never had so many leaves.
        NotFound: nothing of the tenant's was sealed yet.
    """
    head = _newest(connection, tenant)
    _require_within(first, head)
    tree = StoredTree(connection, head.tree_id)
    return {
        "first": first,
        "proof": _hex(consistency_proof(tree.node, first, head.size)),
        "head": _proved_head(connection, head),
    }


def make_bundle(
    connection: sa.Connection, tenant: Tenant, period: Period, *, kept_size: int | None = None
) -> Document:
    """What a tenant needs to verify a month: every record since the head before it, and proofs.

    Late usage of the month is sealed after its end, so the bundle reaches up to the newest head.

    Args:
        kept_size: size of a head that the tenant kept, if the proof has to reach back to it.

    Raises:
        InvalidInput: the month is too long for one file, or `kept_size` is too large.
        NotFound: nothing of the tenant's was sealed yet.
    """
    head = _newest(connection, tenant)
    earlier = store.newest_head(connection, head.tree_id, until=period.start)
    first, after = (earlier.size, earlier.epoch_to) if earlier else (0, 0)
    if head.size - first > BUNDLE_LEAVES_MAX:
        raise InvalidInput(
            f"the month has more than {BUNDLE_LEAVES_MAX} sealed events",
            field="month",
            remedy="prove single events, or consistency with a head that was kept",
        )
    tree = StoredTree(connection, head.tree_id)
    rows = usage_records(connection, tenant_id=tenant.id, after=after, to=head.epoch_to)
    by_leaf = {leaf_hash(row.record.encode()): row.record for row in rows}
    leaves = split_hashes(tree.hashes(0, first, head.size - first))
    kept = None
    if kept_size is not None:
        _require_within(kept_size, head)
        kept = {
            "size": kept_size,
            "proof": _hex(consistency_proof(tree.node, kept_size, head.size)),
        }
    return {
        "format": "steelyard-bundle v1",
        "tenant": tenant.slug,
        "tree": head.name,
        "start_us": microseconds(period.start),
        "end_us": microseconds(period.end),
        "first": first,
        "left": _hex(peaks(tree.node, first)),
        # A leaf whose record is gone or changed stands alone: the verifier names it.
        "entries": [
            {"record": by_leaf[leaf]} if leaf in by_leaf else {"leaf": leaf.hex()}
            for leaf in leaves
        ],
        "totals": {
            meter: plain(quantity)
            for meter, quantity in rolled_up(connection, tenant_id=tenant.id, period=period).items()
        },
        "head": _proved_head(connection, head),
        "consistency": kept,
    }


def _proved_head(connection: sa.Connection, head: HeadRow) -> Document:
    signed = signed_head(connection)
    operator = tree_of(connection, TreeKind.OPERATOR, None)
    assert operator is not None
    node = StoredTree(connection, operator).node
    return {
        "record": record_of(head),
        "size": head.size,
        "root": head.root.hex(),
        "operator_leaf": head.operator_leaf,
        "proof": _hex(inclusion_proof(node, head.operator_leaf, signed["size"])),
        "signed": signed,
    }


def _newest(connection: sa.Connection, tenant: Tenant) -> HeadRow:
    tree_id = tree_of(connection, TreeKind.USAGE, tenant.id)
    head = None if tree_id is None else store.newest_head(connection, tree_id)
    if head is None:
        raise NotFound(
            "nothing of this tenant was sealed yet", field="tenant", remedy="ask again in a minute"
        )
    return head


def _require_within(size: int, head: HeadRow) -> None:
    if not 0 <= size <= head.size:
        raise InvalidInput(
            f"the log has {head.size} leaves", field="from", remedy="name the size of a kept head"
        )


def _hex(hashes: list[bytes] | tuple[bytes, ...]) -> list[str]:
    return [each.hex() for each in hashes]
