"""Accuracies: top-1, per class, harmonic mean, calibration, and the paired test between two adapters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

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


def reliability(logits: Tensor, labels: Tensor, bins: int = 15) -> list[list[float]]:
    """For each of equal-width bins of confidence: pictures, their mean confidence and their accuracy, both in percent (0
    for an empty bin). Bin k holds confidences in (k/bins, (k+1)/bins]."""
    confidence, predicted = logits.double().softmax(dim=1).max(dim=1)
    hit = (predicted == labels).double()
    which = (confidence * bins).ceil().long().clamp(1, bins) - 1
    count, sure, right = (
        torch.zeros(bins, dtype=torch.float64).index_add(0, which, x) for x in (torch.ones_like(hit), confidence, hit)
    )
    share = count.clamp(min=1)
    return torch.stack([count, 100 * sure / share, 100 * right / share], dim=1).tolist()


def calibration_error(logits: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Expected calibration error in percent (Guo et al., ICML 2017): the mean gap between confidence and accuracy, over the
    bins of `reliability`, weighted by their pictures."""
    return sum(count * abs(sure - right) for count, sure, right in reliability(logits, labels, bins)) / len(labels)


def by_group(
    logits: Callable[[Tensor, list[int]], Tensor], labels: Tensor, groups: Mapping[str, Sequence[int]]
) -> tuple[Metrics, dict[str, Any]]:
    """Accuracy and calibration error of each group of classes (consecutive labels), among its own candidates, and the
    harmonic mean of `base` and `novel`. Beside them what charts show of each group: `reliability` and `confusion`.

    ``logits(rows, classes)`` scores the pictures in ``rows`` (a mask [N] over ``labels``) over ``classes``.
    """
    metrics: Metrics = {}
    shown = {}
    for name, group in groups.items():
        classes = list(group)
        rows = torch.isin(labels, torch.tensor(classes))
        if not rows.any():
            continue
        scores, within = logits(rows, classes), labels[rows] - classes[0]
        metrics[name] = top1(scores, within)
        metrics["ece" if name == "accuracy" else f"ece_{name}"] = calibration_error(scores, within)
        bins = [[rounded(value) for value in one] for one in reliability(scores, within)]
        shown[name] = {"reliability": bins, "confusion": confusion(scores, within).tolist()}
    if "base" in metrics and "novel" in metrics:
        metrics["hm"] = harmonic_mean(metrics["base"], metrics["novel"])
    return {name: rounded(value) for name, value in metrics.items()}, shown


def temperature(logits: Tensor, labels: Tensor) -> float:
    """The T by which ``logits / T`` [N, C] make the labels [N] most likely (temperature scaling, Guo et al., ICML 2017): as
    sure on average as right. It changes no ranking. Between 1/20 and 20; 1 without pictures or a choice.

    Labels count for (N + 1) / (N + 2), the other classes share the rest, as in Platt scaling: a few pictures that are all
    right are no reason to be certain.
    """
    count, classes = logits.shape
    if not count or classes < 2:
        return 1.0
    from scipy.optimize import minimize_scalar  # heavy

    scores = logits.double().numpy()
    target = np.full((count, classes), 1 / (count + 2) / (classes - 1))
    target[np.arange(count), labels.numpy()] = (count + 1) / (count + 2)

    def surprise(log_t: float) -> float:  # mean cross-entropy
        scaled = scores / np.exp(log_t)
        scaled -= scaled.max(axis=1, keepdims=True)
        return float((np.log(np.exp(scaled).sum(axis=1)) - (target * scaled).sum(axis=1)).mean())

    edge = float(np.log(20))
    return rounded(float(np.exp(minimize_scalar(surprise, bounds=(-edge, edge), method="bounded").x)))


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
