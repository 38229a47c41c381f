"""Where an answer says its usage and its service tier, and what llama.cpp says beside.

Decides: which text is the usage object of an answer or a chunk, and which is the name of a tier.
Does not decide what its figures mean (`usage.py`), nor which tier a name stands for.
"""

from __future__ import annotations

import re

import msgspec
from msgspec import UNSET, UnsetType

from billing.engines.odd_json import read_odd
from billing.metering.request_event import UNREADABLE_TIER

_TIER = re.compile(rb'"([A-Za-z0-9_.-]{1,64})"')
_NO_TIER = frozenset({b"", b"null", b'""'})
_SAYS_CACHED = re.compile(rb'"cached_tokens": ?[0-9]')
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
    service_tier: msgspec.Raw = msgspec.Raw(b"")


_ANSWER = msgspec.json.Decoder(_Answer)
_TIMINGS = msgspec.json.Decoder(Timings)


def with_timings(usage: msgspec.Raw, timings: msgspec.Raw | UnsetType) -> msgspec.Raw:
    """A usage object, with the cached tokens that llama.cpp says beside it, in its `timings`.

    Since b6400; later ones say them in the usage object too, and then that counts.
    """
    if timings is UNSET or _SAYS_CACHED.search(bytes(usage)):
        return usage
    try:
        cached = _TIMINGS.decode(timings).cache_n
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return usage
    text = bytes(usage)
    if not isinstance(cached, int) or cached <= 0 or not _HAS_MEMBERS.match(text):
        return usage
    return msgspec.Raw(b'%b,"timings":{"cache_n":%d}}' % (text[:-1], cached))


def tier_named(member: bytes | msgspec.Raw) -> str:
    """The name in a `service_tier` member, which is JSON text or empty; '' where there is none."""
    text = bytes(member)
    name = _TIER.fullmatch(text)
    if name is not None:
        return name[1].decode()
    return "" if text in _NO_TIER else UNREADABLE_TIER


def usage_of(answer: bytes) -> msgspec.Raw | None:
    """The usage object of a whole (not streamed) answer, as JSON text; None if there is none."""
    found = read_odd(_ANSWER, answer)
    return None if found is None else _usage(found)


def usage_and_tier_of(answer: bytes) -> tuple[msgspec.Raw | None, str]:
    """As `usage_of`, and the service tier that stands beside it; '' for none."""
    found = read_odd(_ANSWER, answer)
    return (None, "") if found is None else (_usage(found), tier_named(found.service_tier))


def _usage(found: _Answer) -> msgspec.Raw | None:
    if found.usage is UNSET or bytes(found.usage) == b"null":
        return None
    return with_timings(found.usage, found.timings)
