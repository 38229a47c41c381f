"""The inference servers, and the models that they serve.

Decides: what is known of each. Does not decide which of them gets a request.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from billing.metering.token_class import TokenClass
from billing.metering.unit_meter import UnitMeter


class ModelKind(StrEnum):
    """What a model is for, and so which routes it can answer on."""

    TEXT = "text"
    EMBEDDING = "embedding"
    RERANK = "rerank"
    AUDIO = "audio"
    SPEECH = "speech"
    IMAGE = "image"


_READS = frozenset({TokenClass.INPUT})
_GENERATES = frozenset({TokenClass.INPUT, TokenClass.OUTPUT})
YIELDS: Final[Mapping[ModelKind, tuple[frozenset[TokenClass], frozenset[UnitMeter]]]] = {
    ModelKind.TEXT: (_GENERATES | {TokenClass.CACHED_INPUT}, frozenset()),
    ModelKind.EMBEDDING: (_READS, frozenset()),
    ModelKind.RERANK: (_READS, frozenset({UnitMeter.SEARCHES})),
    ModelKind.AUDIO: (_GENERATES, frozenset({UnitMeter.AUDIO_MS})),
    ModelKind.SPEECH: (frozenset(), frozenset({UnitMeter.CHARACTERS})),
    ModelKind.IMAGE: (_GENERATES, frozenset({UnitMeter.IMAGES})),
}
"""Token classes and units that models of a kind are charged for."""


def classes_of(kind: ModelKind, *, cache_write: bool) -> frozenset[TokenClass]:
    """Token classes that a model is charged for; without `cache_write` what is written to a cache
    is plain input, which most engines write for nothing."""
    classes, _ = YIELDS[kind]
    return classes | {TokenClass.CACHE_WRITE} if cache_write else classes


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """One inference server that serves a model.

    Attributes:
        base_url: `http://host:port` with an optional path prefix; `/v1/…` is appended to it.
        engine: name of the adapter (`vllm`, `sglang`, `llama_cpp`, `generic`, …).
        model: the server's own name of the model; None where it is the same as ours.
        api_key: credential for the server, never shown.
        weight: its share of the requests beside the others of a model, at least 1.
        max_in_flight: requests that it gets at a time, over all its models; None: no bound.
        draining: it gets nothing new.
        connect_ms, first_byte_ms, stalled_ms: its deadlines; None: those of the process.
        stores: what it keeps for us, of `responses`, `files`, `batches`.
        media_hosts: hosts that it may fetch media of a request from.
        cache_salt: its prefix cache is kept apart per tenant.
        metrics_url: where its own counters are read; None: not at all.
        health_path: where it says that it works; None: it does not say.
    """

    name: str
    base_url: str
    engine: str = "generic"
    model: str | None = None
    api_key: str | None = field(default=None, repr=False)
    weight: int = 1
    max_in_flight: int | None = None
    draining: bool = False
    connect_ms: int | None = None
    first_byte_ms: int | None = None
    stalled_ms: int | None = None
    stores: frozenset[str] = frozenset()
    media_hosts: frozenset[str] = frozenset()
    cache_salt: bool = False
    metrics_url: str | None = None
    health_path: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A model that tenants can name, and where it runs.

    Attributes:
        backends: in the order of the configuration, never empty: together they are its pool.
        classes: token classes that its routes can yield (chat: input, cached_input, output;
            embeddings: input).
        created_at_us: when it was registered, in µs since 1970 UTC; shown by the model list.
        units: meters beside tokens that its routes can yield.
        fallbacks: models of the same kind that are tried in this order when its pool fails.
        max_output: tokens that it generates at most per choice.
        context: tokens of prompt and answer together; None: not known.
        attempts: how often one operation is dispatched at most, fallbacks included.
    """

    id: int
    name: str
    backends: tuple[Backend, ...]
    classes: frozenset[TokenClass]
    created_at_us: int = 0
    kind: ModelKind = ModelKind.TEXT
    units: frozenset[UnitMeter] = frozenset()
    fallbacks: tuple[str, ...] = ()
    max_output: int = 4096
    context: int | None = None
    attempts: int = 3
