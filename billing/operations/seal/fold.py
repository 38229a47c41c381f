"""Fold committed events and transactions into the trees, and sign the operator's new head.

A fold is one transaction and takes a stretch of epochs, so that a crash leaves nothing behind and
the next fold does the same work again. Epochs become visible in order (L8), and of the books only
what was written by database transactions that all have ended is taken: nothing can appear behind
a fold.
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
    book_leaves,
    newest_epoch,
    settled_before,
    usage_leaves,
)

EPOCHS_AT_ONCE = 100
"""At most this many batches per fold, so that what a fold holds in memory stays bounded."""

LOCK = "seal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Folded:
    """What one fold added.

    Attributes:
        head: the new signed head; None if there was nothing to seal.
        behind: whether epochs are left for another fold.
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
    connection: sa.Connection, key: SealKey, *, now: datetime, epochs: int = EPOCHS_AT_ONCE
) -> Folded:
    """Fold the next stretch, in the operator role's transaction."""
    store.lock_seal(connection)
    last = store.newest_fold(connection)
    after, start, size = (last.epoch_to, last.xact_before, last.size) if last else (0, 0, 0)
    newest = newest_epoch(connection)
    to = min(newest, after + epochs)
    before = max(settled_before(connection), start)
    usage = usage_leaves(connection, after=after, to=to)
    books = book_leaves(connection, start=start, before=before)
    events, transactions = (sum(len(run.ids) for run in runs) for runs in (usage, books))
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
            transactions=(start, before),
            now=now,
        )
    return Folded(head=head, events=events, transactions=transactions, behind=to < newest)


def _sign(
    connection: sa.Connection,
    key: SealKey,
    *,
    size: int,
    added: list[tuple[TreeKind, LeafRun]],
    epochs: tuple[int, int],
    transactions: tuple[int, int],
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
        transactions=transactions,
        key_id=key.id,
    )
    head = FoldRow(
        size=fold_size,
        root=top,
        epoch_after=epochs[0],
        epoch_to=epochs[1],
        xact_from=transactions[0],
        xact_before=transactions[1],
        folded_at=now,
        key_id=key.id,
        signature=key.sign(text),
    )
    store.insert_fold(connection, head)
    return head
