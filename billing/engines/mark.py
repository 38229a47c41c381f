"""Counts at one point of a stream, and how a stream can end."""

from __future__ import annotations

from enum import Enum, auto
from typing import NamedTuple

from billing.metering.token_class import TokenCounts


class Mark(NamedTuple):
    """Counts up to some event: prompt, cached and written part of it, completion, reasoning.

    A tuple, because one is made for every chunk of every stream.
    """

    prompt: int = 0
    cached: int = 0
    cache_write: int = 0
    completion: int = 0
    reasoning: int = 0

    def counts(self) -> TokenCounts:
        """As disjoint classes."""
        return TokenCounts(
            input=self.prompt - self.cached - self.cache_write,
            cached_input=self.cached,
            cache_write=self.cache_write,
            output=self.completion,
            reasoning=self.reasoning,
        )

    def raised(self, said: Mark) -> Mark:
        """The higher of each count; the parts of the prompt never exceed it.

        Where engines say the prompt again with other parts, the higher of each can be more than
        all of it: then both parts are those of the longer prompt, the newer of equal ones.
        """
        high = Mark(*map(max, self, said))
        if high.cached + high.cache_write <= high.prompt:
            return high
        whole = said if said.prompt >= self.prompt else self
        return high._replace(cached=whole.cached, cache_write=whole.cache_write)


NOTHING = Mark()


class Ending(Enum):
    """What told that a stream is over."""

    DONE = auto()
    """The end mark of its dialect."""
    ERROR = auto()
    """An error event: what was delivered before it is all there is."""
    BODY = auto()
    """The end of the body, and nothing else."""
