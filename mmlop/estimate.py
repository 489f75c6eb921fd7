"""What a method is worth where pictures are too few for a test part: shots judged by adapters that never saw them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmlop.classifier import Classifier
from mmlop.data.manifest import Picture
from mmlop.data.splits import folds
from mmlop.evaluation import Metrics, rounded
from mmlop.protocols import Training

if TYPE_CHECKING:
    from mmlop.experiment import Bench


def by_folds(bench: Bench, training: Training, seeds: Sequence[int]) -> dict[int, Metrics]:
    """`accuracy_estimate` of each seed by k-fold: every shot is classified by an adapter that was trained on other folds. A
    class with a single picture keeps it for training. Nothing where no class has two."""
    hits: dict[int, list[Tensor]] = {seed: [] for seed in seeds}
    for seed in seeds:
        for fold in filter(None, folds(bench.shots(training.shots, seed, bench.labels))):
            without = frozenset(picture.path for picture in fold)
            other = bench.train(training, [seed], bench.labels, without=without)[seed]
            prepared, labels = bench.prepare(fold)
            hits[seed].append(Classifier(other.adapter, bench.backbone).logits(prepared).argmax(dim=1) == labels)
    return {
        seed: {"accuracy_estimate": rounded(100 * torch.cat(found).double().mean().item())} if found else {}
        for seed, found in hits.items()
    }


def tested(bench: Bench, training: Training, seed: int) -> int:
    """How many pictures `by_folds` classifies of a seed."""
    return sum(len(fold) for fold in folds(bench.shots(training.shots, seed, bench.labels)))


def judged(bench: Bench) -> list[Picture]:
    """What the folds of all seeds hold."""
    count = bench.params.fewshot.shots
    drawn = [bench.shots(count, seed, bench.labels) for seed in bench.params.fewshot.seeds]
    return sorted({picture for each in drawn for fold in folds(each) for picture in fold}, key=lambda picture: picture.path)
