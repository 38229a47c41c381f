"""Backends files: what they may say, and where a mistake is."""

from __future__ import annotations

from textwrap import dedent

import pytest

from api.proxy.control.served_models import served_models
from billing.admission.backend import ModelKind
from billing.engines.capabilities import ENGINE_NAMES, engine_named
from billing.errors import ConfigurationError, InvalidPlan
from billing.metering.token_class import TokenClass
from billing.metering.unit_meter import UnitMeter
from billing.operations.deployment import configured_backends
from billing.planfiles.backend_file import BackendModel, BackendSpec, read_backends
from billing.settings import Settings

ENGINES = frozenset({"vllm", "generic", "nim"})
SALTED = frozenset({"vllm", "nim"})

FULL = """
backends:
  - name: b1
    url: http://10.0.0.1:8000/v1
    engine: vllm
    weight: 3
    max_in_flight: 64
    draining: true
    timeouts: {connect_ms: 500, first_byte_ms: 30000, stalled_ms: 9000}
    stores: [responses, files]
    media_hosts: [Media.Example.com]
    cache_salt: true
    metrics_url: http://10.0.0.1:9000/metrics
    health_path: /healthz
    models:
      - {name: big, upstream: org/big, max_output: 2048, context: 8192, attempts: 2, fallbacks: [small]}
      - {name: small}
      - {name: embed, kind: embedding}
  - name: b2
    url: http://10.0.0.2:8000
    models: [{name: big}]
"""  # noqa: E501  # one line per model, as people write them


def read(text: str) -> tuple[BackendSpec, ...]:
    return read_backends(dedent(text), engines=ENGINES, salted_engines=SALTED, environment={})


def test_everything_that_a_file_can_say_reaches_the_models():
    big, small, embed = served_models(read(FULL))
    one, two = big.backends
    assert (one.name, one.base_url, one.model, one.weight) == (
        "b1",
        "http://10.0.0.1:8000",
        "org/big",
        3,
    )
    assert (one.max_in_flight, one.draining, one.cache_salt) == (64, True, True)
    assert (one.connect_ms, one.first_byte_ms, one.stalled_ms) == (500, 30_000, 9_000)
    assert one.stores == {"responses", "files"}
    assert one.media_hosts == {"media.example.com"}
    assert (one.metrics_url, one.health_path) == ("http://10.0.0.1:9000/metrics", "/healthz")
    assert (two.weight, two.max_in_flight, two.draining, two.connect_ms) == (1, None, False, None)
    assert (two.metrics_url, two.health_path) == ("http://10.0.0.2:8000/metrics", None)
    assert (big.max_output, big.context, big.attempts, big.fallbacks) == (2048, 8192, 2, ("small",))
    assert (small.max_output, small.context, small.attempts, small.fallbacks) == (4096, None, 3, ())
    assert (embed.kind, embed.classes) == (ModelKind.EMBEDDING, {TokenClass.INPUT})


def test_tokens_written_to_a_cache_are_a_class_only_where_the_file_says_so():
    paid, free = served_models(
        read(
            """
            backends:
              - name: b1
                url: http://10.0.0.1:8000
                models: [{name: paid, cache_write: true}, {name: free, cache_write: false}]
              - {name: b2, url: "http://10.0.0.2:8000", models: [{name: paid}]}
            """
        )
    )
    assert paid.classes == frozenset(TokenClass)
    assert free.classes == frozenset(TokenClass) - {TokenClass.CACHE_WRITE}
    with pytest.raises(InvalidPlan) as refused:
        read(
            """
            backends:
              - {name: b, url: "http://b", models: [{name: e, kind: embedding, cache_write: true}]}
            """
        )
    assert "cache_write" in (refused.value.field or "")


@pytest.mark.parametrize(
    ("kind", "units"),
    [
        ("rerank", {UnitMeter.SEARCHES}),
        ("audio", {UnitMeter.AUDIO_MS}),
        ("speech", {UnitMeter.CHARACTERS}),
        ("image", {UnitMeter.IMAGES}),
        ("text", set()),
    ],
)
def test_a_kind_says_what_is_counted(kind, units):
    (model,) = served_models(
        [
            BackendSpec(
                name="b", url="http://b", engine="nim", models=(BackendModel(name="m", kind=kind),)
            )
        ]
    )
    assert (model.kind, model.units) == (kind, units)
    assert model.backends[0].health_path == "/v1/health/ready"


