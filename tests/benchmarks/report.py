"""One shape for every benchmark's result: a table, and build/bench/NAME.json."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

FOLDER = Path(__file__).resolve().parents[2] / "build" / "bench"
TABLE_WIDTH = 130


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured number.

    Attributes:
        baseline: name of the figure of the same run that it is compared with.
        turns: what single turns found, in order; those of its baseline were their neighbours.
    """

    name: str
    value: float
    unit: str
    baseline: str | None = None
    turns: tuple[float, ...] = ()

    @classmethod
    def of_turns(
        cls, name: str, turns: Sequence[float], unit: str, *, baseline: str | None = None
    ) -> Figure:
        """The median of what turns found."""
        return cls(
            name=name,
            value=statistics.median(turns),
            unit=unit,
            baseline=baseline,
            turns=tuple(turns),
        )

    @property
    def spread(self) -> list[float] | None:
        """Lowest and highest quartile of what its turns found."""
        return _quartiles(self.turns)

    def beside(self, baseline: Figure | None) -> tuple[float | None, list[float] | None]:
        """Its ratio to its baseline, and the spread of the ratios turn by turn.

        The ratio is the median of those, where both were measured in turns: neighbours met the
        same phase of the machine, which medians over all turns need not have met.
        """
        if baseline is None or not baseline.value:
            return None, None
        if not self.turns or len(self.turns) != len(baseline.turns):
            return round(self.value / baseline.value, 2), None
        ratios = [own / other for own, other in zip(self.turns, baseline.turns, strict=True)]
        return round(statistics.median(ratios), 2), _quartiles(ratios)


def _quartiles(values: Sequence[float]) -> list[float] | None:
    if len(values) < 2:  # of one there are none
        return None
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return [round(low, 2), round(high, 2)]


def machine() -> str:
    """The machine in one line."""
    model = platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    python = platform.python_version()
    return f"{os.cpu_count()} x {model}, {platform.system()} {platform.release()}, Python {python}"


def publish(name: str, figures: list[Figure]) -> Path:
    """Print the table and write the file; returns its path."""
    named = {figure.name: figure for figure in figures}
    rows = {}
    table = Table(title=f"{name}: {machine()}")
    table.add_column("figure", no_wrap=True)
    table.add_column("value", justify="right")
    table.add_column("unit")
    table.add_column("baseline", overflow="fold")
    table.add_column("ratio", justify="right")
    for figure in figures:
        ratio, ratio_spread = figure.beside(named.get(figure.baseline or ""))
        rows[figure.name] = {
            "value": round(figure.value, 2),
            "spread": figure.spread,
            "unit": figure.unit,
            "baseline": figure.baseline,
            "ratio": ratio,
            "ratio_spread": ratio_spread,
        }
        table.add_row(
            figure.name,
            _with_spread(_shown(figure.value), map(_shown, figure.spread or ())),
            figure.unit,
            figure.baseline or "",
            "" if ratio is None else _with_spread(f"{ratio}", map(str, ratio_spread or ())),
        )
    if any(figure.turns for figure in figures):
        table.caption = "In brackets: lowest and highest quartile of turns, of ratios turn by turn."
    Console(width=TABLE_WIDTH).print(table)
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{name}.json"
    path.write_text(json.dumps({"machine": machine(), "figures": rows}, indent=1) + "\n")
    return path


def _shown(value: float) -> str:
    return f"{value:,.1f}" if value < 1000 else f"{value:,.0f}"


def _with_spread(shown: str, spread: Iterable[str]) -> str:
    between = " to ".join(spread)
    return f"{shown} ({between})" if between else shown
