"""How many tokens a prompt has at least, without counting them.

Decides: the lower bound that a cut stream is billed for its prompt when its engine had not said
the count yet. It is the text's bytes over the most bytes that a token had in the last answers
whose prompts the same model has counted; so no tokenizer is needed, and none runs between the
events of other streams. What cannot be judged by its length (pictures, sound) counts nothing.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Any, NamedTuple

import msgspec

from billing.admission.route import Route
from billing.engines.read_request import InferenceRequest

WINDOW = 256
UNLEARNED_PER_TOKEN = 8
LEAST_LEARNED_TOKENS = 64
MAX_RATIOS = 1_024
_MILLI = 1_000


class Ratio:
    """Bytes per token of one model's prompts: the most of the last WINDOW that were counted.

    While fewer have been counted, never less than UNLEARNED_PER_TOKEN; never less than 1.
    """

    __slots__ = ("_highest", "_learned")

    def __init__(self) -> None:
        self._learned = deque([UNLEARNED_PER_TOKEN * _MILLI] * WINDOW, maxlen=WINDOW)
        self._highest = UNLEARNED_PER_TOKEN * _MILLI

    def learn(self, prompt_bytes: int, prompt_tokens: int) -> None:
        """Take a prompt into account whose tokens the engine has counted.

        Short ones teach nothing: most of their tokens are the template's.
        """
        if prompt_bytes <= 0 or prompt_tokens < LEAST_LEARNED_TOKENS:
            return
        ratio = max(_MILLI, -(-prompt_bytes * _MILLI // prompt_tokens))
        left = self._learned[0]
        self._learned.append(ratio)
        if ratio >= self._highest:
            self._highest = ratio
        elif left == self._highest:
            self._highest = max(self._learned)

    def floor(self, prompt_bytes: int) -> int:
        """Tokens that a text of that length has at least."""
        return max(0, prompt_bytes) * _MILLI // self._highest


class Ratios:
    """The ratios of one process, by backend and model; the longest unused are forgotten."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, int], Ratio] = OrderedDict()

    def of(self, backend: str, model_id: int) -> Ratio:
        """The ratio of a model on a backend."""
        key = (backend, model_id)
        ratio = self._known.get(key)
        if ratio is None:
            ratio = self._known[key] = Ratio()
            if len(self._known) > MAX_RATIOS:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(key)
        return ratio


def prompt_floor(request: InferenceRequest, learned: Ratio) -> int:
    """A lower bound of a request's prompt tokens."""
    size = prompt_size(request)
    return size.token_ids + learned.floor(size.text_bytes)


def learn_prompt(request: InferenceRequest, learned: Ratio, prompt_tokens: int) -> None:
    """Learn from a prompt that its engine has counted, where it was text and nothing else."""
    size = prompt_size(request)
    if size.only_text:
        learned.learn(size.text_bytes, prompt_tokens)


class PromptSize(NamedTuple):
    """What of a prompt can be judged by its length.

    `only_text`: nothing else in the request makes prompt tokens, but for the template.
    """

    text_bytes: int
    token_ids: int
    only_text: bool


class _Part(msgspec.Struct, frozen=True):
    text: str | None = None


class _Message(msgspec.Struct, frozen=True):
    content: str | list[_Part] | None = None


_MESSAGES = msgspec.json.Decoder(str | list[_Message] | None)
_PROMPTS: dict[str, msgspec.json.Decoder[Any]] = {
    "messages": _MESSAGES,
    "input": _MESSAGES,
    "instructions": _MESSAGES,
    "system": msgspec.json.Decoder(str | list[_Part] | None),
    "prompt": msgspec.json.Decoder(str | list[str | int | list[int]] | None),
}
_OTHER_MEMBERS = frozenset(
    {"tools", "functions", "response_format", "documents", "chat_template_kwargs"}
)
_NOTHING = PromptSize(0, 0, only_text=False)


def prompt_size(request: InferenceRequest) -> PromptSize:
    """Judge a request's prompt by its length."""
    values = request.members.values
    if request.route is Route.EMBEDDINGS or "truncate_prompt_tokens" in values:
        return _NOTHING
    text = ids = 0
    only_text = values.keys().isdisjoint(_OTHER_MEMBERS)
    for name, decoder in _PROMPTS.items():
        raw = values.get(name)
        if raw is None:
            continue
        try:
            prompt = decoder.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return _NOTHING
        for piece in [prompt] if isinstance(prompt, str) else prompt or ():
            more, more_ids = _length(piece)
            only_text = only_text and more > 0 and _is_text(piece)
            text, ids = text + more, ids + more_ids
    return PromptSize(text, ids, only_text)


def _length(piece: _Message | _Part | str | int | list[int]) -> tuple[int, int]:
    """Bytes of text, and number of token ids."""
    match piece:
        case int():
            return 0, 1
        case list():
            return 0, len(piece)
        case str():
            return _bytes(piece), 0
        case _Part():
            return _bytes(piece.text), 0
        case _Message(content=list() as parts):
            return sum(_bytes(part.text) for part in parts), 0
        case _Message(content=content):
            return _bytes(content), 0


def _bytes(text: str | list[_Part] | None) -> int:
    if not isinstance(text, str):
        return 0
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _is_text(piece: _Message | _Part | str | int | list[int]) -> bool:
    parts = piece.content if isinstance(piece, _Message) else None
    return not isinstance(parts, list) or all(part.text for part in parts)
