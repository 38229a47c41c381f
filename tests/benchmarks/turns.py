"""Contenders measured by turns, so that a machine that is slower for a while is slower for all.

Every other round goes backwards: whoever went last goes first, so that none has its turn later than
its neighbours for the whole run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from tests.benchmarks.proxy_world import Server
from tests.benchmarks.report import Figure

TURNS = 9

Found = TypeVar("Found")


@dataclass(slots=True)
class Contender:
    """A way to the engines.

    Attributes:
        servers: by engine.
        answers: what it has answered so far.
    """

    name: str
    servers: dict[str, Server]
    answers: int = 0
    figures: list[Figure] = field(default_factory=list[Figure])

    def add(
        self, what: str, found: Sequence[float], unit: str, *, beside: str = "relay.{what}"
    ) -> None:
        """What its turns found, beside what another figure's found in the same rounds.

        Args:
            beside: name of that figure; empty: none.
        """
        name, baseline = f"{self.name}.{what}", beside.format(what=what)
        compared = baseline != name and self.name != "direct"
        self.figures.append(
            Figure.of_turns(name, found, unit, baseline=(compared and baseline) or None)
        )


def in_turns(
    measures: Mapping[str, Callable[[], Found]], turns: int = TURNS
) -> dict[str, list[Found]]:
    """Call each so many times, neighbours one after the other; what each call found, by name."""
    found: dict[str, list[Found]] = {name: [] for name in measures}
    names = list(measures)
    for number in range(turns):
        for name in reversed(names) if number % 2 else names:
            found[name].append(measures[name]())
    return found
