"""Ratios between contenders that take turns on a machine whose speed changes."""

from __future__ import annotations

from tests.benchmarks.report import Figure
from tests.benchmarks.turns import in_turns


def test_neighbours_go_first_by_turns() -> None:
    order: list[str] = []
    measures = {name: lambda name=name: order.append(name) for name in ("relay", "proxy")}
    found = in_turns(measures, 3)
    assert order == ["relay", "proxy", "proxy", "relay", "relay", "proxy"]
    assert found == {"relay": [None] * 3, "proxy": [None] * 3}


def test_a_slow_phase_that_both_met_changes_no_ratio() -> None:
    slowdown = (1.0, 1.0, 1.6, 1.6, 1.0)
    relay = Figure.of_turns("relay", [10 * slow for slow in slowdown], "µs")
    proxy = Figure.of_turns("proxy", [30 * slow for slow in slowdown], "µs", baseline="relay")
    assert proxy.beside(relay) == (3, [3, 3])
    assert proxy.spread == [30, 48]


def test_a_ratio_is_the_median_of_neighbours_not_of_medians() -> None:
    relay = Figure.of_turns("relay", [10, 16, 16], "µs")
    proxy = Figure.of_turns("proxy", [30, 30, 48], "µs", baseline="relay")
    assert proxy.beside(relay) == (3, [2.44, 3])


def test_single_values_have_a_ratio_and_no_spread() -> None:
    relay, proxy = (Figure.of_turns("any", [value], "MiB") for value in (20.0, 50.0))
    assert proxy.beside(relay) == (2.5, None)
    assert proxy.spread is None
    assert proxy.beside(None) == (None, None)
