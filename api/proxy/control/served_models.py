"""Which models tenants can name, by the configuration of the engines.

Decides: what kind of model a name stands for and which engines serve it, in their order. Does not
decide its row id: the snapshot does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from billing.admission.backend import Backend, ServedModel
from billing.admission.route import Route
from billing.errors import ConfigurationError
from billing.metering.token_class import TokenClass
from billing.planfiles.backend_file import BackendSpec


def served_models(backends: Sequence[BackendSpec]) -> list[ServedModel]:
    """Models with the backends that serve them, in the order of the configuration.

    Raises:
        ConfigurationError: one name stands for a text and an embedding model.
    """
    kinds: dict[str, str] = {}
    serving: defaultdict[str, list[Backend]] = defaultdict(list)
    for spec in backends:
        for model in spec.models:
            if kinds.setdefault(model.name, model.kind) != model.kind:
                raise ConfigurationError(
                    "a model is configured as text and as embedding",
                    field="backends.models.kind",
                    remedy="give the two different names",
                )
            serving[model.name].append(
                Backend(
                    name=spec.name,
                    base_url=spec.url,
                    engine=spec.engine,
                    model=model.upstream,
                    api_key=spec.api_key,
                )
            )
    return [
        ServedModel(
            id=0,
            name=name,
            backends=tuple(entries),
            classes=(
                Route.EMBEDDINGS.classes
                if kinds[name] == "embedding"
                else frozenset({TokenClass.INPUT, TokenClass.CACHED_INPUT, TokenClass.OUTPUT})
            ),
        )
        for name, entries in serving.items()
    ]
