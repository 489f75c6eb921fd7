"""Grids as charts: means, accuracy against size, curves over shots, differences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from mmlop.grids import comparison
from mmlop.grids.comparison import Interval
from mmlop.grids.measurements import Measurement
from mmlop.grids.paired import Paired
from mmlop.grids.verdicts import Sign
from mmlop.page import charts
from mmlop.page.geometry import Chart, Point, Series
from mmlop.page.grid_tables import Differences, Means, bounds
from mmlop.page.naming import NAMES, numbered, titled

NAMED = 16  # points up to which their names find room in one plot


def of(
    found: Sequence[Measurement], protocol: str, means: Means, differences: Differences, signs: Sequence[Sign]
) -> Iterator[Chart]:
    series = numbered(found)
    headline = next((m for m in ("hm", "accuracy") if any(m in metrics for metrics in means.values())), None)
    if headline:
        rows = [(titled(p), [_point(series[p], metrics[headline])]) for p, metrics in means.items() if headline in metrics]
        yield _unkeyed(charts.rows(f"{NAMES[headline]}, mean over data sets, %", "%", rows))
        yield from _trade_off(found, protocol, headline)
    for metric in ("accuracy", "hm"):
        if lines := [line for line in comparison.curve(found, metric).items() if len(line[1]) > 1]:
            yield _curve(metric, lines, series)
    for metric in ("hm", "novel", "accuracy"):
        if rows := [(titled(p), [_difference(series[p], d[metric])]) for p, d in differences.items() if metric in d]:
            title = f"MMLoP minus each: {NAMES[metric]}, points"
            yield _unkeyed(charts.rows(title, "points", rows, zero=True, bars=True))

    here, told = Series("here", 0), Series("second-hand, eleven public data sets", 1)
    if rows := [
        (f"{sign.name}, {NAMES[sign.metric]}", [_difference(here, sign.here), Point(told, sign.published)])
        for sign in signs
        if sign.here is not None and sign.published is not None
    ]:
        yield charts.rows("What each part changes, points", "points", rows, zero=True, bars=True)


def _trade_off(found: Sequence[Measurement], protocol: str, metric: str) -> Iterator[Chart]:
    sizes = [(size, value) for size in comparison.trade_off(found, protocol) if (value := getattr(size, metric))]
    if len({size.trainable for size, _ in sizes}) > 1 and len(sizes) <= NAMED:
        series, name = numbered(found), NAMES[metric]
        points = [_point(series[size.point], value, size.trainable) for size, value in sizes]
        yield charts.scatter(
            f"{name[0].upper()}{name[1:]} against trained numbers", "trained numbers", f"{name}, %", points
        )


def _unkeyed(chart: Chart) -> Chart:
    """Without a legend, since each row has its name."""
    return replace(chart, legend=())


def _curve(metric: str, lines: Sequence[tuple[str, list[tuple[int, Interval]]]], known: Mapping[str, Series]) -> Chart:
    """A line is a point of the grid, looking as in the other charts, or several that differ in shots."""
    others = [name for name, _ in lines if name not in known and name != "mmlop"]
    own = {name: Series(titled(name), others.index(name) + 1 if name in others else 0) for name, _ in lines}
    series = {**own, **known}
    found = [[_point(series[name], value, shots) for shots, value in values] for name, values in lines]
    of = "all classes" if metric == "accuracy" else "base to novel"
    return charts.curves(f"{NAMES[metric]} by shots, {of}, %", "shots", "%", found, log=True)


def _point(series: Series, found: Interval, x: float = 0.0) -> Point:
    return Point.percent(series, found.mean, found.low, found.high, x)


def _difference(series: Series, found: Paired) -> Point:
    return Point(series, found.difference, *bounds(found))
