"""The refusal of what an engine would be asked for and nobody has judged."""

from __future__ import annotations

from billing.errors import InvalidInput


class UnsupportedParameter(InvalidInput):
    """A request member, or a value of one, that is not passed to engines."""

    code = "unsupported_parameter"
