"""The library of example plans, each rated with its usage: `examples/README.md`.

Decides: what that page shows. `make examples` writes it, and a test compares it, so that what the
examples say they cost is what they cost.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, localcontext
from zoneinfo import ZoneInfo

from billing.money import EXACT
from billing.period import Period
from billing.planfiles.meter_file import MeterFile, declared_by_code, read_meter, units_by_code
from billing.planfiles.plan_file import EXAMPLES, read_plan
from billing.planfiles.policy_examples import PAGE, page
from billing.planfiles.usage_tally import UsageTally, tally
from billing.rating.line import RatedLine, Rating
from billing.rating.pipeline import Slice, rate

README = EXAMPLES.joinpath("README.md")

_SCHEMA_LINE = "# yaml-language-server:"
_HEAD = """\
# Example plans

Made by `make examples`; a test compares it with what the program says. Every plan is rated for
November 2026 with the usage in `usage/`; meters that are not built in are in `meters/`. Copy one
with `steelyard plan example NAME`, check it with `steelyard plan check`.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A plan with a month of usage.

    Attributes:
        name: of its files.
        zone: whose clock its windows follow.
    """

    name: str
    zone: str = "UTC"


LIBRARY = (
    Example(name="public-tokens"),
    Example(name="enterprise-commit"),
    Example(name="reserved-throughput"),
    Example(name="gpu-hours", zone="Europe/Berlin"),
    Example(name="training-hours"),
    Example(name="colocation-kw", zone="Europe/Berlin"),
    Example(name="hybrid-outcome"),
    Example(name="prepaid"),
    Example(name="batch-share"),
    Example(name="batch-rest"),
)


def example_meters() -> tuple[MeterFile, ...]:
    """The meters that the examples count by."""
    paths = sorted(EXAMPLES.joinpath("meters").glob("*.yaml"))
    return tuple(read_meter(path.read_bytes()) for path in paths)


def rate_example(example: Example) -> Rating:
    """An example's month.

    Raises:
        InvalidInput: a file of the example is refused.
    """
    zone = ZoneInfo(example.zone)
    month = Period(
        start=datetime(2026, 11, 1, tzinfo=zone).astimezone(UTC),
        end=datetime(2026, 12, 1, tzinfo=zone).astimezone(UTC),
    )
    meters = declared_by_code(example_meters())
    plan = read_plan(EXAMPLES.joinpath(f"{example.name}.yaml").read_bytes(), meters=meters)
    usage = UsageTally(plan=plan, meters=meters, period=month, zone=zone)
    with EXAMPLES.joinpath("usage", f"{example.name}.jsonl").open(encoding="utf-8") as lines:
        quantities = tally(lines, usage)
    part = Slice(covered=month, zone=zone)
    return rate(plan, quantities, of=part, units=units_by_code(meters))


def readme() -> str:
    """The page."""
    return "\n".join((_HEAD, *(line for each in LIBRARY for line in _section(each))))


def _section(example: Example) -> Iterator[str]:
    rating = rate_example(example)
    code = rating.currency.code
    yield f"## {example.name}\n"
    yield f"[plan]({example.name}.yaml) · [usage](usage/{example.name}.jsonl)\n"
    yield f"{_comment(example)}\n"
    yield f"| line | description | quantity | amount ({code}) |"
    yield "|---|---|---:|---:|"
    for line in rating.lines:
        quantity = f"{line.quantity:,f} {line.unit}"
        yield f"| `{line.key}` | {line.description} | {quantity} | {line.amount.major():,f} |"
    with localcontext(EXACT):
        total = sum((line.amount.major() for line in rating.lines), Decimal(0))
    yield f"| | **total** | | **{total:,f}** |\n"
    yield "```text"
    for line in rating.lines:
        yield from _arithmetic(line)
    yield "```\n"


def _arithmetic(line: RatedLine) -> Iterator[str]:
    yield line.key
    for step in line.explanation:
        yield f"  {step.text}"


def _comment(example: Example) -> str:
    """The comment at the head of the plan file, as text."""
    words: list[str] = []
    for line in EXAMPLES.joinpath(f"{example.name}.yaml").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith(_SCHEMA_LINE):
            words.append(line.removeprefix("#").strip())
    return " ".join(words)


if __name__ == "__main__":
    README.write_text(readme(), encoding="utf-8")
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"wrote {README.name} and {PAGE.name}\n")
