"""A linear probe: multinomial logistic regression on frozen image features.

It learns one row of weights per class and reads no class name, so it can tell apart only the classes it was trained on.

The procedure is CLIP's (Radford et al., arXiv 2103.00020, appendix A.3) as run by CoOp (KaiyangZhou/CoOp,
lpclip/linear_probe.py): L-BFGS for at most 1000 steps, with the penalty's strength chosen on validation pictures by a
coarse grid and a binary search. One thing differs: they fit features as the encoder gives them, here they have unit length.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mmlop.errors import MmlopError
from mmlop.prompts import Factors

GRID = (6.0, 4.0, 2.0, 0.0, -2.0, -4.0, -6.0)  # log10 of C, the inverse of the penalty; among equals the first wins
STEPS = 1000  # of L-BFGS at most
ROUNDS = 8  # halvings of the two decades around the grid's best
DEFAULT = 0.0  # log10 of C without validation pictures: the middle of the grid, which is scikit-learn's default too


@dataclass(frozen=True)
class ProbeShape:
    """How many numbers are learned."""

    classes: int  # C
    embed_dim: int  # d
    kind: Literal["probe"] = "probe"

    @property
    def factors(self) -> dict[str, tuple[int, ...]]:
        """Name and size of every tensor."""
        return {"weight": (self.classes, self.embed_dim), "bias": (self.classes,)}

    @property
    def trainable(self) -> int:
        """The number of trained numbers: ``C * (d + 1)``."""
        return sum(math.prod(size) for size in self.factors.values())


def fit(
    features: Tensor, labels: Tensor, val_features: Tensor | None, val_labels: Tensor | None, classes: int, seed: int
) -> Factors:
    """The probe of training pictures ``features [N, d]`` (unit rows) with ``labels [N]`` in 0 .. C-1.

    C is what ``search`` finds on the validation pictures (``[V, d]``, ``[V]``); without any (None, or no row) it is
    ``10 ** DEFAULT``. L-BFGS draws no random numbers: scikit-learn is given the seed, and makes no use of it.
    Raises MmlopError for a class without a training picture.
    """
    missing = sorted(set(range(classes)) - set(labels.tolist()))
    if missing:
        raise MmlopError(
            f"The linear probe needs a training picture of each of the {classes} classes, "
            f"and class number {missing[0]} (counted from 0) has none: add pictures or leave the class out."
        )

    @functools.cache
    def at(exponent: float) -> Factors:
        return _regression(features, labels, classes, 10.0**exponent, seed)

    if val_features is None or val_labels is None or len(val_labels) == 0:
        return at(DEFAULT)
    pictures, truth = val_features.cpu().double(), val_labels.cpu()
    return at(search(lambda exponent: int((logits(at(exponent), pictures).argmax(1) == truth).sum())))


def search(score: Callable[[float], int]) -> float:
    """The log10 of C that CoOp's search ends at, given how many validation pictures each log10 gets right.

    The first best of the grid is the middle of two decades, which are halved ROUNDS times: the better end stays (of
    equals the lower, so the stronger penalty) and the other moves to the middle. The last better end is the answer. The
    first middle is the grid's best, so the answer gets no fewer right than that.
    """
    peak = max(GRID, key=score)
    low, high = peak - 1, peak + 1
    for _ in range(ROUNDS):
        best, middle = (high if score(low) < score(high) else low), (low + high) / 2
        low, high = (middle, high) if best == high else (low, middle)
    return best


def logits(factors: Factors, features: Tensor) -> Tensor:
    """Scores of ``features [M, d]`` for the trained classes: ``f W^T + b``, ``[M, C]``."""
    return features @ factors["weight"].to(features).T + factors["bias"].to(features)


def _regression(features: Tensor, labels: Tensor, classes: int, strength: float, seed: int) -> Factors:
    """Minimise ``C sum_i CE(W f_i + b, y_i) + |W|^2 / 2`` with C = ``strength`` (two classes: see below)."""
    if classes == 1:  # nothing to tell apart
        return {"weight": torch.zeros(1, features.shape[1]), "bias": torch.zeros(1)}
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=strength, solver="lbfgs", max_iter=STEPS, random_state=seed)
    with warnings.catch_warnings():  # with one shot or two, labels look like numbers to be regressed on
        warnings.filterwarnings("ignore", "The number of unique classes is greater than 50% of the number", UserWarning)
        model.fit(features.cpu().double().numpy(), labels.cpu().numpy())
    weight, bias = torch.tensor(model.coef_), torch.tensor(model.intercept_)  # float64
    if classes == 2:  # one row, w, with p(class 1) = sigmoid(w f + b): a softmax gives the same of -w/2 and w/2
        weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    return {"weight": weight.float(), "bias": bias.float()}
