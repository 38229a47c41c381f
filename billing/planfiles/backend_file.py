"""Read which inference engines serve which models, from a YAML file or one line of text.

Decides the form only. Whether an engine answers, and what it serves where no model is named, is
found out at start-up.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field

from billing.errors import ConfigurationError
from billing.planfiles.validation import Document, read_document
from billing.planfiles.yaml_source import YamlPath, YamlSource, read_yaml

DEFAULT_ENGINE = "generic"

Kind = Literal["text", "embedding", "rerank", "audio", "speech", "image"]
Store = Literal["responses", "files", "batches"]

_PATH = re.compile(r"/[A-Za-z0-9._~/-]{0,200}")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")

_Positive = Annotated[int, Field(ge=1, le=10**9)]


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendModel:
    """A model as tenants name it, and as the engine does where the two differ.

    Attributes:
        kind: what it is for.
        fallbacks: models that are tried in this order when no backend of it answers.
        max_output: tokens that it generates at most per choice.
        context: tokens of prompt and answer together.
        attempts: how often one request is dispatched at most.
        cache_write: prompt tokens that its engine writes to a cache have a price of their own.
    """

    name: str
    upstream: str | None = None
    kind: Kind = "text"
    fallbacks: tuple[str, ...] | None = None
    max_output: int | None = None
    context: int | None = None
    attempts: int | None = None
    cache_write: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendSpec:
    """An inference engine as configured.

    Attributes:
        url: `http(s)://host[:port][/prefix]`, without `/v1`.
        engine: name of the adapter.
        models: what it serves; empty: ask it.
        api_key: credential for it, never shown.
        weight: its share of the requests beside the others of a model.
        max_in_flight: requests that it gets at a time from one process.
        draining: it gets nothing new.
        connect_ms, first_byte_ms, stalled_ms: its deadlines, where they are not the usual ones.
        stores: what it keeps for us.
        media_hosts: hosts that it may fetch media from.
        cache_salt: its prefix cache is kept apart per tenant.
        metrics_url: where its counters are read; None: at `/metrics` of its own address.
        health_path: where it says that it works; None: the usual one of its engine.
    """

    name: str
    url: str
    engine: str
    models: tuple[BackendModel, ...]
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


class _ModelDocument(Document):
    """A model of a backend."""

    name: str
    upstream: str | None = None
    kind: Kind = "text"
    fallbacks: list[str] | None = None
    max_output: _Positive | None = None
    context: _Positive | None = None
    attempts: Annotated[int, Field(ge=1, le=10)] | None = None
    cache_write: bool | None = None


class _TimeoutsDocument(Document):
    """Deadlines of one engine."""

    connect_ms: _Positive | None = None
    first_byte_ms: _Positive | None = None
    stalled_ms: _Positive | None = None


class _BackendDocument(Document):
    """One inference engine."""

    name: str
    url: str
    engine: str = DEFAULT_ENGINE
    api_key_env: str | None = None
    models: list[_ModelDocument] = Field(default_factory=list[_ModelDocument])
    weight: Annotated[int, Field(ge=1, le=1000)] = 1
    max_in_flight: _Positive | None = None
    draining: bool = False
    timeouts: _TimeoutsDocument = _TimeoutsDocument()
    stores: list[Store] = Field(default_factory=list[Store])
    media_hosts: list[str] = Field(default_factory=list[str])
    cache_salt: bool = False
    metrics_url: str | None = None
    health_path: str | None = None


class _BackendsDocument(Document):
    """The engines of a deployment."""

    backends: list[_BackendDocument]


def read_backends(
    text: str,
    *,
    engines: frozenset[str],
    salted_engines: frozenset[str],
    environment: Mapping[str, str],
) -> tuple[BackendSpec, ...]:
    """Read a backends file.

    Args:
        engines: names of the adapters that exist.
        salted_engines: those whose engines can keep prefix caches apart.
        environment: where `api_key_env` is looked up.

    Raises:
        InvalidPlan: the file is refused; names line, field and remedy.
    """
    source = read_yaml(text)
    document = read_document(_BackendsDocument, source)
    if not document.backends:
        raise source.refuse("no backends", path=("backends",), remedy="add one with its url")
    specs: list[BackendSpec] = []
    for position, backend in enumerate(document.backends):
        path: YamlPath = ("backends", position)
        _check_backend(backend, source, path, engines)
        _check_salt(backend, source, path, salted_engines)
        if backend.name in {spec.name for spec in specs}:
            raise source.refuse("this name is taken", path=(*path, "name"), remedy="rename it")
        specs.append(_spec(backend, source, path, environment))
    return tuple(specs)


def read_backend_line(line: str, *, engines: frozenset[str]) -> tuple[BackendSpec, ...]:
    """Read `[MODEL=]URL[#ENGINE]`, several of them separated by commas.

    Raises:
        ConfigurationError: another form, or an unknown engine.
    """
    known = ", ".join(sorted(engines))
    specs: list[BackendSpec] = []
    for position, item in enumerate(part.strip() for part in line.split(",")):
        address, _, engine = item.partition("#")
        model, separator, url = address.rpartition("=")
        if not _is_url(url) or (engine and engine not in engines):
            raise ConfigurationError(
                f"entry {position + 1} is not [MODEL=]URL[#ENGINE]",
                field="STEELYARD_BACKENDS",
                remedy=f"like llama=http://127.0.0.1:8000#vllm; engines: {known}",
            )
        specs.append(
            BackendSpec(
                name=f"backend-{position + 1}",
                url=_without_version(url),
                engine=engine or DEFAULT_ENGINE,
                models=(BackendModel(name=model),) if separator else (),
            )
        )
    return tuple(specs)


def _check_backend(
    backend: _BackendDocument, source: YamlSource, path: YamlPath, engines: frozenset[str]
) -> None:
    if not _is_url(backend.url):
        raise source.refuse("not a URL", path=(*path, "url"), remedy="like http://127.0.0.1:8000")
    if backend.engine not in engines:
        raise source.refuse(
            "unknown engine", path=(*path, "engine"), remedy=f"use {', '.join(sorted(engines))}"
        )
    if backend.metrics_url is not None and not _is_url(backend.metrics_url):
        raise source.refuse(
            "not a URL", path=(*path, "metrics_url"), remedy="like http://127.0.0.1:8000/metrics"
        )
    if backend.health_path is not None and not _PATH.fullmatch(backend.health_path):
        raise source.refuse("not a path", path=(*path, "health_path"), remedy="like /health")
    for position, model in enumerate(backend.models):
        if model.cache_write and model.kind != "text":
            raise source.refuse(
                f"a model of kind {model.kind} writes no prompt to a cache",
                path=(*path, "models", position, "cache_write"),
                remedy="leave it out",
            )
    for position, host in enumerate(backend.media_hosts):
        if not _HOST.fullmatch(host):
            raise source.refuse(
                "not the name of a host",
                path=(*path, "media_hosts", position),
                remedy="like media.example.com, without scheme and port",
            )


def _check_salt(
    backend: _BackendDocument, source: YamlSource, path: YamlPath, salted_engines: frozenset[str]
) -> None:
    """An operator who asks for caches apart must not get one that all tenants share."""
    if backend.cache_salt and backend.engine not in salted_engines:
        raise source.refuse(
            f"the engine {backend.engine} takes no cache_salt",
            path=(*path, "cache_salt"),
            remedy=f"leave it out, or use {', '.join(sorted(salted_engines))}",
        )


def _spec(
    backend: _BackendDocument, source: YamlSource, path: YamlPath, environment: Mapping[str, str]
) -> BackendSpec:
    api_key = None
    if backend.api_key_env is not None:
        api_key = environment.get(backend.api_key_env)
        if api_key is None:
            raise source.refuse(
                "this environment variable is not set",
                path=(*path, "api_key_env"),
                remedy="set it, or leave the member out",
            )
    return BackendSpec(
        name=backend.name,
        url=_without_version(backend.url),
        engine=backend.engine,
        models=tuple(_model(model) for model in backend.models),
        api_key=api_key,
        weight=backend.weight,
        max_in_flight=backend.max_in_flight,
        draining=backend.draining,
        connect_ms=backend.timeouts.connect_ms,
        first_byte_ms=backend.timeouts.first_byte_ms,
        stalled_ms=backend.timeouts.stalled_ms,
        stores=frozenset(backend.stores),
        media_hosts=frozenset(host.lower() for host in backend.media_hosts),
        cache_salt=backend.cache_salt,
        metrics_url=backend.metrics_url,
        health_path=backend.health_path,
    )


def _model(model: _ModelDocument) -> BackendModel:
    return BackendModel(
        name=model.name,
        upstream=model.upstream,
        kind=model.kind,
        fallbacks=None if model.fallbacks is None else tuple(model.fallbacks),
        max_output=model.max_output,
        context=model.context,
        attempts=model.attempts,
        cache_write=model.cache_write,
    )


def _is_url(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme in {"http", "https"} and bool(parts.hostname)


def _without_version(url: str) -> str:
    """People paste the address that they give to the OpenAI SDK, which ends in /v1."""
    return url.rstrip("/").removesuffix("/v1")
