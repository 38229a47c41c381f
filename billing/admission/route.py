"""The metered routes and the token classes that each can yield.

Decides: which kinds of request exist for metering. A path that is not here never reaches a
backend, so no route can serve tokens that nobody counts.
"""

from __future__ import annotations

from enum import StrEnum

from billing.metering.token_class import TokenClass


class Route(StrEnum):
    """A kind of inference request; its value is its path, which usage events record."""

    CHAT_COMPLETIONS = "/v1/chat/completions"
    COMPLETIONS = "/v1/completions"
    EMBEDDINGS = "/v1/embeddings"

    @property
    def generates(self) -> bool:
        """Whether answers carry generated tokens."""
        return self is not Route.EMBEDDINGS

    @property
    def classes(self) -> frozenset[TokenClass]:
        """Every class that an answer on this route may be charged for."""
        return _GENERATING if self.generates else _READING


_READING = frozenset({TokenClass.INPUT})
_GENERATING = frozenset(TokenClass)
