"""A failure that is kept is told again as what it is, without the frames that it passed."""

from __future__ import annotations

import pytest

from api.proxy.failures import anew
from api.proxy.openai_errors import ClientLeft
from billing.errors import InvalidInput, UpstreamTimeout


@pytest.mark.parametrize(
    "kept",
    [
        ClientLeft("The client left."),
        UpstreamTimeout("Too late."),
        InvalidInput("Cannot be read.", field="tools", remedy="Send a list."),
        KeyError("usage"),
    ],
)
def test_a_failure_raised_anew_says_the_same_and_leaves_what_is_kept_alone(kept: Exception) -> None:
    for _ in range(2):
        with pytest.raises(type(kept)) as raised:
            raise anew(kept)
        assert raised.value is not kept
        assert (str(raised.value), vars(raised.value)) == (str(kept), vars(kept))
        assert kept.__traceback__ is None
