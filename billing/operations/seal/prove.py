"""Proofs from the seal: signed heads, inclusion of an event, consistency with a kept head.

The documents here are JSON: hashes and signatures hexadecimal, records and signed texts exactly
the bytes that were hashed or signed. `billing/verifier.py` reads them, and shares no code with us.
"""

from __future__ import annotations

from typing import Any, TypeAlias
from uuid import UUID

import sqlalchemy as sa

from billing.errors import InvalidInput, NotFound
from billing.ledger.tree import consistency_proof, inclusion_proof
from billing.operations.seal.verify import record_of, text_of
from billing.store.database import query
from billing.store.seal import folds as store
from billing.store.seal.folds import HeadRow
from billing.store.seal.hashes import StoredTree, TreeKind, tree_of
from billing.store.seal.records import usage_records
from billing.tenancy.tenant import Tenant

Document: TypeAlias = dict[str, Any]


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
    return proved_head(connection, newest_sealed(connection, tenant))


def prove_event(connection: sa.Connection, tenant: Tenant, event_id: UUID) -> Document:
    """The record of an event, its leaf and the proof that the tenant's head includes it.

    Raises:
        NotFound: no such event, or it is not sealed yet.
    """
    head = newest_sealed(connection, tenant)
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
        "proof": hexadecimal(inclusion_proof(tree.node, index, head.size)),
        "head": proved_head(connection, head),
    }


def prove_consistency(connection: sa.Connection, tenant: Tenant, first: int) -> Document:
    """That the tenant's newest head only appended to the one of `first` leaves.

    Raises:
        InvalidInput: the log never had so many leaves.
        NotFound: nothing of the tenant's was sealed yet.
    """
    head = newest_sealed(connection, tenant)
    require_within(first, head)
    tree = StoredTree(connection, head.tree_id)
    return {
        "first": first,
        "proof": hexadecimal(consistency_proof(tree.node, first, head.size)),
        "head": proved_head(connection, head),
    }


def proved_head(connection: sa.Connection, head: HeadRow) -> Document:
    """A tenant's head and the proof that the newest signed head includes it."""
    signed = signed_head(connection)
    operator = tree_of(connection, TreeKind.OPERATOR, None)
    assert operator is not None
    node = StoredTree(connection, operator).node
    return {
        "record": record_of(head),
        "size": head.size,
        "root": head.root.hex(),
        "operator_leaf": head.operator_leaf,
        "proof": hexadecimal(inclusion_proof(node, head.operator_leaf, signed["size"])),
        "signed": signed,
    }


def newest_sealed(connection: sa.Connection, tenant: Tenant) -> HeadRow:
    """The newest head of a tenant's usage.

    Raises:
        NotFound: nothing of the tenant's was sealed yet.
    """
    tree_id = tree_of(connection, TreeKind.USAGE, tenant.id)
    head = None if tree_id is None else store.newest_head(connection, tree_id)
    if head is None:
        raise NotFound(
            "nothing of this tenant was sealed yet", field="tenant", remedy="ask again in a minute"
        )
    return head


def require_within(size: int, head: HeadRow) -> None:
    """Check that a log had so many leaves at some time.

    Raises:
        InvalidInput: it never had.
    """
    if not 0 <= size <= head.size:
        raise InvalidInput(
            f"the log has {head.size} leaves", field="from", remedy="name the size of a kept head"
        )


def hexadecimal(hashes: list[bytes] | tuple[bytes, ...]) -> list[str]:
    """Hashes as documents have them."""
    return [each.hex() for each in hashes]
