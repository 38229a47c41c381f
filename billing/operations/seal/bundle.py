"""The bundle with which a tenant verifies a month of its usage without us.

Records come from the ledger and, for months that have left it, from their archives; each is
compared with the sealed leaf, so an archive needs no trust. Memory is bounded by a stretch of
folds, however long the month. The text has a line per entry, and is one JSON document all the same.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from dataclasses import dataclass

import sqlalchemy as sa

from billing.archive.places import ArchivePlace
from billing.errors import InvalidInput
from billing.ledger.tree import consistency_proof, leaf_hash, peaks
from billing.metering.event_id import microseconds
from billing.money import plain
from billing.operations.retention.archived_records import ArchivedRecords
from billing.operations.seal.prove import (
    Document,
    hexadecimal,
    newest_sealed,
    proved_head,
    require_within,
)
from billing.period import Period
from billing.store.seal import folds as store
from billing.store.seal.folds import HeadRow
from billing.store.seal.hashes import StoredTree, split_hashes
from billing.store.seal.records import Recorded, rolled_up, usage_records
from billing.tenancy.tenant import Tenant

BUNDLE_LEAVES_MAX = 200_000
"""A bundle of more is written to a file, not answered as a document."""

LEAVES_AT_ONCE = 5_000
"""About so many records are held in memory."""

HEADS_AT_ONCE = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A bundle whose entries are read while they are passed on, once.

    Attributes:
        opening: what stands before the entries.
        leaves: how many entries there are.
        closing: what stands behind them.
    """

    opening: Document
    leaves: int
    entries: Iterator[Document]
    closing: Document


def open_bundle(
    connection: sa.Connection,
    place: ArchivePlace,
    tenant: Tenant,
    period: Period,
    *,
    kept_size: int | None = None,
) -> Bundle:
    """What a tenant needs to verify a month: every record since the head before it, and proofs.

    Late usage of the month is sealed after its end, so the bundle reaches up to the newest head.

    Args:
        connection: the operator's, in one snapshot; temporary tables are made on it.
        place: where the archives are.
        kept_size: size of a head that the tenant kept, if the proof has to reach back to it.

    Raises:
        InvalidInput: `kept_size` is too large.
        NotFound: nothing of the tenant's was sealed yet.
    """
    head = newest_sealed(connection, tenant)
    earlier = store.newest_head(connection, head.tree_id, until=period.start)
    first = 0 if earlier is None else earlier.size
    tree = StoredTree(connection, head.tree_id)
    kept = None
    if kept_size is not None:
        require_within(kept_size, head)
        proof = consistency_proof(tree.node, kept_size, head.size)
        kept = {"size": kept_size, "proof": hexadecimal(proof)}
    totals = rolled_up(connection, tenant_id=tenant.id, period=period)
    return Bundle(
        opening={
            "format": "steelyard-bundle v1",
            "tenant": tenant.slug,
            "tree": head.name,
            "start_us": microseconds(period.start),
            "end_us": microseconds(period.end),
            "first": first,
            "left": hexadecimal(peaks(tree.node, first)),
        },
        leaves=head.size - first,
        entries=_entries(connection, place, tenant, first=first, tree_id=head.tree_id),
        closing={
            "totals": {meter: plain(quantity) for meter, quantity in totals.items()},
            "head": proved_head(connection, head),
            "consistency": kept,
        },
    )


def make_bundle(
    connection: sa.Connection,
    place: ArchivePlace,
    tenant: Tenant,
    period: Period,
    *,
    kept_size: int | None = None,
) -> Document:
    """The bundle of a month as one document.

    Raises:
        InvalidInput: the month is too long for that, or `kept_size` is too large.
        NotFound: nothing of the tenant's was sealed yet.
    """
    bundle = open_bundle(connection, place, tenant, period, kept_size=kept_size)
    if bundle.leaves > BUNDLE_LEAVES_MAX:
        raise InvalidInput(
            f"the month has more than {BUNDLE_LEAVES_MAX} sealed events",
            field="month",
            remedy="ask your operator for the file that `steelyard ledger bundle` writes",
        )
    return {**bundle.opening, "entries": list(bundle.entries), **bundle.closing}


def bundle_lines(bundle: Bundle) -> Iterator[str]:
    """The text of a bundle: its opening, a line per entry, its closing."""
    yield _text(bundle.opening)[:-1] + ', "entries": [\n'
    before = ""
    for entry in bundle.entries:
        yield before + _text(entry)
        before = ",\n"
    yield ("\n" if before else "") + "],\n" + _text(bundle.closing)[1:] + "\n"


def _text(document: Document) -> str:
    return json.dumps(document, ensure_ascii=False, default=str)


def _entries(
    connection: sa.Connection, place: ArchivePlace, tenant: Tenant, *, first: int, tree_id: int
) -> Generator[Document]:
    tree = StoredTree(connection, tree_id)
    with ArchivedRecords(connection, place, tenant_id=tenant.id) as archived:
        for start, stretch in _stretches(connection, tree_id, first):
            records = _records(connection, archived, tenant, stretch)
            unplaced: dict[bytes, str] = {}
            for leaf in _leaves(tree, start, sum(head.added for head in stretch)):
                while leaf not in unplaced and (found := next(records, None)) is not None:
                    unplaced[leaf_hash(found.record.encode())] = found.record
                record = unplaced.pop(leaf, None)
                # A leaf whose record is gone or changed stands alone: the verifier names it.
                yield {"leaf": leaf.hex()} if record is None else {"record": record}


def _stretches(
    connection: sa.Connection, tree_id: int, first: int
) -> Iterator[tuple[int, list[HeadRow]]]:
    """Heads that follow each other, of some leaves together, and the first of these leaves."""
    start, size, stretch = first, first, list[HeadRow]()
    while page := store.heads_of_tree(connection, tree_id, above=size, limit=HEADS_AT_ONCE):
        for head in page:
            stretch.append(head)
            size = head.size
            if size - start >= LEAVES_AT_ONCE:
                yield start, stretch
                start, stretch = size, []
    if stretch:
        yield start, stretch


def _records(
    connection: sa.Connection, archived: ArchivedRecords, tenant: Tenant, stretch: list[HeadRow]
) -> Iterator[Recorded]:
    """The records of a stretch in the order of leaves, of some of its epochs at a time."""
    after, to = stretch[0].epoch_after, stretch[-1].epoch_to
    leaves = sum(head.added for head in stretch)
    width = max(1, (to - after) * LEAVES_AT_ONCE // max(leaves, LEAVES_AT_ONCE))
    while after < to:
        until = min(after + width, to)
        # An archive's rows are staged under the ledger's name, so the ledger is read first.
        found = usage_records(connection, tenant_id=tenant.id, after=after, to=until)
        found += archived.read(after=after, to=until)
        yield from sorted(found, key=lambda each: (each.epoch, each.id))
        after = until


def _leaves(tree: StoredTree, start: int, count: int) -> Iterator[bytes]:
    for at in range(start, start + count, LEAVES_AT_ONCE):
        yield from split_hashes(tree.hashes(0, at, min(LEAVES_AT_ONCE, start + count - at)))
