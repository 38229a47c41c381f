"""Tables seal_fold, seal_head, seal_key, seal_witness: signed heads and what they cover."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime

import sqlalchemy as sa

from billing.store.database import first, members, only, query, run


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldRow:
    """A signed head of the operator's tree, and the part of the ledgers that it added.

    Attributes:
        size, root: of the operator's tree with the heads of this fold.
        epoch_after, epoch_to: usage of the epochs in (after, to].
        books_from, books_before: how many book entries the folds before had taken, and with this
            one. What was sealed by earlier versions counts on from another number.
        signature: of `billing.ledger.seal_record.signed_text`.
    """

    size: int
    root: bytes
    epoch_after: int
    epoch_to: int
    books_from: int
    books_before: int
    folded_at: datetime
    key_id: str
    signature: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadRow:
    """The head of one tree as a fold left it.

    Attributes:
        name: of the tree, such as `usage:7`, as it stands in the head's record.
        added: leaves that the fold added.
        operator_leaf: place of this head among the leaves of the operator's tree.
        fold_size: the fold.
        epoch_after, epoch_to, folded_at: of the fold.
    """

    tree_id: int
    name: str
    size: int
    root: bytes
    added: int
    operator_leaf: int
    fold_size: int
    epoch_after: int
    epoch_to: int
    folded_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class WitnessRow:
    """What an outside witness answered to a signed head."""

    fold_size: int
    url: str
    status: int
    answer: str
    answered_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRow:
    """A public key that heads were signed with, from an instant on."""

    id: str
    public_key: bytes
    valid_from: datetime


def lock_seal(connection: sa.Connection) -> None:
    """Wait until no other transaction folds; held to commit."""
    run(connection, "SELECT pg_advisory_xact_lock(hashtextextended('seal-fold', 0))")


def insert_fold(connection: sa.Connection, fold: FoldRow) -> None:
    """Write down a signed head."""
    run(
        connection,
        "INSERT INTO seal_fold (size, root, epoch_after, epoch_to, books_from, books_before, "
        "folded_at, key_id, signature) VALUES (:size, :root, :epoch_after, :epoch_to, :books_from, "
        ":books_before, :folded_at, :key_id, :signature)",
        **asdict(fold),
    )


def insert_head(
    connection: sa.Connection,
    *,
    tree_id: int,
    size: int,
    root: bytes,
    added: int,
    operator_leaf: int,
    fold_size: int,
) -> None:
    """Write down the head of one tree; its fold follows in the same transaction."""
    run(
        connection,
        "INSERT INTO seal_head (tree_id, size, root, added, operator_leaf, fold_size) "
        "VALUES (:tree, :size, :root, :added, :leaf, :fold)",
        tree=tree_id,
        size=size,
        root=root,
        added=added,
        leaf=operator_leaf,
        fold=fold_size,
    )


def ensure_key(connection: sa.Connection, *, key_id: str, public_key: bytes, now: datetime) -> None:
    """Publish a key before anything is signed with it."""
    run(
        connection,
        "INSERT INTO seal_key (id, public_key, valid_from) VALUES (:id, :key, :now) "
        "ON CONFLICT DO NOTHING",
        id=key_id,
        key=public_key,
        now=now,
    )


def keys(connection: sa.Connection) -> list[KeyRow]:
    """Every key that was published, oldest first."""
    rows = query(connection, "SELECT id, public_key, valid_from FROM seal_key ORDER BY valid_from")
    return [KeyRow(**members(row, public_key=bytes(row.public_key))) for row in rows]


_FOLD = (
    "SELECT size, root, epoch_after, epoch_to, books_from, books_before, folded_at, key_id, "
    "signature FROM seal_fold "
)


def newest_fold(connection: sa.Connection) -> FoldRow | None:
    """The newest signed head."""
    row = first(connection, _FOLD + "ORDER BY size DESC LIMIT 1")
    return None if row is None else _fold(row)


def folds(connection: sa.Connection, *, above: int = 0, limit: int | None = None) -> list[FoldRow]:
    """Signed heads above a size, oldest first."""
    rows = query(
        connection,
        _FOLD + "WHERE size > :above ORDER BY size LIMIT CAST(:limit AS bigint)",
        above=above,
        limit=limit,
    )
    return [_fold(row) for row in rows]


def fold_of_size(connection: sa.Connection, size: int) -> FoldRow | None:
    """The signed head of a size, if there is one."""
    row = first(connection, _FOLD + "WHERE size = :size", size=size)
    return None if row is None else _fold(row)


def fold_of_epoch(connection: sa.Connection, epoch: int) -> FoldRow | None:
    """The fold that took the usage of an epoch, if one has."""
    row = first(
        connection, _FOLD + "WHERE epoch_to >= :epoch ORDER BY epoch_to LIMIT 1", epoch=epoch
    )
    return None if row is None or row.epoch_after >= epoch else _fold(row)


def count_folds(connection: sa.Connection, *, above: int = 0) -> int:
    """How many signed heads are above a size."""
    return only(
        connection, "SELECT count(*) AS found FROM seal_fold WHERE size > :above", above=above
    ).found


def recent_size(connection: sa.Connection, *, folds: int) -> int:
    """The size of the signed head before the newest `folds` ones; 0 if there are no more."""
    row = first(
        connection,
        "SELECT size FROM seal_fold ORDER BY size DESC LIMIT 1 OFFSET :folds",
        folds=folds,
    )
    return 0 if row is None else row.size


_HEAD = (
    "SELECT h.tree_id, t.kind || coalesce(':' || coalesce(t.tenant_id, t.legal_entity_id), '') "
    "AS name, h.size, h.root, h.added, h.operator_leaf, h.fold_size, f.epoch_after, f.epoch_to, "
    "f.folded_at FROM seal_head h JOIN seal_tree t ON t.id = h.tree_id "
    "JOIN seal_fold f ON f.size = h.fold_size "
)


def newest_head(
    connection: sa.Connection, tree_id: int, *, until: datetime | None = None
) -> HeadRow | None:
    """The newest head of a tree; of those folded at or before `until`, if given."""
    row = first(
        connection,
        _HEAD + "WHERE h.tree_id = :tree AND (CAST(:until AS timestamptz) IS NULL "
        "OR f.folded_at <= :until) ORDER BY h.size DESC LIMIT 1",
        tree=tree_id,
        until=until,
    )
    return None if row is None else _head(row)


def heads_of_tree(
    connection: sa.Connection, tree_id: int, *, above: int, limit: int
) -> list[HeadRow]:
    """Heads of a tree above a size, oldest first."""
    rows = query(
        connection,
        _HEAD + "WHERE h.tree_id = :tree AND h.size > :above ORDER BY h.size LIMIT :limit",
        tree=tree_id,
        above=above,
        limit=limit,
    )
    return [_head(row) for row in rows]


def heads_of_fold(connection: sa.Connection, fold_size: int) -> list[HeadRow]:
    """The heads that a fold added, in the order of their leaves."""
    rows = query(
        connection, _HEAD + "WHERE h.fold_size = :fold ORDER BY h.operator_leaf", fold=fold_size
    )
    return [_head(row) for row in rows]


def insert_witness(connection: sa.Connection, answer: WitnessRow) -> None:
    """Keep what a witness answered; the first answer stays."""
    run(
        connection,
        "INSERT INTO seal_witness (fold_size, url, status, answer, answered_at) "
        "VALUES (:fold_size, :url, :status, :answer, :answered_at) ON CONFLICT DO NOTHING",
        **asdict(answer),
    )


def witnessed(connection: sa.Connection, *, url: str) -> int:
    """The newest fold that a witness has answered to; 0 if none."""
    row = first(
        connection, "SELECT max(fold_size) AS newest FROM seal_witness WHERE url = :url", url=url
    )
    return 0 if row is None or row.newest is None else row.newest


def _fold(row: sa.Row[tuple[object, ...]]) -> FoldRow:
    return FoldRow(**members(row, root=bytes(row.root), signature=bytes(row.signature)))


def _head(row: sa.Row[tuple[object, ...]]) -> HeadRow:
    return HeadRow(**members(row, root=bytes(row.root)))
