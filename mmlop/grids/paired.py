"""Differences between the points of a grid, paired by data set and seed.

They are of the data sets and seeds that all points have, as the means are, so that the difference of two means is the mean
of the differences.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mmlop.errors import MmlopError, listing
from mmlop.evaluation import rounded
from mmlop.grids.comparison import LEVEL, Array, arrays, cells_of, common_to, interval, per_seed
from mmlop.grids.measurements import Measurement
from mmlop.protocols import BASE_TO_NOVEL

REFERENCE = "mmlop"
LEAST = 6  # data sets of a signed-rank test: with fewer, no outcome has p < 0.05


@dataclass(frozen=True)
class Paired:
    """One point minus another."""

    difference: float
    low: float | None  # main interval: over data sets and seeds; None for one data set
    high: float | None
    seeds_low: float | None  # beside it: over seeds, on these data sets; None for one seed
    seeds_high: float | None
    won: int  # data sets on which the mean over seeds is better (higher, of calibration errors lower)
    tied: int
    lost: int
    p_value: float | None  # two-sided exact signed-rank test over data sets, not corrected for the number of comparisons
    datasets: int
    seeds: int

    @property
    def clear(self) -> bool:
        """Whether the main interval (over seeds where there is no main one) leaves out 0."""
        low, high = (self.seeds_low, self.seeds_high) if self.low is None else (self.low, self.high)
        return low is not None and high is not None and (low > 0 or high < 0)


def paired(
    measurements: Sequence[Measurement],
    reference: str = REFERENCE,
    protocol: str = BASE_TO_NOVEL,
    draws: int = 10_000,
    seed: int = 0,
) -> dict[str, dict[str, Paired]]:
    """``{point: {metric: Paired}}``: the reference minus each other point, paired by data set and seed.

    The main interval is a bootstrap over data sets and, crossed with them, seeds (Owen, Ann. Appl. Stat. 2007): a claim
    about methods is about data sets of a kind, and differences vary more between data sets than between seeds. Seeds are
    drawn for all data sets alike, since a seed means the same initial factors everywhere. A percentile interval is too
    narrow with few data sets, so its tails are moved outwards as Student's t would (Hesterberg, Am. Stat. 2015). The t
    interval over seeds, beside it, does not tell whether another selection of data sets would agree. With normal effects on
    seven data sets and three seeds the main interval covers the truth in 95 to 99 % of cases (its tails not moved, in 89 to
    97 %), the t interval in 64 to 92 %.

    Raises MmlopError if there is no such reference.
    """
    cells = cells_of(measurements, protocol)
    if reference not in cells:
        raise MmlopError(f"There is no point {reference} to compare with, only: {listing(cells, reference) or 'none'}.")
    if not (shared := common_to(cells)).datasets:
        return {}
    own = arrays(cells[reference], shared)
    resamples = _resamples(len(shared.datasets), len(shared.seeds), draws, seed)
    others = {point: arrays(found, shared) for point, found in cells.items() if point != reference}
    return {point: _differences(own, other, resamples) for point, other in others.items()}


def _resamples(datasets: int, seeds: int, draws: int, seed: int) -> tuple[Array, Array]:
    """Weights [R, D] and [R, S] of draws with replacement."""
    rng = np.random.default_rng(seed)
    return tuple(rng.multinomial(n, np.full(n, 1 / n), size=draws) / n for n in (datasets, seeds))  # type: ignore[return-value]


def _differences(own: Mapping[str, Array], other: Mapping[str, Array], resamples: tuple[Array, Array]) -> dict[str, Paired]:
    by_dataset, by_seed = resamples
    count = by_dataset.shape[1]

    def minus(weights: Array) -> dict[str, Array]:
        ours, theirs = per_seed(own, weights), per_seed(other, weights)
        return {metric: values - theirs[metric] for metric, values in ours.items() if metric in theirs}

    whole, single, drawn = minus(np.full((1, count), 1 / count)), minus(np.eye(count)), minus(by_dataset)
    return {
        metric: _summary(whole[metric][0], single[metric].mean(axis=1), (drawn[metric] * by_seed).sum(axis=1), metric)
        for metric in whole
    }


def _summary(seeds: Array, datasets: Array, drawn: Array, metric: str) -> Paired:
    """From differences by seed [S], by data set [D] and of resamples [R]."""
    over_seeds, count = interval(seeds), len(datasets)
    low = high = None
    if count > 1:
        tail = _tail(count)
        low, high = (rounded(float(bound)) for bound in np.quantile(drawn, [tail, 1 - tail]))
    gains = (-1 if metric.startswith("ece") else 1) * datasets.round(4)
    won, lost = int((gains > 0).sum()), int((gains < 0).sum())
    return Paired(
        over_seeds.mean, low, high, over_seeds.low, over_seeds.high, won, count - won - lost, lost,
        _signed_rank(datasets.round(4)), count, len(seeds),
    )  # fmt: skip


def _tail(count: int) -> float:
    """Share of resamples beyond each end of an expanded percentile interval."""
    from scipy.stats import norm, t

    return float(norm.cdf(-math.sqrt(count / (count - 1)) * t.ppf((1 + LEVEL) / 2, count - 1)))


def _signed_rank(differences: Array) -> float | None:
    """Two-sided p-value of Wilcoxon's test that differences lie above 0 as much as below, exact with ties; zeros are left
    out, as he did. None for too few data sets to tell."""
    if len(differences) < LEAST:
        return None
    from scipy.stats import rankdata

    kept = differences[differences != 0]
    ranks = (2 * rankdata(np.abs(kept))).astype(int)  # doubled: those of ties may be halves
    chances = np.ones(1)  # of every sum of ranks above 0, if each is above with 1/2
    for rank in ranks:
        chances = (np.pad(chances, (0, rank)) + np.pad(chances, (rank, 0))) / 2
    off = np.abs(2 * np.arange(len(chances)) - ranks.sum())  # from the middle
    return float(chances[off >= off[ranks[kept > 0].sum()]].sum())
