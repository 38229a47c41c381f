"""The seal over HTTP: a tenant proves its own usage, and nobody else's."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from billing.ledger.tree import leaf_hash, verify_consistency, verify_inclusion
from billing.operations.seal.fold import seal_all
from billing.signing.ed25519 import SealKey, load_or_make
from billing.verifier import verify_bundle, verify_head
from tests.api.control.conftest import Plane


@pytest.fixture
def key(tmp_path: Path) -> SealKey:
    return load_or_make(tmp_path / "seal.key")


def use_and_seal(plane: Plane, key: SealKey) -> None:
    for owner in (plane.acme, plane.bolt):
        plane.world.use(owner, {"requests": 1, "tokens.input": 500})
    seal_all(plane.world.database, key, now=plane.clock.now)


def test_a_tenant_keeps_a_head_and_verifies_its_month(
    plane: Plane, tenant: httpx.Client, key: SealKey
) -> None:
    assert tenant.get("seal/head").status_code == 404
    use_and_seal(plane, key)
    kept = tenant.get("seal/head").json()
    assert verify_head(kept, public_key=key.public_key.hex()) == []
    use_and_seal(plane, key)
    bundle = tenant.get("seal/bundle", params={"month": "2026-11"}).json()
    assert verify_bundle(bundle, kept=kept) == []
    assert bundle["totals"] == {"requests": "2", "tokens.input": "1000"}
    proof = tenant.get("seal/consistency", params={"from": kept["size"]}).json()
    newest = proof["head"]
    assert verify_consistency(
        kept["size"],
        newest["size"],
        bytes.fromhex(kept["root"]),
        bytes.fromhex(newest["root"]),
        [bytes.fromhex(each) for each in proof["proof"]],
    )
    assert tenant.get("seal/consistency", params={"from": 99}).status_code == 400


def test_a_request_is_proved_to_its_own_tenant_only(
    plane: Plane, tenant: httpx.Client, key: SealKey
) -> None:
    use_and_seal(plane, key)
    request_id = tenant.get("usage/requests").json()[0]["request_id"]
    proof = tenant.get(f"seal/proof/{request_id}").json()
    assert verify_inclusion(
        leaf_hash(proof["record"].encode()),
        proof["leaf"],
        proof["head"]["size"],
        [bytes.fromhex(each) for each in proof["proof"]],
        bytes.fromhex(proof["head"]["root"]),
    )
    with plane.client("bolt") as bolt:
        assert bolt.get(f"seal/proof/{request_id}").status_code == 404
        assert bolt.get("seal/bundle").json()["tree"] == f"usage:{plane.bolt.id}"


def test_heads_and_keys_are_published(plane: Plane, operator: httpx.Client, key: SealKey) -> None:
    use_and_seal(plane, key)
    head = operator.get("seal/signed-head").json()
    assert head["public_key"] == key.public_key.hex()
    assert [each["id"] for each in operator.get("seal/keys").json()] == [head["key_id"]]
    assert operator.get("seal/head").status_code == 403
