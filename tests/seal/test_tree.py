"""The trees are those of RFC 6962: its published vectors, and an oracle written from its text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.ledger.tree import (
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    nodes_of,
    peaks,
    root,
    verify_consistency,
    verify_inclusion,
)
from tests.seal import naive

# The inputs and the roots that the reference implementation of Certificate Transparency tests.
INPUTS = [
    bytes.fromhex(text)
    for text in (
        "", "00", "10", "2021", "3031", "40414243", "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]  # fmt: skip
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]

ENTRIES = [bytes([n % 251, n // 251]) for n in range(1001)]
LEAVES = [leaf_hash(entry) for entry in ENTRIES]
NODES = nodes_of(LEAVES)

sizes = st.integers(min_value=0, max_value=1000)


@pytest.mark.parametrize("size", range(1, 9))
def test_roots_are_those_of_certificate_transparency(size: int) -> None:
    node = nodes_of([leaf_hash(entry) for entry in INPUTS])
    assert root(node, size).hex() == ROOTS[size - 1]


def test_the_empty_tree_has_the_hash_of_nothing() -> None:
    assert root(NODES, 0) == naive.mth([])


def test_proofs_are_those_of_the_text_for_every_small_size() -> None:
    for size in range(1, 34):
        entries = ENTRIES[:size]
        assert root(NODES, size) == naive.mth(entries)
        for index in range(size):
            assert list(inclusion_proof(NODES, index, size)) == naive.path(index, entries)
        for first in range(1, size + 1):
            assert list(consistency_proof(NODES, first, size)) == naive.proof(first, entries)


@given(size=sizes.filter(bool), choice=st.data())
def test_proofs_of_any_size_hold_and_are_those_of_the_text(
    size: int, choice: st.DataObject
) -> None:
    index = choice.draw(st.integers(0, size - 1))
    first = choice.draw(st.integers(0, size))
    top = root(NODES, size)
    inclusion = inclusion_proof(NODES, index, size)
    assert list(inclusion) == naive.path(index, ENTRIES[:size])
    assert verify_inclusion(LEAVES[index], index, size, inclusion, top)
    consistency = consistency_proof(NODES, first, size)
    if first:
        assert list(consistency) == naive.proof(first, ENTRIES[:size])
    assert verify_consistency(first, size, root(NODES, first), top, consistency)


@given(size=st.integers(2, 1000), choice=st.data())
def test_a_proof_of_another_leaf_place_size_or_hash_fails(size: int, choice: st.DataObject) -> None:
    index = choice.draw(st.integers(0, size - 1))
    other = choice.draw(st.integers(0, size - 1).filter(lambda n: n != index))
    top = root(NODES, size)
    proof = list(inclusion_proof(NODES, index, size))
    assert not verify_inclusion(LEAVES[other], index, size, proof, top)
    assert not verify_inclusion(LEAVES[index], other, size, proof, top)
    assert not verify_inclusion(LEAVES[index], index, size, proof[:-1], top)
    assert not verify_inclusion(LEAVES[index], index, size, [*proof, proof[0]], top)
    at = choice.draw(st.integers(0, len(proof) - 1))
    proof[at] = bytes([proof[at][0] ^ 1]) + proof[at][1:]
    assert not verify_inclusion(LEAVES[index], index, size, proof, top)
    assert not verify_inclusion(LEAVES[index], size, size, proof, top)


@given(size=st.integers(2, 1000), choice=st.data())
def test_a_rewritten_history_has_no_consistency_proof(size: int, choice: st.DataObject) -> None:
    first = choice.draw(st.integers(1, size - 1))
    changed = choice.draw(st.integers(0, first - 1))
    rewritten = list(LEAVES[:size])
    rewritten[changed] = leaf_hash(b"something else")
    other = nodes_of(rewritten)
    proof = consistency_proof(other, first, size)
    assert not verify_consistency(first, size, root(NODES, first), root(other, size), proof)
    honest = consistency_proof(NODES, first, size)
    assert not verify_consistency(first, size, root(other, first), root(NODES, size), honest)
    assert not verify_consistency(first, size, root(NODES, first), root(NODES, size), honest[:-1])


def test_peaks_are_the_full_subtrees_from_the_left() -> None:
    assert peaks(NODES, 0) == []
    assert peaks(NODES, 8) == [naive.mth(ENTRIES[:8])]
    assert peaks(NODES, 13) == [
        naive.mth(ENTRIES[:8]), naive.mth(ENTRIES[8:12]), naive.mth(ENTRIES[12:13]),
    ]  # fmt: skip
