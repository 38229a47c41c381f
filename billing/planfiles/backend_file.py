"""Read which inference engines serve which models, from a YAML file or one line of text.

Decides the form only. Whether an engine answers, and what it serves where no model is named, is
found out at start-up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field

from billing.errors import ConfigurationError
from billing.planfiles.validation import Document, read_document
from billing.planfiles.yaml_source import YamlPath, YamlSource, read_yaml

DEFAULT_ENGINE = "generic"


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendModel:
    """A model as tenants name it, and as the engine does where the two differ."""

    name: str
    upstream: str | None = None
    kind: Literal["text", "embedding"] = "text"


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendSpec:
    """An inference engine as configured.

    Attributes:
        url: `http(s)://host[:port][/prefix]`, without `/v1`.
        engine: name of the adapter.
        models: what it serves; empty: ask it.
        api_key: credential for it, never shown.
    """

    name: str
    url: str
    engine: str
    models: tuple[BackendModel, ...]
    api_key: str | None = field(default=None, repr=False)


class _ModelDocument(Document):
    """A model of a backend."""

    name: str
    upstream: str | None = None
    kind: Literal["text", "embedding"] = "text"


class _BackendDocument(Document):
    """One inference engine."""

    name: str
    url: str
    engine: str = DEFAULT_ENGINE
    api_key_env: str | None = None
    models: list[_ModelDocument] = Field(default_factory=list[_ModelDocument])


class _BackendsDocument(Document):
    """The engines of a deployment."""

    backends: list[_BackendDocument]


def read_backends(
    text: str, *, engines: frozenset[str], environment: Mapping[str, str]
) -> tuple[BackendSpec, ...]:
    """Read a backends file.

    Args:
        engines: names of the adapters that exist.
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
        models=tuple(
            BackendModel(name=model.name, upstream=model.upstream, kind=model.kind)
            for model in backend.models
        ),
        api_key=api_key,
    )


def _is_url(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme in {"http", "https"} and bool(parts.hostname)


def _without_version(url: str) -> str:
    """People paste the address that they give to the OpenAI SDK, which ends in /v1."""
    return url.rstrip("/").removesuffix("/v1")
