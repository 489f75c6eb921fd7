"""The champion rule: a challenger replaces the champion if a paired test on validation pictures says it is better.

Both are scored on the same pictures: the current manifest's whole validation part, minus those either was trained on, with
all of the manifest's classes as candidates. A tie keeps the champion, and too few pictures decide nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Literal

from mmlop import config
from mmlop.classifier import Classifier
from mmlop.data.manifest import Fetched, Picture
from mmlop.evaluation import Comparison, compare
from mmlop.scoring import logits

Outcome = Literal["first", "promoted", "kept", "unchanged", "too_few", "not_compared", "forced", "rolled_back"]
PROMOTING: tuple[Outcome, ...] = ("first", "promoted", "forced", "rolled_back")


@dataclass(frozen=True)
class ClassScore:
    """How often each is right about one class, in percent of its pictures."""

    name: str
    pictures: int
    champion: float
    challenger: float


@dataclass(frozen=True)
class Challenge:
    """A champion and a challenger on the same validation pictures: over all, and class by class."""

    comparison: Comparison
    classes: tuple[ClassScore, ...]


@dataclass(frozen=True)
class Decision:
    outcome: Outcome
    reason: str  # one sentence
    champion: int | None = None  # the version that was champion before
    challenge: Challenge | None = None  # None where nothing was scored

    @property
    def promotes(self) -> bool:
        return self.outcome in PROMOTING


def challenge(champion: Path, challenger: Path, data: Fetched, seen: Collection[str], device: str = "cpu") -> Challenge:
    """Score two adapter folders on the validation pictures of ``data`` whose content hash is not in ``seen``.

    Each is loaded with its own backbone, so adapters of different backbones can be compared. Raises MmlopError where one
    cannot be loaded or does not know a class.
    """
    usable = [picture for picture in data.manifest.of("val") if picture.content not in seen]
    old, new = (_hits(Classifier.load(one, device), usable, data) for one in (champion, challenger))
    scores = []
    for label, name in enumerate(data.manifest.classes):
        if rows := [index for index, picture in enumerate(usable) if picture.label == label]:
            shares = (100 * mean(hits[row] for row in rows) for hits in (old, new))
            scores.append(ClassScore(name, len(rows), *shares))
    return Challenge(compare(old, new), tuple(scores))


def decide(challenge: Challenge, settings: config.Champion, dataset: str, champion: int, challenger: int) -> Decision:
    """What the rule makes of a challenge. ``settings`` hold the level of the test, and the pictures it needs."""
    found = challenge.comparison
    if found.pictures < settings.pictures:
        return Decision(
            "too_few",
            f"Version {champion} stays champion: {found.pictures} validation pictures that neither was trained on are too "
            f"few to tell ({settings.pictures} are needed); `mmlop registry promote {dataset} {challenger} --force REASON` "
            f"decides by hand.",
            champion,
            challenge,
        )
    better = found.challenger > found.champion and found.p_value < settings.level
    accuracies = (
        f"{found.challenger:.1f} against {found.champion:.1f} % right on {found.pictures} validation pictures, "
        f"p = {found.p_value:.2g}, level {settings.level:g}"
    )
    if better:
        reason = f"Version {challenger} replaces version {champion} as champion: {accuracies}."
    else:
        reason = f"Version {champion} stays champion, version {challenger} is not shown to be better: {accuracies}."
    return Decision("promoted" if better else "kept", reason, champion, challenge)


def _hits(classifier: Classifier, pictures: list[Picture], data: Fetched) -> list[bool]:
    """Whether the classifier is right, picture by picture."""
    predicted = logits(classifier, data, pictures, data.manifest.classes).argmax(dim=1).tolist()
    return [label == picture.label for label, picture in zip(predicted, pictures, strict=True)]
