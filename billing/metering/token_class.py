"""Token classes: the disjoint kinds of token that a price can name.

Decides: which classes exist and which built-in meter counts each. Engines report overlapping
figures (OpenAI's prompt tokens include the cached ones); adapters hand over disjoint counts, so
that a token is in exactly one class and is priced once. `reasoning` is part of `output`: it is
kept for information and never priced beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class TokenClass(StrEnum):
    """A kind of token that is priced apart from the others."""

    INPUT = "input"
    CACHED_INPUT = "cached_input"
    CACHE_WRITE = "cache_write"
    OUTPUT = "output"

    @property
    def meter(self) -> str:
        """Code of the built-in meter that counts this class."""
        return f"tokens.{self.value}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCounts:
    """Disjoint token counts of one operation, in tokens.

    Attributes:
        input: prompt tokens computed afresh.
        cached_input: prompt tokens read from a prefix cache.
        cache_write: prompt tokens written to a cache that is priced for it.
        output: generated tokens, reasoning included.
        reasoning: the part of `output` spent on reasoning; information only.
    """

    input: int = 0
    cached_input: int = 0
    cache_write: int = 0
    output: int = 0
    reasoning: int = 0

    @property
    def is_zero(self) -> bool:
        """Nothing that could be billed."""
        return not (self.input or self.cached_input or self.cache_write or self.output)

    def of(self, token_class: TokenClass) -> int:
        """Tokens of one class."""
        match token_class:
            case TokenClass.INPUT:
                return self.input
            case TokenClass.CACHED_INPUT:
                return self.cached_input
            case TokenClass.CACHE_WRITE:
                return self.cache_write
            case TokenClass.OUTPUT:
                return self.output
