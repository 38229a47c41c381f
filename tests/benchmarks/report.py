"""One shape for every benchmark's result: a table, and build/bench/NAME.json."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

FOLDER = Path(__file__).resolve().parents[2] / "build" / "bench"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured number.

    Attributes:
        baseline: name of the figure of the same run that it is compared with.
    """

    name: str
    value: float
    unit: str
    baseline: str | None = None


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
    values = {figure.name: figure.value for figure in figures}
    rows = {}
    table = Table(title=f"{name}: {machine()}")
    for heading in ("figure", "value", "unit", "baseline", "ratio"):
        table.add_column(heading, justify="right" if heading in {"value", "ratio"} else "left")
    for figure in figures:
        ratio = None
        if figure.baseline is not None and values[figure.baseline]:
            ratio = round(figure.value / values[figure.baseline], 2)
        rows[figure.name] = {
            "value": round(figure.value, 2),
            "unit": figure.unit,
            "baseline": figure.baseline,
            "ratio": ratio,
        }
        shown = f"{figure.value:,.1f}" if figure.value < 1000 else f"{figure.value:,.0f}"
        table.add_row(
            figure.name,
            shown,
            figure.unit,
            figure.baseline or "",
            "" if ratio is None else f"{ratio}",
        )
    Console(width=110).print(table)
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{name}.json"
    path.write_text(json.dumps({"machine": machine(), "figures": rows}, indent=1) + "\n")
    return path
