"""What is held before dispatch covers whatever the answer costs in the end."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from billing.admission.amounts import ATTO, PICO, Rates, charge, pico
from billing.admission.backend import ServedModel
from billing.admission.bound import RequestSize, bound_of
from billing.metering.token_class import TokenCounts
from billing.metering.unit_meter import UnitMeter

prices = st.integers(0, 10**15)
sizes = st.builds(
    RequestSize,
    prompt_bytes=st.integers(0, 10**6),
    media_parts=st.integers(0, 9),
    max_tokens=st.none() | st.integers(0, 10**5),
    choices=st.integers(1, 8),
    units=st.dictionaries(st.sampled_from(UnitMeter), st.integers(0, 10**6)),
)


@st.composite
def rates(draw: st.DrawFn) -> Rates:
    return Rates(
        request=draw(prices),
        input=draw(prices),
        cached_input=draw(prices),
        cache_write=draw(prices),
        output=draw(prices),
        units=draw(st.dictionaries(st.sampled_from(UnitMeter), prices)),
    )


@st.composite
def models(draw: st.DrawFn) -> ServedModel:
    return ServedModel(
        id=1,
        name="m",
        backends=(),
        classes=frozenset(),
        max_output=draw(st.integers(1, 10**5)),
        context=draw(st.none() | st.integers(1, 10**6)),
    )


@given(rates(), models(), sizes, st.data())
def test_hold_covers_the_final_price(
    prices: Rates, model: ServedModel, size: RequestSize, data: st.DataObject
) -> None:
    bound = bound_of(prices, model, size)
    prompt = data.draw(st.integers(0, bound.prompt_tokens))
    cached = data.draw(st.integers(0, prompt))
    written = data.draw(st.integers(0, prompt - cached))
    counts = TokenCounts(
        input=prompt - cached - written,
        cached_input=cached,
        cache_write=written,
        output=data.draw(st.integers(0, bound.choice_tokens * bound.choices)),
    )
    units = {unit: data.draw(st.integers(0, most)) for unit, most in size.units.items()}
    assert charge(prices, counts, units) <= bound.money


@given(models(), sizes)
def test_the_prompt_is_always_covered(model: ServedModel, size: RequestSize) -> None:
    """A token has at least one byte, and no prompt is longer than the context."""
    bound = bound_of(Rates(), model, size)
    if model.context is None:
        assert bound.prompt_tokens >= size.prompt_bytes
    else:
        assert bound.prompt_tokens >= min(model.context, size.prompt_bytes)
        assert bound.choice_tokens <= max(model.context, size.max_tokens or 0)


@given(models(), sizes)
def test_an_engine_that_is_given_the_cover_stays_in_its_context(
    model: ServedModel, size: RequestSize
) -> None:
    bound = bound_of(Rates(), model, size)
    if bound.cover is not None and model.context is not None:
        assert size.max_tokens is None
        assert bound.prompt_tokens + bound.cover <= model.context


@given(models(), models(), sizes)
def test_a_fallback_is_covered_as_if_it_had_been_asked(
    model: ServedModel, fallback: ServedModel, size: RequestSize
) -> None:
    """Its context can be longer: what the one model cuts short, it takes whole."""
    bound = bound_of(Rates(), model, size, [fallback])
    alone = bound_of(Rates(), fallback, size)
    assert bound.cover == bound_of(Rates(), model, size).cover
    assert bound.prompt_tokens >= alone.prompt_tokens
    if bound.cover is None:  # else its engine is given that
        assert bound.choice_tokens >= alone.choice_tokens


@given(st.integers(0, 10**40))
def test_rounding_is_up(atto: int) -> None:
    assert pico(atto) * (ATTO // PICO) - atto in range(ATTO // PICO)
