"""Drift: whether the pictures that come in still look to an adapter like those it was validated on.

Logged and reference pictures are compared within the classes that the adapter takes them for, and in the same mix of true
classes (mmlop/class_mix.py), since another mix alone is no drift: by their features, and by how sure the adapter is. Both
use one test, of the energy distance (Szekely & Rizzo 2004), whose p-value comes from permutations within the classes. It is
right for samples of any size, as few validation pictures need, and sees any change of a distribution in any number of
dimensions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from scipy.spatial.distance import pdist, squareform

from mmlop import class_mix
from mmlop.config import Drift

PERMUTATIONS = 999
MOST = 2000  # pictures of a kind that are compared
MIX = 0.05  # level at which classes are shared out otherwise among logged pictures
COMMON = 0.5  # share of logged pictures below which classes in common are not enough to compare within
SAME = 2e-3  # distance of features up to which two pictures are one
BLOCK = 500  # pictures whose distances to all others are held at once

Outcome = Literal["steady", "drifted", "too_few"]


@dataclass(frozen=True)
class Sample:
    """Pictures as an adapter sees them."""

    features: np.ndarray  # [N, d], unit length
    confidence: np.ndarray  # [N], the calibrated probability of the predicted class
    labels: np.ndarray  # [N], names of the predicted classes
    truth: np.ndarray  # [N], names of the true classes; of logged pictures, which are unknown, those predicted

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, places: np.ndarray) -> Sample:
        return Sample(self.features[places], self.confidence[places], self.labels[places], self.truth[places])

    def thinned(self, most: int) -> Sample:
        """Evenly spaced ones, if there are more than ``most``."""
        return self.take(spaced(len(self), most))

    def distinct(self) -> Sample:
        """Each picture once: one that is sent again and again, by a health check for instance, would count as many."""
        features = self.features.astype(np.float64)
        squares = (features**2).sum(axis=1)
        again = np.zeros(len(self), dtype=bool)
        for start in range(0, len(self), BLOCK):  # so that memory grows with the number of pictures, not with its square
            end = min(start + BLOCK, len(self))
            apart = squares[start:end, None] + squares[:end] - 2 * features[start:end] @ features[:end].T
            again[start:end] = np.tril(apart < SAME**2, k=start - 1).any(axis=1)
        return self.take(np.flatnonzero(~again))


@dataclass(frozen=True)
class Finding:
    """What is found, and how likely as much is by chance."""

    p_value: float
    effect: float  # of features and confidence: the shift, in standard deviations, that makes as much of a difference

    def shows(self, level: float, least: float) -> bool:
        return self.p_value < level and self.effect >= least


@dataclass(frozen=True)
class ClassShift:
    """One class that pictures are taken for: shares in percent, and mean confidence in percent (None: no pictures)."""

    name: str
    reference: int
    logged: int
    confidence_reference: float | None
    confidence_logged: float | None


@dataclass(frozen=True)
class Found:
    outcome: Outcome
    reason: str  # one sentence
    reference: int  # pictures compared, in the mix of classes that logged ones have
    logged: int
    repeated: int  # logged pictures that are left out, being there already
    features: Finding | None  # None: too few pictures
    confidence: Finding | None  # None: too few pictures, or the reference was trained on
    shares: Finding | None  # of the classes that pictures are taken for; the effect is a share of pictures
    classes: tuple[ClassShift, ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def compare(reference: Sample, logged: Sample, settings: Drift, unseen: bool = True) -> Found:
    """Whether ``logged`` pictures have drifted from ``reference``. Those are ``unseen`` if the adapter was not trained on
    them; else it is surer of them than of any others, and confidence is not compared.

    There is drift where a test is significant at ``settings.level``, divided by the number of tests, and finds an effect of
    ``settings.effect`` at least. Where the mix of classes is another one, that has to be so for each that is plausible.
    """
    once = logged.distinct()
    one, other = reference.thinned(MOST), once.thinned(MOST)
    classes = _classes(one, other)
    counts = (len(one), len(other), len(logged) - len(once))
    if min(counts[:2]) < settings.pictures:
        there = f"{len(other)} logged and {len(one)} reference pictures"
        reason = f"Too few to tell: {there}, and {settings.pictures} of each are needed."
        return Found("too_few", reason, *counts, None, None, None, classes)
    shares = shares_test(one.labels, other.labels)
    otherwise = shares.p_value < MIX
    rows = class_mix.plausible(one.truth, one.labels, other.labels) if otherwise else [np.arange(len(one))]
    alike = [one.take(some) for some in rows]
    features = _least(energy_test(each.features, other.features, each.labels, other.labels) for each in alike)
    confidence = None
    if unseen:
        sure = other.confidence[:, None]
        confidence = _least(energy_test(each.confidence[:, None], sure, each.labels, other.labels) for each in alike)
    judged = {"features": features} | ({"confidence": confidence} if confidence else {})
    judged |= {"shares of classes": shares} if settings.shares else {}
    level = settings.level / len(judged)
    drifted = [name for name, test in judged.items() if test.shows(level, settings.effect)]
    counts = (min(map(len, alike)), *counts[1:])
    outcome: Outcome = "drifted" if drifted else "steady" if counts[0] >= settings.pictures else "too_few"
    reason = _reason(judged, drifted, counts)
    if outcome == "too_few":
        reason = (
            f"Too few to tell: other classes are asked than were validated on, and of these mixes {counts[0]} reference "
            f"pictures are left, where {settings.pictures} are needed."
        )
    return Found(outcome, reason, *counts, features, confidence, shares, classes)


def _least(findings: Iterable[Finding]) -> Finding:
    """What can be said whichever of several mixes of classes it is."""
    found = list(findings)
    return Finding(max(one.p_value for one in found), min(one.effect for one in found))


def energy_test(reference: np.ndarray, logged: np.ndarray, of: np.ndarray, other: np.ndarray, seed: int = 0) -> Finding:
    """A permutation test of the energy distance between ``reference`` [N, d] and ``logged`` [M, d], within the classes
    ``of`` [N] and ``other`` [M].

    Where most of what is logged is of classes that the reference has no pictures of, all are compared with all.

    The statistic is the sum over the classes that both have of n m / (n + m) (2 E|X-Y| - E|X-X'| - E|Y-Y'|), with means
    over all n or m pictures. What it exceeds its mean over permutations by, divided by its part 2 E|X-Y|, is H, which is
    about (shift / 2 standard deviations)^2 for small shifts: the effect is 2 sqrt(H).
    """
    if np.isin(other, of).mean() < COMMON:
        of, other = np.zeros(len(of)), np.zeros(len(other))
    generator = np.random.default_rng(seed)
    statistics, excess, between = np.zeros(PERMUTATIONS + 1), 0.0, 0.0
    for name in np.intersect1d(of, other):
        x, y = reference[of == name], logged[other == name]
        n, m = len(x), len(y)
        distances = squareform(pdist(np.concatenate([x, y]).astype(np.float64)))
        mine = np.arange(n + m) < n
        drawn = generator.permuted(np.tile(mine, (PERMUTATIONS, 1)), axis=1)
        found, across = _energies(distances, np.concatenate([mine[None], drawn]).astype(np.float64), n, m)
        statistics += found
        excess += found[0] - distances.sum() / ((n + m) * (n + m - 1))  # the mean over all permutations
        between += across
    p_value = (statistics >= statistics[0] * (1 - 1e-12)).mean()
    effect = 2 * np.sqrt(max(excess, 0.0) / between) if between else 0.0  # 0: all are the same
    return Finding(float(p_value), float(effect))


def _energies(distances: np.ndarray, mine: np.ndarray, n: int, m: int) -> tuple[np.ndarray, float]:
    """n m / (n + m) times the energy distance for each row of ``mine`` [R, n + m], ones and zeros, over ``distances``
    [n + m, n + m]; and the part 2 E|X-Y| of the first."""
    within = ((mine @ distances) * mine).sum(axis=1)  # sums over pairs of the first kind
    across = mine @ distances.sum(axis=1) - within
    others = distances.sum() - within - 2 * across
    weight = n * m / (n + m)
    return weight * (2 * across / (n * m) - within / n**2 - others / m**2), float(weight * 2 * across[0] / (n * m))


def shares_test(reference: np.ndarray, logged: np.ndarray, seed: int = 0) -> Finding:
    """A chi-square test of whether two samples of labels have the same shares; by tables drawn with the same sums, since
    classes may have few pictures. The effect is the share of pictures that would have to be of other classes, 0 .. 1."""
    names = np.union1d(reference, logged)
    table = np.array([[(labels == name).sum() for name in names] for labels in (reference, logged)])
    sums, n = table.sum(axis=0), len(reference)
    drawn = np.random.default_rng(seed).multivariate_hypergeometric(sums, n, size=PERMUTATIONS)
    expected = sums * n / sums.sum()
    spread = expected * (1 - n / sums.sum())  # so that both rows of the table are counted
    chi = ((np.concatenate([table[:1], drawn]) - expected) ** 2 / spread).sum(axis=1)
    shares = table / table.sum(axis=1, keepdims=True)
    return Finding(float((chi >= chi[0] * (1 - 1e-12)).mean()), float(np.abs(shares[0] - shares[1]).sum() / 2))


def spaced(count: int, most: int) -> np.ndarray:
    """Places of ``most`` evenly spaced ones among ``count``; all, if they are no more."""
    return np.linspace(0, count - 1, min(most, count)).round().astype(int)


def _classes(reference: Sample, logged: Sample) -> tuple[ClassShift, ...]:
    def mean(sample: Sample, chosen: np.ndarray) -> float | None:
        return float(100 * sample.confidence[chosen].mean()) if chosen.any() else None

    shifts = []
    for name in np.union1d(reference.labels, logged.labels).tolist():
        mine, theirs = reference.labels == name, logged.labels == name
        shifts.append(ClassShift(name, int(mine.sum()), int(theirs.sum()), mean(reference, mine), mean(logged, theirs)))
    return tuple(shifts)


def _reason(judged: dict[str, Finding], drifted: Sequence[str], counts: tuple[int, int, int]) -> str:
    figures = "; ".join(f"{name}: effect {test.effect:.2f}, p = {test.p_value:.2g}" for name, test in judged.items())
    beside = f"{counts[1]} logged beside {counts[0]} reference pictures"
    if drifted:
        return f"{' and '.join(drifted).capitalize()} have drifted, {beside} ({figures})."
    return f"No drift, {beside} ({figures})."
