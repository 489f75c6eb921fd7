"""Few-shot splits: which pictures are the shots of a seed, and which classes are base and novel (the rules of CoOp)."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmlop.data.manifest import Manifest, Picture
from mmlop.errors import MmlopError, listing
from mmlop.files import dump_json, write_text

logger = logging.getLogger(__name__)

FOLDS = 5  # of the estimate where pictures are too few for a test part
VALIDATION_SHOTS = 4  # at most, per class; drawn as in CoOp, though seeds are ranked on the whole validation part


@dataclass(frozen=True)
class Draw:
    """The shots of one seed: paths of training and validation pictures, over all classes."""

    train: tuple[str, ...]
    val: tuple[str, ...]


@dataclass(frozen=True)
class Split:
    dataset: str
    manifest: str  # hash of the manifest it was drawn from
    base: tuple[int, ...]  # labels
    novel: tuple[int, ...]
    draws: dict[int, dict[int, Draw]]  # by shots, then by seed

    @property
    def hash(self) -> str:
        return hashlib.sha256(json.dumps(self._fields(), sort_keys=True).encode()).hexdigest()

    def save(self, file: Path) -> None:
        write_text(file, dump_json(self._fields() | {"hash": self.hash}))

    @classmethod
    def load(cls, file: Path) -> Split:
        """Raises MmlopError if the file is missing or damaged."""
        try:
            stored = json.loads(file.read_text(encoding="utf-8"))
            claimed = stored.pop("hash")
            draws = {
                int(shots): {int(seed): Draw(*map(tuple, pair)) for seed, pair in seeds.items()}
                for shots, seeds in stored.pop("draws").items()
            }
            split = cls(**stored | {"base": tuple(stored["base"]), "novel": tuple(stored["novel"])}, draws=draws)
        except FileNotFoundError:
            raise MmlopError(f"{file} does not exist: make the splits first (`mmlop data split NAME`).") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise MmlopError(f"{file} is not a split ({error}): make the splits again.") from error
        if split.hash != claimed:
            raise MmlopError(f"{file} was changed after it was written: make the splits again.")
        return split

    def _fields(self) -> dict[str, Any]:
        return {
            "dataset": self.dataset,
            "manifest": self.manifest,
            "base": list(self.base),
            "novel": list(self.novel),
            "draws": {
                str(shots): {str(seed): [list(draw.train), list(draw.val)] for seed, draw in seeds.items()}
                for shots, seeds in self.draws.items()
            },
        }


def halves(classes: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Base and novel labels: the first half, rounded up, and the rest."""
    base = math.ceil(classes / 2)
    return tuple(range(base)), tuple(range(base, classes))


def make(manifest: Manifest, shots: Collection[int], seeds: Sequence[int]) -> Split:
    """Draw training pictures per class for each number of ``shots`` and each seed.

    Raises MmlopError for classes without training pictures; warns once where a class has fewer than ``shots``.
    """
    counts = dict.fromkeys(range(len(manifest.classes)), 0)
    for picture in manifest.of("train"):
        counts[picture.label] += 1
    if empty := [manifest.classes[label] for label, count in counts.items() if not count]:
        raise MmlopError(
            f"{manifest.name}: {listing(empty)} without a training picture: add some, or take the class out. A set that "
            f"has none at all belongs under test_sets."
        )
    if few := [f"{manifest.classes[label]} ({count})" for label, count in counts.items() if count < max(shots)]:
        named = ", ".join(few[:10]) + (f" and {len(few) - 10} more classes" if len(few) > 10 else "")
        logger.warning("%s: fewer than %d training pictures for %s: all are taken", manifest.name, max(shots), named)
    base, novel = halves(len(manifest.classes))
    draws = {k: {seed: draw(manifest, k, seed) for seed in seeds} for k in sorted(set(shots))}
    return Split(manifest.name, manifest.hash, base, novel, draws)


def draw(manifest: Manifest, shots: int, seed: int) -> Draw:
    """CoOp's sampler: Python's generator seeded with ``seed``; classes in order of first appearance; training before
    validation with one running generator; a class with too few pictures is taken whole, without a draw."""
    generator = random.Random(seed)
    first = _sample(manifest.of("train"), shots, generator)
    second = _sample(manifest.of("val"), min(shots, VALIDATION_SHOTS), generator)
    return Draw(tuple(p.path for p in first), tuple(p.path for p in second))


def _sample(pictures: Sequence[Picture], count: int, generator: random.Random) -> list[Picture]:
    by_label: dict[int, list[Picture]] = {}
    for picture in pictures:
        by_label.setdefault(picture.label, []).append(picture)
    return [
        picture
        for group in by_label.values()
        for picture in (generator.sample(group, count) if len(group) >= count else group)
    ]


def folds(shots: Sequence[Picture], count: int = FOLDS) -> list[list[Picture]]:
    """Shots dealt out for k-fold, by class and in order of content, so that a fold is the same for ever. A class with a
    single picture is in none; folds may be empty."""
    by_label: dict[int, list[Picture]] = {}
    for picture in sorted(shots, key=lambda p: p.content):
        by_label.setdefault(picture.label, []).append(picture)
    dealt: list[list[Picture]] = [[] for _ in range(count)]
    for group in by_label.values():
        for index, picture in enumerate(group if len(group) > 1 else ()):
            dealt[index % count].append(picture)
    return dealt
