"""Meters beside tokens: what images, audio, speech and rerank requests are counted in.

Decides: their names and in which whole numbers a request counts them. Does not decide which
engine's answer says how many.
"""

from __future__ import annotations

from decimal import Decimal
from enum import StrEnum

from billing.money import EXACT


class UnitMeter(StrEnum):
    """A built-in meter that is counted in whole numbers of its own unit.

    Audio is counted in milliseconds; the ledger's quantity of `audio.seconds` is that / 1000.
    """

    IMAGES = "images"
    AUDIO_MS = "audio.seconds"
    CHARACTERS = "speech.characters"
    SEARCHES = "rerank.searches"

    def quantity(self, counted: int) -> Decimal:
        """What the ledger keeps of a count, exactly."""
        if self is UnitMeter.AUDIO_MS:
            return Decimal(counted).scaleb(-3, context=EXACT)
        return Decimal(counted)
