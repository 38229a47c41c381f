"""When the parts of one request happened, and how much of its time was ours.

Decides: what counts as whose. A backend has the time from the last byte that it was sent to the
next one of its answer, again and again, and the time of attempts that failed; a client has the
time in which it sent its body or did not read. All the rest is the proxy's own overhead: parsing,
admission, waiting for leases and for the journal, relaying, and every other request that the loop
served first. Monotonic µs; the parts that wait count themselves, the ends are noted here.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

QUEUE: Final = "steelyard.queue_us"
INTER_TOKEN: Final = "steelyard.itl_us"  # noqa: S105  # a name of a figure
OVERHEAD: Final = "steelyard.overhead_us"
FIGURES: Final = (QUEUE, INTER_TOKEN, OVERHEAD)


@dataclass(slots=True)
class Course:
    """Of one request.

    Attributes:
        received_us: its head was here.
        dispatched_us: the first attempt began; 0 before it.
        attempt_us: the attempt at hand began.
        first_byte_us: the first byte of the answer's body; 0 before it.
        heard_us: the last bytes of the answer.
        waited_us: for attempts that are over.
    """

    received_us: int
    dispatched_us: int = 0
    attempt_us: int = 0
    first_byte_us: int = 0
    heard_us: int = 0
    waited_us: int = 0

    def note_attempt(self, at_us: int) -> None:
        """An attempt begins."""
        self.attempt_us = at_us
        if not self.dispatched_us:
            self.dispatched_us = at_us

    def note_first_byte(self) -> None:
        """A part of the answer's body is here."""
        if not self.first_byte_us:
            self.first_byte_us = time.monotonic_ns() // 1000

    @property
    def queue_us(self) -> int:
        """From the head to the first dispatch."""
        return self.dispatched_us - self.received_us

    @property
    def ttft_us(self) -> int:
        """From the first dispatch to the first byte of the body; 0 if none came."""
        return self.first_byte_us - self.dispatched_us if self.first_byte_us else 0

    def inter_token_us(self, tokens: int) -> int | None:
        """Mean time between the tokens of a stream; None where there are not two."""
        if tokens < 2 or not self.first_byte_us:
            return None
        return max(0, self.heard_us - self.first_byte_us) // (tokens - 1)

    def figures(self, tokens: int, overhead_us: int) -> dict[str, int]:
        """What the usage event tells beside its times, by path; always all, in this order, because
        every new set of paths is a row of the ledger.

        Args:
            tokens: output of a stream; 0 if it is none.
        """
        return {
            QUEUE: self.queue_us,
            INTER_TOKEN: self.inter_token_us(tokens) or 0,
            OVERHEAD: overhead_us,
        }
