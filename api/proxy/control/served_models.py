"""Which models tenants can name, by the configuration of the engines.

Decides: what kind of model a name stands for, which engines serve it, in their order, and what
takes its place when they fail. Does not decide its row id: the snapshot does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TypeVar

from billing.admission.backend import YIELDS, Backend, ModelKind, ServedModel, classes_of
from billing.engines.health_paths import HEALTH_PATHS
from billing.errors import ConfigurationError
from billing.planfiles.backend_file import BackendModel, BackendSpec

_Value = TypeVar("_Value")


def served_models(backends: Sequence[BackendSpec]) -> list[ServedModel]:
    """Models with the backends that serve them, in the order of the configuration.

    Raises:
        ConfigurationError: two backends say different things of one model, or a fallback cannot
            take a model's place.
    """
    told: defaultdict[str, list[BackendModel]] = defaultdict(list)
    serving: defaultdict[str, list[Backend]] = defaultdict(list)
    for spec in backends:
        for model in spec.models:
            told[model.name].append(model)
            serving[model.name].append(_backend(spec, model))
    models = {name: _model(name, told[name], serving[name]) for name in told}
    for model in models.values():
        _check_fallbacks(model, models)
    return list(models.values())


def _backend(spec: BackendSpec, model: BackendModel) -> Backend:
    return Backend(
        name=spec.name,
        base_url=spec.url,
        engine=spec.engine,
        model=model.upstream,
        api_key=spec.api_key,
        weight=spec.weight,
        max_in_flight=spec.max_in_flight,
        draining=spec.draining,
        connect_ms=spec.connect_ms,
        first_byte_ms=spec.first_byte_ms,
        stalled_ms=spec.stalled_ms,
        stores=spec.stores,
        media_hosts=spec.media_hosts,
        cache_salt=spec.cache_salt,
        metrics_url=spec.metrics_url or f"{spec.url}/metrics",
        health_path=spec.health_path or HEALTH_PATHS.get(spec.engine),
    )


def _model(name: str, told: Sequence[BackendModel], backends: Sequence[Backend]) -> ServedModel:
    kinds = {model.kind for model in told}
    if len(kinds) > 1:
        raise ConfigurationError(
            f"a model is configured as {' and as '.join(sorted(kinds))}",
            field="backends.models.kind",
            remedy="give the two different names",
        )
    kind = ModelKind(told[0].kind)
    cache_write = _agreed("cache_write", [model.cache_write for model in told], False)
    return ServedModel(
        id=0,
        name=name,
        backends=tuple(backends),
        classes=classes_of(kind, cache_write=cache_write),
        kind=kind,
        units=YIELDS[kind][1],
        fallbacks=_agreed("fallbacks", [model.fallbacks for model in told], ()),
        max_output=_agreed("max_output", [model.max_output for model in told], 4096),
        context=_agreed("context", [model.context for model in told], None),
        attempts=_agreed("attempts", [model.attempts for model in told], 3),
    )


def _agreed(member: str, told: Sequence[_Value | None], otherwise: _Value) -> _Value:
    """What the backends say that say something.

    Raises:
        ConfigurationError: they contradict each other; which of them a request meets is chance.
    """
    said = {value for value in told if value is not None}
    if len(said) > 1:
        raise ConfigurationError(
            "the backends of a model contradict each other",
            field=f"backends.models.{member}",
            remedy="write the same for each of them, or write it once",
        )
    return said.pop() if said else otherwise


def _check_fallbacks(model: ServedModel, models: Mapping[str, ServedModel]) -> None:
    """Refuse fallbacks that nobody serves, of another kind, or that lead back.

    Raises:
        ConfigurationError: as said.
    """
    for name in model.fallbacks:
        fallback = models.get(name)
        if fallback is None or fallback.kind is not model.kind:
            raise ConfigurationError(
                "a fallback is not served, or is a model of another kind",
                field="backends.models.fallbacks",
                remedy="name a model of the same kind that a backend lists under `models`",
            )
    seen: set[str] = set()
    to_follow = list(model.fallbacks)
    while to_follow:
        name = to_follow.pop()
        if name == model.name:
            raise ConfigurationError(
                "fallbacks lead back to the model that they replace",
                field="backends.models.fallbacks",
                remedy="leave one of them out",
            )
        if name not in seen and name in models:
            seen.add(name)
            to_follow.extend(models[name].fallbacks)
