"""Tip-Adapter without training: zero-shot scores plus votes of the training pictures, kept in a cache.

    logits = tau f w^T + alpha exp(-beta (1 - f K^T)) V        [M, K]

K ``[N, d]`` are the unit features of the training pictures, V ``[N, C]`` their classes, one-hot (Zhang et al., ECCV 2022,
arXiv 2207.09519). Alpha weighs the votes, beta says how fast one fades with distance. Nothing is trained, but the cache
grows with the shots: N (d + C) numbers.

The search is that of gaopengcuhk/Tip-Adapter (utils.py, search_hp) and the defaults are ImageNet's there (configs/). The
authors chose a range for each of their data sets, which a new data set does not have. One range for all of them is from
LP++ (CVPR 2024; FereshteShakeri/FewShot-CLIP-Strong-Baseline, configs/base.yaml), and holds those of the authors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from mmlop.errors import MmlopError
from mmlop.prompts import Factors

ALPHA, BETA = 1.17, 1.0  # without validation pictures
GRID = tuple(0.1 + (50 - 0.1) * step / 200 for step in range(200))  # of both: 0.1 .. 50, the upper end left out


@dataclass(frozen=True)
class CacheShape:
    """How large the cache is."""

    pictures: int  # N: the shots of every class together
    classes: int  # C
    embed_dim: int  # d
    kind: Literal["cache"] = "cache"

    @property
    def factors(self) -> dict[str, tuple[int, ...]]:
        """Name and size of every tensor; ``strength`` holds alpha and beta."""
        return {"keys": (self.pictures, self.embed_dim), "values": (self.pictures, self.classes), "strength": (2,)}

    @property
    def trainable(self) -> int:
        """Nothing is trained, whatever the size of the cache."""
        return 0


def fit(
    keys: Tensor,
    labels: Tensor,
    classes: int,
    val_features: Tensor | None,
    val_labels: Tensor | None,
    text: Tensor,
    logit_scale: float,
) -> Factors:
    """The cache of training pictures ``keys [N, d]`` (unit rows) with ``labels [N]`` in 0 .. C-1.

    Alpha and beta are those of ``search`` on the validation pictures (``[V, d]``, ``[V]``), scored against the class
    features ``text [C, d]``; without any (None, or no row) they are ALPHA and BETA.
    Raises MmlopError without a training picture, and for a label that is no class.
    """
    if len(labels) == 0:
        raise MmlopError("Tip-Adapter needs at least one training picture to keep: add pictures.")
    if not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise MmlopError(
            f"Labels run from {int(labels.min())} to {int(labels.max())}, but {classes} classes are numbered "
            f"0 to {classes - 1}: number the classes anew."
        )
    alpha, beta = ALPHA, BETA
    if val_features is not None and val_labels is not None and len(val_labels) > 0:
        alpha, beta = search(keys, labels, val_features, val_labels, text, logit_scale)
    strength = torch.tensor([alpha, beta])
    return {"keys": keys.float().cpu(), "values": one_hot(labels.long(), classes).float().cpu(), "strength": strength}


def search(
    keys: Tensor, labels: Tensor, val_features: Tensor, val_labels: Tensor, text: Tensor, logit_scale: float
) -> tuple[float, float]:
    """The alpha and beta of the grid with the most correct pictures; of equals the lowest beta, then the lowest alpha.

    Every score is a line in alpha, so a picture is right on one interval of alphas: the bounds below, one for each other
    class, replace 200 trials of alpha. In float64, so that the order in which votes are added up does not decide; on the
    CPU, since not every device has float64.
    """
    keys, features, text = (one.cpu().double() for one in (keys, val_features, text))
    alphas = torch.tensor(GRID, dtype=torch.float64)
    labels, truth = labels.cpu().long(), val_labels.cpu().long()[:, None]
    zero_shot, similarity = logit_scale * features @ text.T, keys @ features.T  # [V, C], [N, V]
    gap = zero_shot.gather(1, truth) - zero_shot  # by how much the true class is ahead without votes
    none = torch.zeros_like(zero_shot.T)  # [C, V]
    best, most = (ALPHA, BETA), -1
    for beta in GRID:
        votes = none.index_add(0, labels, torch.exp(-beta * (1 - similarity))).T  # [V, C]
        gain = votes.gather(1, truth) - votes  # right is where gap + alpha gain >= 0 for all classes
        bound = -gap / gain
        least = bound.where(gain > 0, -torch.inf).amax(1)
        greatest = bound.where(gain < 0, torch.inf).amin(1)
        possible = ((gain != 0) | (gap >= 0)).all(1)  # no alpha helps where the votes are equal
        right = possible[:, None] & (least[:, None] <= alphas) & (alphas <= greatest[:, None])  # [V, 200]
        correct = right.sum(0)
        if int(correct.max()) > most:
            most = int(correct.max())
            best = (GRID[(correct == most).tolist().index(True)], beta)
    return best


def logits(factors: Factors, features: Tensor, text: Tensor, logit_scale: float, columns: Sequence[int | None]) -> Tensor:
    """Scores of ``features [M, d]`` (unit rows) for the candidates ``text [K, d]``: ``[M, K]``.

    ``columns[k]`` is the number of candidate k among the cached classes. None stands for a class that is not cached: it
    gets no votes, and its score is the zero-shot one.
    Raises MmlopError if ``columns`` does not say this of every candidate.
    """
    keys, values = factors["keys"].to(features), factors["values"].to(features)
    alpha, beta = map(float, factors["strength"])
    classes = values.shape[1]
    if len(columns) != len(text) or any(column is not None and not 0 <= column < classes for column in columns):
        raise MmlopError(
            f"{len(text)} candidates need {len(text)} columns, each None or 0 to {classes - 1}, but got {list(columns)}."
        )
    votes = torch.exp(-beta * (1 - features @ keys.T)) @ values  # [M, C]
    votes = torch.cat([votes, torch.zeros_like(votes[:, :1])], 1)  # a last column for those that get none
    return logit_scale * features @ text.T + alpha * votes[:, [classes if one is None else one for one in columns]]
