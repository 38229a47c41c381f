"""What a request can cost at most, before anything is known of its answer.

Decides: how many tokens a prompt and an answer can have, and the highest price of them. A byte is
never more than one token, and what a chat template adds is bounded. Does not decide whether that
much is left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from billing.admission.amounts import Rates, pico
from billing.admission.backend import ServedModel
from billing.metering.unit_meter import UnitMeter

TEMPLATE_TOKENS: Final = 256
"""What a chat template can add beside the messages: its own system text, frames, tool syntax."""

MEDIA_TOKENS: Final = 4096
"""What one image, clip or document of a message can become, whatever its bytes."""

STORED_TOKENS: Final = 1 << 20
"""What a prompt can become with what a backend keeps, where the model's context is not told."""

ROOM_TOKENS: Final = 256
"""With less room than this beside the bound of its prompt, an answer is bounded by the context."""


def _no_units() -> Mapping[UnitMeter, int]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestSize:
    """What of a request bounds its cost.

    Attributes:
        prompt_bytes: of the body, as UTF-8.
        media_parts: images, clips and documents in it.
        max_tokens: the client's bound per choice; None: it set none.
        choices: answers that are generated, over all prompts of the request.
        generates: whether it generates text at all.
        stored_prompt: it goes on from an answer, or has a file, that a backend keeps: the
            prompt is longer than the body.
        units: the most that it can have beside tokens.
    """

    prompt_bytes: int
    media_parts: int = 0
    max_tokens: int | None = None
    choices: int = 1
    generates: bool = True
    stored_prompt: bool = False
    units: Mapping[UnitMeter, int] = field(default_factory=_no_units)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """What a request can come to.

    Attributes:
        prompt_tokens: at most, of every input class together.
        choice_tokens: generated per choice, at most.
        choices: answers that are generated.
        cover: the bound per choice that the engine must be given, because the client set none;
            None: the client did, or the model's context bounds the answer anyway.
        money: in 10⁻¹² of the major unit.
    """

    prompt_tokens: int
    choice_tokens: int
    choices: int
    cover: int | None
    money: int

    @property
    def tokens(self) -> int:
        """Of prompt and answers."""
        return self.prompt_tokens + self.choice_tokens * self.choices


def bound_of(
    rates: Rates, model: ServedModel, size: RequestSize, fallbacks: Sequence[ServedModel] = ()
) -> Bound:
    """The bound of a request.

    Args:
        rates: the highest prices that can apply.
        fallbacks: models that may answer in its place: what the context of the one cuts short,
            another one takes whole.
    """
    prompt = max(_prompt(each, size) for each in (model, *fallbacks))
    choice, cover = _answer(model, size, _prompt(model, size))
    if size.generates and cover is None:
        choice = max(choice, *(_unspliced(each, size) for each in fallbacks), 0)
    return Bound(
        prompt_tokens=prompt,
        choice_tokens=choice,
        choices=size.choices,
        cover=cover,
        money=cost_of(rates, prompt=prompt, output=choice * size.choices, units=size.units),
    )


def cost_of(rates: Rates, *, prompt: int, output: int, units: Mapping[UnitMeter, int]) -> int:
    """The most that so many tokens can cost, whichever classes the prompt's are of."""
    highest = max(rates.input, rates.cached_input, rates.cache_write)
    beside = sum(rates.units.get(unit, 0) * count for unit, count in units.items())
    return pico(rates.request + highest * prompt + rates.output * output + beside)


def _prompt(model: ServedModel, size: RequestSize) -> int:
    prompt = size.prompt_bytes + TEMPLATE_TOKENS + MEDIA_TOKENS * size.media_parts
    if size.stored_prompt:
        return model.context or max(prompt, STORED_TOKENS)
    return prompt if model.context is None else min(prompt, model.context)


def _unspliced(model: ServedModel, size: RequestSize) -> int:
    """What a choice has at most by the client's bound, or by none."""
    if size.max_tokens is None:
        return model.context or model.max_output
    return size.max_tokens if model.context is None else min(size.max_tokens, model.context)


def _answer(model: ServedModel, size: RequestSize, prompt: int) -> tuple[int, int | None]:
    if not size.generates:
        return 0, None
    if size.max_tokens is not None:
        return _unspliced(model, size), None
    if model.context is None:
        return model.max_output, model.max_output
    room = model.context - prompt
    if room < ROOM_TOKENS:
        # The prompt's bound is far above its tokens: a cover this small would cut good answers.
        return model.context, None
    cover = min(model.max_output, room)
    return cover, cover
