"""Whether a request may run, and for whom.

Decides: admit or refuse, from the snapshot alone. Does not decide how long an unknown key is
remembered, nor how a refusal looks on the wire.
"""

from __future__ import annotations

import re

from billing.admission.backend import ModelKind, ServedModel
from billing.admission.route import Route
from billing.admission.snapshot import Admission, KeyGrant, Snapshot
from billing.admission.terms import TenantTerms, Unpriced
from billing.errors import Forbidden, InvalidInput, NotFound, Unauthenticated, UnpricedModel
from billing.metering.token_class import TokenClass
from billing.metering.unit_meter import UnitMeter

MAX_MODEL_NAME = 200
MAX_REMEMBERED = 20_000
"""Admissions that a snapshot remembers."""

# One that needs every price which an answer of such a model can need.
_ROUTE_OF_KIND = {
    ModelKind.TEXT: Route.CHAT_COMPLETIONS,
    ModelKind.EMBEDDING: Route.EMBEDDINGS,
    ModelKind.RERANK: Route.RERANK,
    ModelKind.AUDIO: Route.TRANSCRIPTIONS,
    ModelKind.SPEECH: Route.SPEECH,
    ModelKind.IMAGE: Route.IMAGES,
}

_NO_CLASSES: frozenset[TokenClass] = frozenset()
_NO_UNITS: frozenset[UnitMeter] = frozenset()

_ABILITIES = {
    Route.CHAT_COMPLETIONS: "generate text",
    Route.COMPLETIONS: "generate text",
    Route.RESPONSES: "generate text",
    Route.MESSAGES: "generate text",
    Route.COUNT_TOKENS: "generate text",
    Route.EMBEDDINGS: "make embeddings",
    Route.RERANK: "rank documents",
    Route.TRANSCRIPTIONS: "transcribe sound",
    Route.TRANSLATIONS: "translate sound",
    Route.SPEECH: "speak",
    Route.IMAGES: "make images",
}

# Names are echoed in refusals, so only characters that cannot carry markup or control codes.
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]*\Z")


def authenticate(snapshot: Snapshot, key_digest: bytes, now_us: int) -> KeyGrant:
    """The grant of a key.

    Raises:
        Unauthenticated: the key is unknown, revoked or expired; the three look the same.
    """
    grant = snapshot.keys.get(key_digest)
    if grant is None or grant.is_over(now_us):
        raise Unauthenticated(
            "Incorrect API key provided.", remedy="Send a valid key as `Authorization: Bearer`."
        )
    return grant


def admit(
    snapshot: Snapshot, key_digest: bytes, model_name: str, route: Route, now_us: int
) -> Admission:
    """Admit a request, or say why not.

    Args:
        key_digest: SHA-256 of the whole key text.
        now_us: µs since 1970 UTC.

    Raises:
        Unauthenticated: unknown, revoked or expired key.
        Forbidden: the key may not infer.
        NotFound: no such model.
        InvalidInput: the model cannot answer on this route.
        UnpricedModel: no contract in force prices a class that the answer can carry.
    """
    wish = key_digest, model_name, route
    known = snapshot.admitted.get(wish)
    if known is not None and not known.grant.is_over(now_us):
        return known
    admission = _admission(snapshot, authenticate(snapshot, key_digest, now_us), model_name, route)
    if len(snapshot.admitted) < MAX_REMEMBERED:
        snapshot.admitted[wish] = admission
    return admission


def _admission(snapshot: Snapshot, grant: KeyGrant, model_name: str, route: Route) -> Admission:
    if not grant.may_infer:
        raise Forbidden(
            "This API key may not send inference requests.",
            remedy="Use a key with the inference permission.",
        )
    model = snapshot.models.get(model_name) if len(model_name) <= MAX_MODEL_NAME else None
    if model is None:
        raise NotFound(
            f"The model {_shown(model_name)}does not exist or you do not have access to it.",
            field="model",
            remedy="Ask `GET /v1/models` for the models of this key.",
        )
    if model.kind is not route.spec.model_kind:
        raise InvalidInput(
            f"This model cannot {_ABILITIES[route]}.",
            field="model",
            remedy="Name another model, or send the request where this one answers.",
        )
    return Admission(
        grant=grant,
        terms=priced_terms(snapshot, grant, model, route),
        model=model,
    )


def priced_terms(
    snapshot: Snapshot, grant: KeyGrant, model: ServedModel, route: Route
) -> TenantTerms:
    """The tenant's terms, if they price every class that the model can yield on the route.

    Terms that let unpriced requests run for free do for every model.

    Raises:
        UnpricedModel: there is no contract in force, or it lacks a price.
    """
    terms = snapshot.terms.get(grant.tenant_id)
    lacking = None if terms is None else _lacking(terms, model, route)
    if terms is None or (lacking and terms.policy.unpriced is not Unpriced.FREE):
        of = f"{', '.join(sorted(lacking))} of " if lacking else ""
        raise UnpricedModel(
            f"Your contract has no price for {of}this model.",
            field="model",
            remedy="Ask the operator to add it to your price plan.",
        )
    return terms


def _lacking(terms: TenantTerms, model: ServedModel, route: Route) -> set[str]:
    """Meters that the model can yield on the route, and that have no price."""
    classes = (model.classes & route.classes) - terms.priced.get(model.name, _NO_CLASSES)
    units = (model.units & route.units) - terms.priced_units.get(model.name, _NO_UNITS)
    return {each.meter for each in classes} | {each.value for each in units}


def models_for(snapshot: Snapshot, grant: KeyGrant) -> tuple[ServedModel, ...]:
    """The models that a key can use on at least one route, by name."""
    if not grant.may_infer:
        return ()
    return tuple(
        model for _, model in sorted(snapshot.models.items()) if _usable(snapshot, grant, model)
    )


def _usable(snapshot: Snapshot, grant: KeyGrant, model: ServedModel) -> bool:
    try:
        priced_terms(snapshot, grant, model, _ROUTE_OF_KIND[model.kind])
    except UnpricedModel:
        return False
    return True


def _shown(name: str) -> str:
    if len(name) <= MAX_MODEL_NAME and _SAFE_NAME.match(name):
        return f"`{name}` "
    return ""
