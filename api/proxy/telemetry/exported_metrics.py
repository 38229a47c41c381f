"""Metrics as OTLP's JSON: the process's histograms under OpenTelemetry's names.

Decides: what each is called and that its attributes are the operation, the model and, for
tokens, their direction; of stored objects, the method and the route. Sums are cumulative from the
start of the process. Buckets are the proxy's own, finer than those that the conventions propose, so
that both exports tell the same.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from api.proxy.telemetry import conventions as names
from api.proxy.telemetry.histograms import BOUNDS_US, Durations, Histogram
from api.proxy.telemetry.spans import in_seconds, text

_TOKEN_BOUNDS: Final = tuple(4**power for power in range(14))
_TOKEN_CELLS: Final = len(_TOKEN_BOUNDS) + 2
_SECOND_BOUNDS: Final = b",".join(in_seconds(bound) for bound in BOUNDS_US)
_CUMULATIVE: Final = 2


class Interval(NamedTuple):
    """What sums cover: from the start of the process to now, in µs since 1970 UTC."""

    began_at_us: int
    at_us: int


class TokenUsage:
    """Tokens per request, by route, model and direction."""

    def __init__(self) -> None:
        self._series: dict[tuple[str, str], tuple[list[int], list[int]]] = {}

    def add(self, route: str, model: str, input_tokens: int, output_tokens: int) -> None:
        """Count one request that was billed."""
        series = self._series.get((route, model))
        if series is None:
            # Behind the last bucket stands the sum.
            series = self._series[route, model] = [0] * _TOKEN_CELLS, [0] * _TOKEN_CELLS
        taken, given = series
        taken[bisect_left(_TOKEN_BOUNDS, input_tokens)] += 1
        taken[-1] += input_tokens
        if output_tokens:
            given[bisect_left(_TOKEN_BOUNDS, output_tokens)] += 1
            given[-1] += output_tokens

    def points(self, interval: Interval) -> Iterator[bytes]:
        """One of each series."""
        bounds = b",".join(b"%d" % bound for bound in _TOKEN_BOUNDS)
        for (route, model), directions in self._series.items():
            for direction, (*counts, total) in zip(("input", "output"), directions, strict=True):
                if any(counts):
                    attributes = [*_attributes(route, model), text(names.TOKEN_TYPE, direction)]
                    yield _point(attributes, counts, b"%d" % total, bounds, interval)


def metrics_of(durations: Durations, usage: TokenUsage, interval: Interval) -> bytes:
    """Every metric that has a series, with commas between them; empty for none."""
    told = [
        (names.TOKEN_USAGE, "{token}", list(usage.points(interval))),
        *(
            (name, "s", list(_points(histogram, interval, _attributes)))
            for name, histogram in (
                (names.REQUEST_DURATION, durations.total),
                (names.TIME_TO_FIRST_TOKEN, durations.first_token),
                (names.TIME_PER_OUTPUT_TOKEN, durations.inter_token),
                (names.QUEUE_DURATION, durations.queue),
                (names.OVERHEAD_DURATION, durations.overhead),
            )
        ),
        (names.SERVER_DURATION, "s", list(_points(durations.stored, interval, _asked))),
        (names.CLIENT_DURATION, "s", list(_points(durations.stored_calls, interval, _called))),
    ]
    return b",".join(
        b'{"name":"%b","unit":"%b","histogram":{"aggregationTemporality":%d,"dataPoints":[%b]}}'
        % (name.encode(), unit.encode(), _CUMULATIVE, b",".join(points))
        for name, unit, points in told
        if points
    )


def _points(
    histogram: Histogram, interval: Interval, attributes_of: Callable[[str, str], list[bytes]]
) -> Iterator[bytes]:
    for first, second, counts, sum_us in histogram.series():
        attributes = attributes_of(first, second)
        yield _point(attributes, counts, in_seconds(sum_us), _SECOND_BOUNDS, interval)


def _attributes(route: str, model: str) -> list[bytes]:
    return [
        text(names.OPERATION, names.OPERATION_OF[route]),
        text(names.PROVIDER, names.OWN_PROVIDER),
        text(names.REQUEST_MODEL, model),
        text(names.HTTP_ROUTE, route),
    ]


def _asked(method: str, route: str) -> list[bytes]:
    return [text(names.METHOD, method), text(names.HTTP_ROUTE, route)]


def _called(method: str, route: str) -> list[bytes]:
    return [text(names.METHOD, method), text(names.URL_TEMPLATE, route)]


def _point(
    attributes: Sequence[bytes],
    counts: Sequence[int],
    total: bytes,
    bounds: bytes,
    interval: Interval,
) -> bytes:
    return (
        b'{"attributes":[%b],"startTimeUnixNano":"%d","timeUnixNano":"%d","count":"%d","sum":%b,'
        b'"bucketCounts":[%b],"explicitBounds":[%b]}'
    ) % (
        b",".join(attributes),
        interval.began_at_us * 1000,
        interval.at_us * 1000,
        sum(counts),
        total,
        b",".join(b'"%d"' % count for count in counts),
        bounds,
    )
