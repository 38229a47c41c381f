"""Fold committed events and transactions into the trees, and sign the operator's new head.

A fold is one transaction and takes a stretch of epochs, so that a crash leaves nothing behind and
the next fold does the same work again. Epochs become visible in order (L8), and of the books a
fold takes what waits for it, in an order that it writes down: nothing can appear behind a fold.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from billing.ledger.seal_record import head_record, signed_text
from billing.ledger.tree import HASH_BYTES, leaf_hash, root
from billing.operations.deployment import data_dir
from billing.settings import Settings
from billing.signing.ed25519 import SealKey, load_or_make
from billing.store.database import Database, Role
from billing.store.seal import folds as store
from billing.store.seal.folds import FoldRow
from billing.store.seal.hashes import StoredTree, TreeKind, ensure_tree
from billing.store.seal.records import (
    LeafRun,
    newest_epoch,
    usage_leaves,
    waiting_leaves,
    write_down,
)

EPOCHS_AT_ONCE = 100
"""At most this many batches per fold, so that what a fold holds in memory stays bounded."""

TRANSACTIONS_AT_ONCE = 10_000
"""The same, for transactions of the books."""

LOCK = "seal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Folded:
    """What one fold added.

    Attributes:
        head: the new signed head; None if there was nothing to seal.
        behind: whether epochs or transactions are left for another fold.
    """

    head: FoldRow | None
    events: int
    transactions: int
    behind: bool


def seal_key(settings: Settings) -> SealKey:
    """The key of this deployment, made on first use.

    Raises:
        ConfigurationError: the key file cannot be used.
    """
    return load_or_make(settings.seal_key_file or data_dir(settings).joinpath("seal.key"))


def seal_all(database: Database, key: SealKey, *, now: datetime) -> list[Folded]:
    """Fold until nothing is left; nothing at all while another process folds."""
    done: list[Folded] = []
    with database.exclusive(LOCK) as mine:
        while mine:
            with database.transaction(Role.OPERATOR) as connection:
                folded = fold(connection, key, now=now)
            if folded.head is not None:
                done.append(folded)
            if not folded.behind:
                break
    return done


def fold(
    connection: sa.Connection,
    key: SealKey,
    *,
    now: datetime,
    epochs: int = EPOCHS_AT_ONCE,
    transactions: int = TRANSACTIONS_AT_ONCE,
) -> Folded:
    """Fold the next stretch, in the operator role's transaction.

    Args:
        epochs, transactions: at most so many.
    """
    store.lock_seal(connection)
    last = store.newest_fold(connection)
    after, taken, size = (last.epoch_to, last.books_before, last.size) if last else (0, 0, 0)
    newest = newest_epoch(connection)
    to = min(newest, after + epochs)
    usage = usage_leaves(connection, after=after, to=to)
    books = waiting_leaves(connection, limit=transactions)
    events, booked = (sum(len(run.ids) for run in runs) for runs in (usage, books))
    head = None
    # Epochs without an event (a batch of duplicates) are passed over with the next that has some,
    # unless they fill a whole stretch.
    if usage or books or to == after + epochs:
        store.ensure_key(connection, key_id=key.id, public_key=key.public_key, now=now)
        added = [(TreeKind.USAGE, run) for run in usage] + [(TreeKind.BOOKS, run) for run in books]
        head = _sign(
            connection,
            key,
            size=size,
            added=added,
            epochs=(after, to),
            books=(taken, taken + booked),
            now=now,
        )
        write_down(connection, fold_size=head.size, ids=[each for run in books for each in run.ids])
    behind = to < newest or booked == transactions
    return Folded(head=head, events=events, transactions=booked, behind=behind)


def _sign(
    connection: sa.Connection,
    key: SealKey,
    *,
    size: int,
    added: list[tuple[TreeKind, LeafRun]],
    epochs: tuple[int, int],
    books: tuple[int, int],
    now: datetime,
) -> FoldRow:
    # A fold without heads still moves the place up to which the ledgers are sealed: it says so in
    # a leaf of its own, since two signed heads never have the same size.
    fold_size = size + max(1, len(added))
    leaves: list[bytes] = []
    for place, (kind, run) in enumerate(added, start=size):
        tree = StoredTree(connection, ensure_tree(connection, kind, run.owner))
        known = store.newest_head(connection, tree.id)
        grown = tree.append(known.size if known else 0, run.leaves)
        top = root(tree.node, grown)
        store.insert_head(
            connection,
            tree_id=tree.id,
            size=grown,
            root=top,
            added=len(run.leaves) // HASH_BYTES,
            operator_leaf=place,
            fold_size=fold_size,
        )
        record = head_record(tree=f"{kind}:{run.owner}", size=grown, root=top, folded_at=now)
        leaves.append(leaf_hash(record.encode()))
    if not leaves:
        record = head_record(tree="none", size=0, root=b"", folded_at=now)
        leaves.append(leaf_hash(record.encode()))
    operator = StoredTree(connection, ensure_tree(connection, TreeKind.OPERATOR, None))
    operator.append(size, b"".join(leaves))
    top = root(operator.node, fold_size)
    text = signed_text(
        size=fold_size,
        root=top,
        folded_at=now,
        epochs=epochs,
        transactions=books,
        key_id=key.id,
    )
    head = FoldRow(
        size=fold_size,
        root=top,
        epoch_after=epochs[0],
        epoch_to=epochs[1],
        books_from=books[0],
        books_before=books[1],
        folded_at=now,
        key_id=key.id,
        signature=key.sign(text),
    )
    store.insert_fold(connection, head)
    return head
