"""Pictures for many adapters, answered together.

Adapters of one backbone differ in a few thousand numbers in front of the same frozen weights, so one forward pass serves
them all: the encoder takes a set of prompts, or of low-rank changes, per picture. What the batch is made of makes no
difference to anybody's answer, beyond the order in which numbers are added up.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from mmlop.classifier import Classifier
from mmlop.encode import Deltas
from mmlop.errors import MmlopError
from mmlop.features import CHUNK
from mmlop.shapes import Tuned


@dataclass(frozen=True, eq=False)
class Asked:
    """A picture, the adapter that is to classify it, and the candidates (None: the adapter's own classes)."""

    classifier: Classifier
    picture: Tensor  # uint8 [3, S, S], prepared for the classifier's backbone
    classes: tuple[str, ...] | None = None


@dataclass(frozen=True, eq=False)
class Answer:
    """What was found out about a picture, on the CPU."""

    features: Tensor  # f' [d], unit length
    probabilities: Tensor  # [C], over ``classes``
    classes: tuple[str, ...]


Candidates = tuple[Classifier, tuple[str, ...]]


def candidates(classifier: Classifier, classes: Sequence[str] | None) -> tuple[str, ...]:
    """The class names to choose from, with their text features computed and kept, which takes long the first time.

    Raises MmlopError where there are none, one is named twice, is unknown to the backbone or the adapter, or is too long.
    """
    names = classifier.candidates(classes)
    if classifier.adapter.shape.kind != "probe":
        classifier.class_features(names)
    return names


@torch.no_grad()
def answer(asked: Sequence[Asked]) -> list[Answer | MmlopError]:
    """An answer in the place of each request, or the error of one whose candidates cannot be scored.

    There is one forward pass for every backbone and shape of what is learned of pictures, whatever the adapters; those that
    leave the image encoder as it is share another one.
    """
    answers: dict[int, Answer | MmlopError] = {}
    passes: dict[Hashable, list[tuple[int, Candidates]]] = {}
    for place, one in enumerate(asked):
        try:
            names = candidates(one.classifier, one.classes)
        except MmlopError as error:
            answers[place] = error
        else:
            passes.setdefault(_pass(one.classifier), []).append((place, (one.classifier, names)))
    for group in passes.values():
        for start in range(0, len(group), CHUNK):
            places, pairs = zip(*group[start : start + CHUNK], strict=True)
            pictures = torch.stack([asked[place].picture for place in places])
            features = _together([classifier for classifier, _ in pairs]).images(pairs[0][0].backbone, pictures)
            probabilities = _probabilities(features, pairs)
            for place, (_, names), own, row in zip(places, pairs, features.cpu(), probabilities, strict=True):
                answers[place] = Answer(own, row, names)
    return [answers[place] for place in range(len(asked))]


def _pass(classifier: Classifier) -> Hashable:
    """What the pictures of one forward pass have in common."""
    prompts, deltas = classifier.tuned.vision_prompts, classifier.tuned.vision_deltas
    return classifier.backbone, prompts is not None and prompts.shape, deltas is not None and deltas.A.shape


def _together(classifiers: Sequence[Classifier]) -> Tuned:
    """What was learned of pictures, a set for each of the classifiers; a single set where they are all the same."""
    tuned = classifiers[0].tuned
    if all(one is classifiers[0] for one in classifiers):
        return tuned
    if tuned.vision_prompts is not None:
        prompts = [one.tuned.vision_prompts for one in classifiers]
        return Tuned(vision_prompts=torch.stack(cast(list[Tensor], prompts)))  # [B, J, n, d_v]
    if tuned.vision_deltas is not None:
        deltas = cast(list[Deltas], [one.tuned.vision_deltas for one in classifiers])
        A, B = torch.stack([one.A for one in deltas]), torch.stack([one.scale * one.B for one in deltas])
        return Tuned(vision_deltas=Deltas(A, B))
    return tuned


def _probabilities(features: Tensor, pairs: Sequence[Candidates]) -> list[Tensor]:
    """The probabilities [C] of each row of f' [B, d] over its candidates, on the CPU: those of equally many candidates in
    one go, since a few small steps for each adapter would add up to more than all of it."""
    groups: dict[Hashable, list[int]] = {}
    for row, (classifier, names) in enumerate(pairs):
        by_texts = classifier.adapter.shape.kind not in ("probe", "cache")
        groups.setdefault(len(names) if by_texts else (classifier, names), []).append(row)
    found: dict[int, Tensor] = {}
    for rows in groups.values():
        chosen = [pairs[row] for row in rows]
        scores = _scores(features if len(rows) == len(pairs) else features[rows], chosen)  # [R, C]
        temperatures = torch.tensor([classifier.adapter.info.temperature for classifier, _ in chosen])
        found.update(zip(rows, (scores / temperatures[:, None]).softmax(dim=1), strict=True))
    return [found[row] for row in range(len(pairs))]


def _scores(features: Tensor, pairs: Sequence[Candidates]) -> Tensor:
    """`Classifier.scored` [R, C] of each row of f' [R, d] over its candidates, on the CPU."""
    classifier, names = pairs[0]
    if all(one is classifier and others == names for one, others in pairs):
        return classifier.scored(features, names)
    texts = torch.stack([one.class_features(others) for one, others in pairs])  # w* [R, C, d]
    return (classifier.backbone.logit_scale * (texts @ features[:, :, None])[:, :, 0]).cpu()
