"""Verify the seal: what is stored today is what was sealed, and what was sealed was signed.

Every finding names what is wrong. Where a leaf and the event that it was made of differ, the
signed head says which of the two was changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from uuid import UUID

import sqlalchemy as sa

from billing.errors import LedgerError
from billing.ledger.seal_record import head_record, signed_text
from billing.ledger.tree import Frontier, leaf_hash, peaks
from billing.signing.ed25519 import key_id, verify
from billing.store.seal import folds as store
from billing.store.seal.folds import FoldRow, HeadRow, KeyRow
from billing.store.seal.hashes import (
    BLOCK,
    LEVELS_APART,
    StoredTree,
    TreeKind,
    parents_of,
    split_hashes,
    tree_of,
)
from billing.store.seal.records import (
    LeafRun,
    book_leaves,
    broken_transactions,
    unaccounted_transactions,
    usage_leaves,
)

Elsewhere = Callable[[bytes], bool]
"""Whether the event of a leaf that is gone from the ledger was found in an archive."""

FOLDS_AT_ONCE = 1_000
"""So many signed heads are held in memory."""

Progress = Callable[[int, int], None]
"""Told after each fold: how many are verified, and of how many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that is not as it was sealed.

    Attributes:
        kind: `event`, `leaf`, `tree`, `head`, `key`, `transaction`, `rollup`, `archive`,
            `level`, `account`, `period`, `credit`, `receivable`.
        subject: which one.
        problem: what is wrong with it.
    """

    kind: str
    subject: str
    problem: str


@dataclass(slots=True, kw_only=True)
class _Check:
    connection: sa.Connection
    elsewhere: Elsewhere
    keys: dict[str, KeyRow]
    operator: StoredTree
    frontiers: dict[int, Frontier] = field(default_factory=dict[int, Frontier])
    findings: list[Finding] = field(default_factory=list[Finding])

    def report(self, kind: str, subject: object, problem: str) -> None:
        self.findings.append(Finding(kind=kind, subject=str(subject), problem=problem))


def verify_seal(
    connection: sa.Connection,
    *,
    above: int = 0,
    elsewhere: Elsewhere = lambda _: False,
    progress: Progress = lambda _done, _total: None,
) -> list[Finding]:
    """Everything that is not as it was sealed, in the operator role's transaction.

    Args:
        above: only what folds above this signed head's size added, at a cost that does not grow
            with what is below; 0: all of them, and every stored level.
        elsewhere: where events are that the ledger no longer holds.
    """
    tree_id = tree_of(connection, TreeKind.OPERATOR, None)
    if tree_id is None:
        return []
    check = _Check(
        connection=connection,
        elsewhere=elsewhere,
        keys={key.id: key for key in store.keys(connection)},
        operator=StoredTree(connection, tree_id),
    )
    for key in check.keys.values():
        if key_id(key.public_key) != key.id:
            check.report("key", key.id, "the public key is not the one that the id was made of")
    total = store.count_folds(connection, above=above)
    before, done = store.fold_of_size(connection, above), 0
    while page := store.folds(
        connection, above=before.size if before else above, limit=FOLDS_AT_ONCE
    ):
        for fold in page:
            _verify_fold(check, fold, before)
            before, done = fold, done + 1
            progress(done, total)
    if above == 0:
        for at, frontier in check.frontiers.items():
            _verify_levels(check, at, frontier.size)
    return check.findings


def verify_books(connection: sa.Connection) -> list[Finding]:
    """Transactions whose postings are not those that their headers state (L1), or that no fold
    will ever take."""
    problems = {
        "its postings are not those that its header states": broken_transactions(connection),
        "it is neither sealed nor waits for it": unaccounted_transactions(connection),
    }
    return [
        Finding(kind="transaction", subject=str(each), problem=problem)
        for problem, found in problems.items()
        for each in found
    ]


def _verify_fold(check: _Check, fold: FoldRow, before: FoldRow | None) -> None:
    name = f"signed head of size {fold.size}"
    _verify_signature(check, fold, name)
    follows = (before.epoch_to, before.books_before) if before else (0, 0)
    if (fold.epoch_after, fold.books_from) != follows:
        check.report("head", name, "it does not begin where the head before it ends")
    heads = store.heads_of_fold(check.connection, fold.size)
    start = before.size if before else 0
    leaves = split_hashes(check.operator.hashes(0, start, fold.size - start))
    expected = [_head_leaf(head) for head in heads] or [_no_head_leaf(fold)]
    frontier = _frontier(check, check.operator, start)
    for leaf in leaves:
        frontier.add(leaf)
    if frontier.root() != fold.root:
        check.report("head", name, "its root is not that of the operator's tree")
    for place, leaf in enumerate(expected):
        if place >= len(leaves) or leaf != leaves[place]:
            subject = heads[place].name if heads else "none"
            check.report(
                "head",
                f"{subject} of size {heads[place].size if heads else 0}",
                "it is not the head that the operator's tree holds",
            )
    if len(leaves) != len(expected):
        check.report("head", name, "heads are missing from it, or were added")
    usage = usage_leaves(check.connection, after=fold.epoch_after, to=fold.epoch_to)
    books = book_leaves(check.connection, fold_size=fold.size)
    found = {f"usage:{run.owner}": run for run in usage}
    found |= {f"books:{run.owner}": run for run in books}
    for head in heads:
        nothing = LeafRun(owner=0, leaves=b"", ids=())
        _verify_run(check, head, found.pop(head.name, nothing))
    for tree, run in found.items():
        for each in run.ids:
            check.report(_kind_of(tree), each, f"it is not among the sealed ones of {tree}")


def _verify_signature(check: _Check, fold: FoldRow, name: str) -> None:
    text = text_of(fold)
    key = check.keys.get(fold.key_id)
    if key is None or not verify(key.public_key, text, fold.signature):
        check.report("head", name, "its signature is not that of its key")


def text_of(fold: FoldRow) -> str:
    """What a signed head's signature is of."""
    return signed_text(
        size=fold.size,
        root=fold.root,
        folded_at=fold.folded_at,
        epochs=(fold.epoch_after, fold.epoch_to),
        transactions=(fold.books_from, fold.books_before),
        key_id=fold.key_id,
    )


