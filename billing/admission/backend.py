"""The inference servers, and the models that they serve.

Decides: what is known of each. Does not decide which of them gets a request.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from billing.metering.token_class import TokenClass


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """One inference server that serves a model.

    Attributes:
        base_url: `http://host:port` with an optional path prefix; `/v1/…` is appended to it.
        engine: name of the adapter (`vllm`, `sglang`, `llama_cpp`, `generic`, …).
        model: the server's own name of the model; None where it is the same as ours.
        api_key: credential for the server, never shown.
    """

    name: str
    base_url: str
    engine: str = "generic"
    model: str | None = None
    api_key: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A model that tenants can name, and where it runs.

    Attributes:
        backends: in order of preference, never empty.
        classes: token classes that its routes can yield (chat: input, cached_input, output;
            embeddings: input).
        created_at_us: when it was registered, in µs since 1970 UTC; shown by the model list.
    """

    id: int
    name: str
    backends: tuple[Backend, ...]
    classes: frozenset[TokenClass]
    created_at_us: int = 0