@pytest.mark.parametrize(
    ("member", "field"),
    [
        ("weight: 0", "weight"),
        ("weight: 1.5", "weight"),
        ("max_in_flight: 0", "max_in_flight"),
        ("draining: maybe", "draining"),
        ("timeouts: {connect_ms: 0}", "connect_ms"),
        ("timeouts: {read_ms: 1}", "read_ms"),
        ("stores: [prompts]", "stores"),
        ("media_hosts: ['http://x/']", "media_hosts"),
        ("metrics_url: /metrics", "metrics_url"),
        ("health_path: health", "health_path"),
        ("cache_salt: true", "cache_salt"),
        ("models: [{name: m, attempts: 0}]", "attempts"),
        ("models: [{name: m, attempts: 11}]", "attempts"),
        ("models: [{name: m, kind: video}]", "kind"),
        ("models: [{name: m, max_output: -1}]", "max_output"),
    ],
)
def test_mistakes_are_refused_by_line_and_field(member, field):
    with pytest.raises(InvalidPlan) as refusal:
        read(f"backends:\n  - name: b\n    url: http://b\n    {member}\n")
    assert field in str(refusal.value.field)
    assert refusal.value.line == 4


def spec(name: str, *models: BackendModel) -> BackendSpec:
    return BackendSpec(name=name, url=f"http://{name}", engine="vllm", models=models)


@pytest.mark.parametrize(
    ("first", "second", "field"),
    [
        (BackendModel(name="m", max_output=1), BackendModel(name="m", max_output=2), "max_output"),
        (BackendModel(name="m", context=1), BackendModel(name="m", context=2), "context"),
        (BackendModel(name="m", attempts=1), BackendModel(name="m", attempts=2), "attempts"),
        (
            BackendModel(name="m", fallbacks=("n",)),
            BackendModel(name="m", fallbacks=()),
            "fallbacks",
        ),
        (BackendModel(name="m"), BackendModel(name="m", kind="embedding"), "kind"),
    ],
)
def test_backends_of_a_pool_that_contradict_each_other_are_refused(first, second, field):
    with pytest.raises(ConfigurationError) as refusal:
        served_models([spec("a", first), spec("b", second), spec("c", BackendModel(name="n"))])
    assert str(refusal.value.field).endswith(field)


@pytest.mark.parametrize(
    "models",
    [
        [BackendModel(name="m", fallbacks=("absent",))],
        [BackendModel(name="m", fallbacks=("m",))],
        [BackendModel(name="m", fallbacks=("e",)), BackendModel(name="e", kind="embedding")],
        [BackendModel(name="m", fallbacks=("n",)), BackendModel(name="n", fallbacks=("m",))],
        [BackendModel(name="m", fallbacks=("n",)), BackendModel(name="n", fallbacks=("absent",))],
    ],
)
def test_a_fallback_that_is_absent_of_another_kind_or_leads_back_is_refused(models):
    with pytest.raises(ConfigurationError) as refusal:
        served_models([spec("a", *models)])
    assert refusal.value.field == "backends.models.fallbacks"


@pytest.mark.parametrize("engine", sorted(ENGINES))
@pytest.mark.parametrize("salt", [True, False])
def test_caches_are_kept_apart_only_by_engines_that_can(engine, salt):
    said = f"""
        backends:
          - name: b
            url: http://b
            engine: {engine}
            cache_salt: {str(salt).lower()}
        """
    if not salt or engine in SALTED:
        (backend,) = read(said)
        assert backend.cache_salt is salt
        return
    with pytest.raises(InvalidPlan) as refusal:
        read(said)
    assert (refusal.value.line, "cache_salt" in str(refusal.value.field)) == (6, True)
    assert "nim, vllm" in str(refusal.value.remedy)


@pytest.mark.parametrize("engine", sorted(ENGINE_NAMES))
def test_the_start_refuses_a_salt_that_the_engine_does_not_take(tmp_path, engine):
    backends = tmp_path / "backends.yaml"
    backends.write_text(
        f"backends: [{{name: b, url: 'http://b', engine: {engine}, cache_salt: true}}]"
    )
    settings = Settings(backends=str(backends))
    if engine_named(engine).cache_salt:
        assert configured_backends(settings)[0].cache_salt
        return
    with pytest.raises(InvalidPlan, match="cache_salt"):
        configured_backends(settings)
