"""Where an answer says its usage, and what llama.cpp says of it beside.

Decides: which text is the usage object of an answer or a chunk. Does not decide what its figures
mean (`usage.py`).
"""

from __future__ import annotations

import re

import msgspec
from msgspec import UNSET, UnsetType

from billing.engines.odd_json import read_odd

_HAS_MEMBERS = re.compile(rb'\{\s*"')

Figure = int | None | UnsetType
"""A count; null and absent are two other things, both unsaid."""


class Timings(msgspec.Struct, frozen=True):
    """What llama.cpp measured of an answer.

    Attributes:
        cache_n: prompt tokens that came from its cache; they are part of the prompt's count.
    """

    cache_n: Figure = UNSET


class _Answer(msgspec.Struct, frozen=True):
    usage: msgspec.Raw | UnsetType = UNSET
    timings: msgspec.Raw | UnsetType = UNSET


_ANSWER = msgspec.json.Decoder(_Answer)
_TIMINGS = msgspec.json.Decoder(Timings)


def with_timings(usage: msgspec.Raw, timings: msgspec.Raw | UnsetType) -> msgspec.Raw:
    """A usage object, with the cached tokens that llama.cpp says beside it, in its `timings`.

    Since b6400; later ones say them in the usage object too, and then that counts.
    """
    if timings is UNSET or b'"prompt_tokens_details"' in bytes(usage):
        return usage
    try:
        cached = _TIMINGS.decode(timings).cache_n
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return usage
    text = bytes(usage)
    if not isinstance(cached, int) or cached <= 0 or not _HAS_MEMBERS.match(text):
        return usage
    return msgspec.Raw(b'%b,"timings":{"cache_n":%d}}' % (text[:-1], cached))


def usage_of(answer: bytes) -> msgspec.Raw | None:
    """The usage object of a whole (not streamed) answer, as JSON text; None if there is none."""
    found = read_odd(_ANSWER, answer)
    if found is None or found.usage is UNSET or bytes(found.usage) == b"null":
        return None
    return with_timings(found.usage, found.timings)
