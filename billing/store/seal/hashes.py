"""Tables seal_tree and seal_hashes: the trees, and the hashes of every eighth level of each.

A run of hashes is written once and never changed. A level above the leaves holds full subtrees
only, so nothing that is stored ever becomes wrong when the tree grows.
"""

from __future__ import annotations

from enum import StrEnum

import sqlalchemy as sa

from billing.errors import LedgerError
from billing.ledger.tree import HASH_BYTES, full_subtree
from billing.store.database import first, only, query, run

LEVELS_APART = 8
BLOCK = 1 << LEVELS_APART
_READ_AT_ONCE = 4096 * BLOCK


class TreeKind(StrEnum):
    """What a tree is over."""

    USAGE = "usage"
    BOOKS = "books"
    OPERATOR = "operator"


class StoredTree:
    """One tree, read in blocks of 256 hashes that stay in memory for as long as this object."""

    def __init__(self, connection: sa.Connection, tree_id: int) -> None:
        self._connection = connection
        self.id = tree_id
        self._blocks: dict[tuple[int, int], list[bytes]] = {}

    def node(self, level: int, index: int) -> bytes:
        """The hash of a full subtree.

        Raises:
            LedgerError: a hash that the tree must have is not stored.
        """
        stored = level - level % LEVELS_APART
        wide = 1 << level - stored
        block, at = divmod(index * wide, BLOCK)
        known = self._blocks.get((stored, block))
        if known is None or at + wide > len(known):
            known = split_hashes(self.hashes(stored, block * BLOCK, BLOCK))
            self._blocks[stored, block] = known
        part = known[at : at + wide]
        if len(part) != wide:
            raise LedgerError(f"tree {self.id} lost hashes of level {stored}", field="seal_hashes")
        return full_subtree(part)

    def hashes(self, level: int, start: int, count: int) -> bytes:
        """Joined hashes of a stored level; fewer than `count` at the end of the tree."""
        rows = query(
            self._connection,
            # The driver sends a small number as a smallint, and two of them may add up to more.
            "SELECT first, substring(hashes "
            "FROM greatest(0, CAST(:start AS bigint) - first)::integer * 32 + 1 "
            "FOR least(length(hashes), (CAST(:end AS bigint) - first) * 32)::integer) AS part "
            "FROM seal_hashes WHERE tree_id = :tree AND level = :level AND first < :end "
            "AND first >= coalesce((SELECT max(first) FROM seal_hashes WHERE tree_id = :tree "
            "AND level = :level AND first <= :start), 0) ORDER BY first",
            tree=self.id,
            level=level,
            start=start,
            end=start + count,
        )
        return b"".join(bytes(row.part) for row in rows)[: count * HASH_BYTES]

    def append(self, size: int, leaves: bytes) -> int:
        """Add leaves behind the first `size`; the tree's new size."""
        old, new = size, size + len(leaves) // HASH_BYTES
        level, added = 0, leaves
        while added:
            run(
                self._connection,
                "INSERT INTO seal_hashes (tree_id, level, first, hashes) "
                "VALUES (:tree, :level, :first, :hashes)",
                tree=self.id,
                level=level,
                first=old,
                hashes=added,
            )
            added = self._parents(level, old // BLOCK, new // BLOCK)
            level, old, new = level + LEVELS_APART, old // BLOCK, new // BLOCK
        self._blocks.clear()
        return size + len(leaves) // HASH_BYTES

    def _parents(self, level: int, start: int, end: int) -> bytes:
        found: list[bytes] = []
        for at in range(start * BLOCK, end * BLOCK, _READ_AT_ONCE):
            part = self.hashes(level, at, min(_READ_AT_ONCE, end * BLOCK - at))
            found += parents_of(split_hashes(part))
        return b"".join(found)


def parents_of(hashes: list[bytes]) -> list[bytes]:
    """The hashes one stored level up, of every full block."""
    return [
        full_subtree(hashes[at : at + BLOCK])
        for at in range(0, len(hashes) // BLOCK * BLOCK, BLOCK)
    ]


def split_hashes(joined: bytes) -> list[bytes]:
    """The hashes of a joined run."""
    return [joined[at : at + HASH_BYTES] for at in range(0, len(joined), HASH_BYTES)]


def ensure_tree(connection: sa.Connection, kind: TreeKind, owner: int | None) -> int:
    """The row id of a tree: of a tenant's usage, of an entity's books, or the operator's."""
    found = tree_of(connection, kind, owner)
    if found is not None:
        return found
    return only(
        connection,
        "INSERT INTO seal_tree (kind, tenant_id, legal_entity_id) "
        "VALUES (:kind, :tenant, :entity) RETURNING id",
        kind=kind.value,
        tenant=owner if kind is TreeKind.USAGE else None,
        entity=owner if kind is TreeKind.BOOKS else None,
    ).id


def tree_of(connection: sa.Connection, kind: TreeKind, owner: int | None) -> int | None:
    """The row id of a tree, or None if nothing of its was sealed yet."""
    row = first(
        connection,
        "SELECT id FROM seal_tree WHERE kind = :kind "
        "AND coalesce(tenant_id, legal_entity_id) IS NOT DISTINCT FROM CAST(:owner AS integer)",
        kind=kind.value,
        owner=owner,
    )
    return None if row is None else row.id


def leaves_of(connection: sa.Connection, tenant_id: int, start: int, count: int) -> list[bytes]:
    """Stored leaf hashes of a tenant's usage, from leaf `start` on; none if nothing is sealed."""
    tree_id = tree_of(connection, TreeKind.USAGE, tenant_id)
    if tree_id is None:
        return []
    return split_hashes(StoredTree(connection, tree_id).hashes(0, start, count))