def _verify_run(check: _Check, head: HeadRow, run: LeafRun) -> None:
    """Compare what a fold added to one tree with what the ledger holds of it today."""
    start = head.size - head.added
    tree = StoredTree(check.connection, head.tree_id)
    stored, today = split_hashes(tree.hashes(0, start, head.added)), split_hashes(run.leaves)
    frontier = _frontier(check, tree, start)
    if frontier.size != start:
        check.report("head", f"{head.name} of size {head.size}", "its size does not follow")
    other = frontier.copy()
    for leaf in stored:
        frontier.add(leaf)
    stored_are_signed = frontier.root() == head.root
    if stored == today:
        if not stored_are_signed:
            check.report("head", f"{head.name} of size {head.size}", "its root is another one")
        return
    for leaf in today:
        other.add(leaf)
    if not stored_are_signed and other.root() == head.root:
        for at in _differing(stored, today):
            check.report("leaf", f"{head.name} leaf {start + at}", "the stored hash was changed")
        # The heads after this one were signed over what the leaf was before.
        check.frontiers[tree.id] = other
        return
    if not stored_are_signed:
        check.report("head", f"{head.name} of size {head.size}", "its root is another one")
    _name_entries(check, head, stored, today, run.ids)


def _name_entries(
    check: _Check,
    head: HeadRow,
    stored: Sequence[bytes],
    today: Sequence[bytes],
    ids: Sequence[UUID],
) -> None:
    kind, tree, start = _kind_of(head.name), head.name, head.size - head.added
    sealed, present = frozenset(stored), frozenset(today)
    for leaf, entry in zip(today, ids, strict=True):
        if leaf not in sealed:
            check.report(kind, entry, f"it is not what was sealed in {tree}")
    changed = len(stored) == len(today)
    for at, leaf in enumerate(stored):
        if leaf not in present and not changed and not check.elsewhere(leaf):
            check.report(kind, f"{tree} leaf {start + at}", "what was sealed there is gone")
    if changed and sealed == present:
        for at in _differing(stored, today):
            check.report(kind, ids[at], f"it was sealed at another place of {tree}")


def _verify_levels(check: _Check, tree_id: int, size: int) -> None:
    """Check that every stored level is that of the level below it."""
    tree, level, count = StoredTree(check.connection, tree_id), 0, size
    if tree.hashes(0, size, 1):
        check.report("leaf", f"tree {tree_id} leaf {size}", "no head covers it")
    while count >= BLOCK:
        for block in range(count // BLOCK):
            below = split_hashes(tree.hashes(level, block * BLOCK, BLOCK))
            if parents_of(below) != split_hashes(tree.hashes(level + LEVELS_APART, block, 1)):
                check.report(
                    "tree",
                    f"tree {tree_id} level {level + LEVELS_APART} hash {block}",
                    "it is not that of the hashes below it",
                )
        level, count = level + LEVELS_APART, count // BLOCK


def _frontier(check: _Check, tree: StoredTree, size: int) -> Frontier:
    known = check.frontiers.get(tree.id)
    if known is None:
        size = max(size, 0)  # a changed head may claim to have added more than there is
        try:
            known = Frontier(size=size, peaks=peaks(tree.node, size))
        except LedgerError:
            check.report("tree", f"tree {tree.id}", f"hashes of its first {size} leaves are gone")
            known = Frontier()
        check.frontiers[tree.id] = known
    return known


def _differing(stored: Sequence[bytes], today: Sequence[bytes]) -> list[int]:
    longest = max(len(stored), len(today))
    return [at for at in range(longest) if stored[at : at + 1] != today[at : at + 1]]


def _head_leaf(head: HeadRow) -> bytes:
    return leaf_hash(record_of(head).encode())


def record_of(head: HeadRow) -> str:
    """What the leaf of a head says."""
    return head_record(tree=head.name, size=head.size, root=head.root, folded_at=head.folded_at)


def _no_head_leaf(fold: FoldRow) -> bytes:
    return leaf_hash(head_record(tree="none", size=0, root=b"", folded_at=fold.folded_at).encode())


def _kind_of(tree: str) -> str:
    return "event" if tree.startswith(TreeKind.USAGE) else "transaction"
