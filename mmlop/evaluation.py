"""Accuracies: top-1, per class, harmonic mean, calibration, and the paired test between two adapters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

import numpy as np
import torch
from torch import Tensor

Metrics = dict[str, float]  # percent


def harmonic_mean(base: float, novel: float) -> float:
    """``2 b n / (b + n)``, in the units given (percent here); 0 where both are 0."""
    return 2 * base * novel / (base + novel) if base + novel else 0.0


def top1(logits: Tensor, labels: Tensor) -> float:
    """Share of pictures, in percent, whose highest of ``logits`` [N, C] is their label [N]."""
    return 100 * (logits.argmax(dim=1) == labels).double().mean().item()


def confusion(logits: Tensor, labels: Tensor) -> Tensor:
    """Counts [C, C] of (label, prediction)."""
    classes = logits.shape[1]
    return torch.bincount(labels * classes + logits.argmax(dim=1), minlength=classes**2).view(classes, classes)


def per_class(logits: Tensor, labels: Tensor) -> list[float | None]:
    """Accuracy of each class in percent; None for a class without pictures."""
    counts = confusion(logits, labels)
    return [100 * counts[c, c].item() / n if (n := counts[c].sum().item()) else None for c in range(len(counts))]


def calibration_error(logits: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Expected calibration error in percent (Guo et al., ICML 2017): the mean gap, over equal-width bins of confidence and
    weighted by their pictures, between confidence and accuracy. Bin k holds confidences in (k/bins, (k+1)/bins]."""
    confidence, predicted = logits.double().softmax(dim=1).max(dim=1)
    hit = (predicted == labels).double()
    which = (confidence * bins).ceil().long().clamp(1, bins) - 1
    gap = torch.zeros(bins, dtype=torch.float64).index_add(0, which, hit - confidence)
    return 100 * gap.abs().sum().item() / len(labels)


@dataclass(frozen=True)
class Comparison:
    """A paired comparison on the same pictures."""

    pictures: int
    champion: float  # accuracy, percent
    challenger: float  # accuracy, percent
    p_value: float  # of "the challenger is not better"


def compare(champion: Sequence[bool], challenger: Sequence[bool], resamples: int = 10_000, seed: int = 0) -> Comparison:
    """Paired bootstrap over pictures: how often does a resample show the challenger *not* better?

    ``champion[i]`` and ``challenger[i]`` tell whether each classified picture i rightly. The p-value is
    (1 + resamples without a gain) / (1 + resamples), so it is never 0.
    """
    old, new = np.asarray(champion, dtype=np.int8), np.asarray(challenger, dtype=np.int8)
    if len(old) != len(new):
        raise ValueError(f"paired comparison of {len(old)} and {len(new)} pictures")
    if not len(old):
        return Comparison(0, 0.0, 0.0, 1.0)
    # Only how many pictures were won, lost or tied matters, so a resample is one multinomial draw.
    won, lost = int((new > old).sum()), int((new < old).sum())
    shares = np.array([won, lost, len(old) - won - lost]) / len(old)
    draws = np.random.default_rng(seed).multinomial(len(old), shares, size=resamples)
    not_better = int((draws[:, 0] <= draws[:, 1]).sum())
    return Comparison(len(old), 100 * old.mean().item(), 100 * new.mean().item(), (1 + not_better) / (1 + resamples))


def summarise(per_seed: Iterable[Metrics]) -> Metrics:
    """Mean of every metric over seeds, with its standard deviation beside it as ``<metric>_std`` (0 for one seed)."""
    runs = list(per_seed)
    summary: Metrics = {}
    for name in runs[0]:
        values = [run[name] for run in runs]
        summary[name] = rounded(mean(values))
        summary[f"{name}_std"] = rounded(stdev(values) if len(values) > 1 else 0.0)
    return summary


def rounded(percent: float) -> float:
    """Four decimals: more is noise, and the bytes of a result file should not depend on it."""
    return round(percent, 4)
