"""Means of a grid of measurements over data sets and seeds, with their intervals; curves, sizes and costs.

Everything is of the data sets and seeds that all compared points have: `common` says which, and what is left out.
Accuracies are percent; numbers have four decimals.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from mmlop.evaluation import rounded
from mmlop.grids.measurements import Measurement
from mmlop.protocols import BASE_TO_NOVEL, FEW_SHOT

METRICS = ("base", "novel", "hm", "accuracy", "ece_base", "ece_novel", "ece")  # in the order of every result
LEVEL = 0.95  # of every interval

Key = TypeVar("Key", bound=Hashable)
Array = NDArray[np.float64]
Scores = Mapping[str, float]  # metric -> percent
Cells = dict[Key, dict[tuple[str, int], Scores]]  # of every compared thing, by data set and seed


# ---- what is compared ----


@dataclass(frozen=True)
class Common:
    """What all compared points have been measured on."""

    datasets: tuple[str, ...]
    seeds: tuple[int, ...]  # none: some points have no seed in common, so nothing can be compared
    left_out: dict[str, tuple[str, ...]]  # data set -> the points that lack it, or some of the seeds on it


def common(measurements: Sequence[Measurement], protocol: str = BASE_TO_NOVEL) -> Common:
    """Data sets and seeds that every point has by ``protocol`` at its own shots; points without any such result are not
    compared."""
    return common_to(cells_of(measurements, protocol))


def cells_of(measurements: Sequence[Measurement], protocol: str) -> Cells[str]:
    cells: Cells[str] = {}
    for one in measurements:
        for seed, outcomes in one.seeds.items():
            for outcome in outcomes:
                if outcome.protocol == protocol and outcome.shots == one.shots:
                    cells.setdefault(one.point, {}).setdefault((one.dataset, seed), outcome.metrics)
    return cells


def common_to(cells: Mapping[Key, Mapping[tuple[str, int], Scores]]) -> Common:
    datasets = sorted({dataset for found in cells.values() for dataset, _ in found})
    seeds = sorted(set.intersection(*({seed for _, seed in found} for found in cells.values()))) if cells else []
    lacking = {
        d: tuple(str(key) for key, found in cells.items() if any((d, s) not in found for s in seeds)) for d in datasets
    }
    shared = tuple(d for d in datasets if seeds and not lacking[d])
    return Common(shared, tuple(seeds), {d: points for d, points in lacking.items() if d not in shared})


def arrays(found: Mapping[tuple[str, int], Scores], shared: Common) -> dict[str, Array]:
    """[D, S] of every metric, but for hm, that a point has throughout."""
    rows = [[found[d, s] for s in shared.seeds] for d in shared.datasets]
    metrics = [m for m in METRICS if m != "hm" and all(m in scores for row in rows for scores in row)]
    return {m: np.array([[scores[m] for scores in row] for row in rows]) for m in metrics} if rows else {}


def per_seed(arrays: Mapping[str, Array], weights: Array) -> dict[str, Array]:
    """Weighted means [R, S] over data sets, ``weights`` [R, D]; hm is the harmonic mean of those of base and novel."""
    found = {metric: weights @ values for metric, values in arrays.items()}
    if "base" in found and "novel" in found:
        product, total = 2 * found["base"] * found["novel"], found["base"] + found["novel"]
        found["hm"] = np.divide(product, total, out=np.zeros_like(total), where=total > 0)
    return {metric: found[metric] for metric in METRICS if metric in found}


# ---- means ----


@dataclass(frozen=True)
class Interval:
    """A mean over seeds. Standard deviation and 95 % confidence interval are None for one seed."""

    mean: float
    low: float | None
    high: float | None
    std: float | None
    n: int  # seeds


def interval(values: Sequence[float] | Array) -> Interval:
    """Student's t interval: ``mean ± t(0.975, n - 1) std / sqrt(n)``. It covers what seeds change (shots, initial factors,
    order), on these data sets."""
    n, centre = len(values), float(np.mean(values))
    if n == 1:
        return Interval(rounded(centre), None, None, None, 1)
    from scipy.stats import t

    std = float(np.std(values, ddof=1))
    half = float(t.ppf((1 + LEVEL) / 2, n - 1)) * std / math.sqrt(n)
    return Interval(rounded(centre), rounded(centre - half), rounded(centre + half), rounded(std), n)


def means(measurements: Sequence[Measurement], protocol: str = BASE_TO_NOVEL) -> dict[str, dict[str, Interval]]:
    """``{point: {metric: Interval}}`` over the common data sets and seeds.

    Per seed the mean over data sets, hm as the harmonic mean of the two means (as papers print it); then the mean over
    seeds. A metric that a point lacks somewhere is missing (novel and hm of closed-vocabulary methods). Empty where no data
    set is common to all points.
    """
    return _means(cells_of(measurements, protocol))


def _means(cells: Cells[Key]) -> dict[Key, dict[str, Interval]]:
    if not (shared := common_to(cells)).datasets:
        return {}
    alike = np.full((1, len(shared.datasets)), 1 / len(shared.datasets))
    over = {key: per_seed(arrays(found, shared), alike) for key, found in cells.items()}
    return {key: {metric: interval(values[0]) for metric, values in found.items()} for key, found in over.items()}


def per_dataset(
    measurements: Sequence[Measurement], protocol: str = BASE_TO_NOVEL
) -> dict[str, dict[str, dict[str, Interval]]]:
    """``{point: {data set: {metric: Interval}}}``: each measurement with all of its own seeds."""
    result: dict[str, dict[str, dict[str, Interval]]] = {}
    for one in measurements:
        for point, found in _means(cells_of([one], protocol)).items():
            result.setdefault(point, {})[one.dataset] = found
    return result


def curve(measurements: Sequence[Measurement], metric: str = "accuracy") -> dict[str, list[tuple[int, Interval]]]:
    """``{series: [(shots, Interval)]}`` by rising shots: `accuracy` of the few-shot protocol, any other metric of
    base-to-novel. A series is a point without the `shots=` in its name, or the method where nothing else is named. All
    values of all series are over the same data sets and seeds."""
    protocol = FEW_SHOT if metric == "accuracy" else BASE_TO_NOVEL
    cells: Cells[tuple[str, int]] = {}
    for one in measurements:
        named = [part for part in one.point.split(", ") if not part.startswith("shots=")]
        series = ", ".join(named) or one.method
        for seed, outcomes in one.seeds.items():
            for outcome in outcomes:
                if outcome.protocol == protocol:
                    cells.setdefault((series, outcome.shots), {})[one.dataset, seed] = outcome.metrics
    lines: dict[str, list[tuple[int, Interval]]] = {}
    for (series, shots), found in _means(cells).items():
        if metric in found:
            lines.setdefault(series, []).append((shots, found[metric]))
    return {series: sorted(line, key=lambda value: value[0]) for series, line in lines.items()}


# ---- size and cost ----


class Size(NamedTuple):
    """What a point trains, and what that brings."""

    point: str
    method: str
    trainable: int  # trained numbers, mean over data sets (of some methods they grow with the classes)
    base: Interval | None
    novel: Interval | None
    hm: Interval | None
    accuracy: Interval | None


class Cost(NamedTuple):
    """Means over data sets."""

    seconds: float  # wall, all seeds of a data set
    gigabytes: float | None  # peak memory; None where not measured


def trade_off(measurements: Sequence[Measurement], protocol: str = BASE_TO_NOVEL) -> list[Size]:
    """The points of `means` by rising number of trained numbers."""
    found = means(measurements, protocol)
    of = {point: _shared_files(measurements, point, protocol) for point in found}
    sizes = [
        Size(
            point,
            of[point][0].method,
            round(mean(one.trainable for one in of[point])),
            *map(metrics.get, ("base", "novel", "hm", "accuracy")),
        )
        for point, metrics in found.items()
    ]
    return sorted(sizes, key=lambda size: size.trainable)


def costs(measurements: Sequence[Measurement], protocol: str = BASE_TO_NOVEL) -> dict[str, Cost]:
    """``{point: Cost}`` of the points of `means`."""
    result = {}
    for point in means(measurements, protocol):
        files = _shared_files(measurements, point, protocol)
        memory = [one.gigabytes for one in files if one.gigabytes is not None]
        result[point] = Cost(rounded(mean(one.seconds for one in files)), rounded(mean(memory)) if memory else None)
    return result


def _shared_files(measurements: Sequence[Measurement], point: str, protocol: str = BASE_TO_NOVEL) -> list[Measurement]:
    shared = common(measurements, protocol).datasets
    return [one for one in measurements if one.point == point and one.dataset in shared]
