"""Admission over a snapshot."""

from __future__ import annotations

from dataclasses import replace

import pytest

from billing.admission.backend import Backend, ModelKind, ServedModel
from billing.admission.decision import admit, models_for
from billing.admission.route import Route
from billing.admission.snapshot import KeyGrant, Snapshot
from billing.admission.terms import TenantTerms
from billing.errors import Forbidden, InvalidInput, NotFound, Unauthenticated, UnpricedModel
from billing.metering.token_class import TokenClass

INPUT, CACHED, OUTPUT = TokenClass.INPUT, TokenClass.CACHED_INPUT, TokenClass.OUTPUT
BACKENDS = (
    Backend(name="a", base_url="http://a", api_key="hidden"),
    Backend(name="b", base_url="http://b"),
)
KEY, BLIND, OLD, STRANGER = b"k" * 32, b"b" * 32, b"o" * 32, b"s" * 32


def world(priced: dict[str, frozenset[TokenClass]]) -> Snapshot:
    grant = KeyGrant(key_id=1, tenant_id=1, project_id=1, may_infer=True)
    classes = {
        "chat": frozenset({INPUT, CACHED, OUTPUT}),
        "plain": frozenset({INPUT, OUTPUT}),
        "embed": frozenset({INPUT}),
    }
    return Snapshot(
        version=1,
        keys={
            KEY: grant,
            BLIND: KeyGrant(key_id=2, tenant_id=1, project_id=1, may_infer=False),
            OLD: KeyGrant(key_id=3, tenant_id=1, project_id=1, may_infer=True, expires_at_us=1_000),
            STRANGER: KeyGrant(key_id=4, tenant_id=2, project_id=1, may_infer=True),
        },
        terms={1: TenantTerms(tenant_id=1, price_version_id=9, priced=priced)},
        models={
            name: ServedModel(
                id=n,
                name=name,
                backends=BACKENDS,
                classes=yielded,
                kind=ModelKind.EMBEDDING if name == "embed" else ModelKind.TEXT,
            )
            for n, (name, yielded) in enumerate(classes.items())
        },
    )


ALL = {name: frozenset({INPUT, CACHED, OUTPUT}) for name in ("chat", "plain", "embed")}
CHAT = Route.CHAT_COMPLETIONS


def test_admitted_under_the_tenants_terms():
    admission = admit(world(ALL), KEY, "chat", CHAT, 5)
    assert admission.terms.price_version_id == 9
    assert "hidden" not in repr(admission)


@pytest.mark.parametrize(
    ("key", "model", "route", "now_us", "error"),
    [
        (b"?" * 32, "chat", CHAT, 5, Unauthenticated),
        (OLD, "chat", CHAT, 1_000, Unauthenticated),
        (BLIND, "chat", CHAT, 5, Forbidden),
        (KEY, "none", CHAT, 5, NotFound),
        (KEY, "chat" * 100, CHAT, 5, NotFound),
        (KEY, "embed", CHAT, 5, InvalidInput),
        (KEY, "chat", Route.EMBEDDINGS, 5, InvalidInput),
        (STRANGER, "chat", CHAT, 5, UnpricedModel),
    ],
)
def test_refusals(key, model, route, now_us, error):
    with pytest.raises(error):
        admit(world(ALL), key, model, route, now_us)


def test_a_key_is_valid_until_the_microsecond_it_expires():
    assert admit(world(ALL), OLD, "chat", CHAT, 999).grant.key_id == 3


@pytest.mark.parametrize("missing", [INPUT, CACHED, OUTPUT])
def test_every_class_that_the_route_can_yield_needs_a_price(missing):
    snapshot = world({"chat": ALL["chat"] - {missing}})
    with pytest.raises(UnpricedModel) as refused:
        admit(snapshot, KEY, "chat", CHAT, 5)
    assert refused.value.message == f"Your contract has no price for {missing.meter} of this model."


def test_only_classes_that_the_model_and_route_can_yield_need_one():
    snapshot = world({"plain": frozenset({INPUT, OUTPUT}), "embed": frozenset({INPUT})})
    assert admit(snapshot, KEY, "plain", CHAT, 5)
    assert admit(snapshot, KEY, "embed", Route.EMBEDDINGS, 5)
    assert [model.name for model in models_for(snapshot, snapshot.keys[KEY])] == ["embed", "plain"]
    assert models_for(snapshot, snapshot.keys[STRANGER]) == ()


@pytest.mark.parametrize("name", ["<b>x</b>", "a\nb", "x" * 201, "", "\u202e", " a"])
def test_odd_model_names_are_not_repeated(name):
    with pytest.raises(NotFound) as refused:
        admit(world(ALL), KEY, name, CHAT, 5)
    assert refused.value.message == "The model does not exist or you do not have access to it."


def test_plain_model_names_are():
    with pytest.raises(NotFound) as refused:
        admit(world(ALL), KEY, "org/model-8b:v1", CHAT, 5)
    assert "`org/model-8b:v1` does not exist" in refused.value.message


def test_what_was_admitted_once_is_so_until_the_key_expires_or_the_picture_changes():
    picture = world(ALL)
    first = admit(picture, OLD, "chat", CHAT, 998)
    assert admit(picture, OLD, "chat", CHAT, 999) is first
    with pytest.raises(Unauthenticated):
        admit(picture, OLD, "chat", CHAT, 1_000)
    with pytest.raises(InvalidInput):
        admit(picture, OLD, "chat", Route.EMBEDDINGS, 999)
    with pytest.raises(Unauthenticated):
        admit(replace(picture, keys={}), OLD, "chat", CHAT, 999)
    with pytest.raises(UnpricedModel):
        admit(replace(picture, terms={}), OLD, "chat", CHAT, 999)
