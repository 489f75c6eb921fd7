"""A classifier on pictures of one's own: scores on a fetched data set, and predictions over any number of files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from mmlop import evaluation as ev
from mmlop.classifier import Classifier, Prediction, ranked
from mmlop.data import folder
from mmlop.data.manifest import PARTS, SPLITS, Fetched, Manifest, Picture
from mmlop.data.pictures import prepare, prepare_all
from mmlop.data.splits import halves
from mmlop.errors import MmlopError, listing
from mmlop.inputs import open_picture

BATCH = 64  # pictures in memory at once

T = TypeVar("T")


@dataclass(frozen=True)
class Score:
    pictures: int
    accuracy: float  # percent
    ece: float  # percent
    per_class: tuple[tuple[str, float | None], ...]  # name and percent; names may repeat, as two of ImageNet's do

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def score(classifier: Classifier, data: Fetched, part: str = "test") -> Score:
    """Accuracies over the classes of a fetched data set, which may differ from the adapter's.

    Raises MmlopError for an unknown part, a part without pictures, and classes that the adapter cannot score.
    """
    if part not in PARTS:
        raise MmlopError(f"There is no part '{part}': choose one of {listing(PARTS, part)}.")
    manifest = data.manifest
    pictures = manifest.of(part)
    if not pictures:
        raise MmlopError(f"{manifest.name} has no pictures in its part '{part}'.")
    classifier.require_known(manifest.classes)
    scores = logits(classifier, data, pictures, manifest.classes)
    labels = torch.tensor([picture.label for picture in pictures])
    per_class = tuple(zip(manifest.classes, ev.per_class(scores, labels), strict=True))
    ece = ev.calibration_error(scores / classifier.adapter.info.temperature, labels)
    return Score(len(pictures), ev.top1(scores, labels), ece, per_class)


def logits(classifier: Classifier, data: Fetched, pictures: Sequence[Picture], classes: Sequence[str]) -> Tensor:
    """tau f' w*^T [N, C] of pictures of a fetched data set over ``classes``, in bounded memory."""
    return classifier.logits(prepare_all(data, pictures, classifier.backbone.preprocessing.size), classes)


def picture_files(paths: Iterable[Path]) -> Iterator[Path]:
    """Files as given, folders as the picture files in them and below, sorted."""
    for path in paths:
        if path.is_dir():
            yield from folder.picture_files(path)
        else:
            yield path


def predictions(
    classifier: Classifier, files: Iterable[Path], classes: Sequence[str] | None = None
) -> Iterator[tuple[Path, Prediction | MmlopError]]:
    """Each file with its prediction, or with what is wrong with it, in order and in bounded memory."""
    names, size = classifier.candidates(classes), classifier.backbone.preprocessing.size

    def prepared(file: Path) -> Tensor | MmlopError:
        try:
            return prepare(open_picture(file), size)
        except MmlopError as error:
            return error

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes outside Python's lock
        for batch in _batched(files):
            opened = list(pool.map(prepared, batch))
            good = [picture for picture in opened if isinstance(picture, Tensor)]
            found = iter(ranked(classifier.probabilities(torch.stack(good), names), names) if good else ())
            for file, picture in zip(batch, opened, strict=True):
                yield file, next(found) if isinstance(picture, Tensor) else picture


def overview(manifest: Manifest) -> dict[str, Any]:
    """What is in a fetched data set, for `mmlop data show`."""
    counts = Counter((picture.label, picture.part) for picture in manifest.pictures)
    base, _ = halves(len(manifest.classes))
    return {
        "name": manifest.name,
        "source": manifest.source,
        "licence": manifest.licence,
        "template": manifest.template,
        "split": manifest.split,
        "split_meaning": SPLITS[manifest.split],
        "skipped": [list(pair) for pair in manifest.skipped],
        "hash": manifest.hash,
        "pictures": {part: sum(counts[label, part] for label in range(len(manifest.classes))) for part in PARTS},
        "classes": [
            {"name": name, "half": "base" if label < len(base) else "novel"} | {part: counts[label, part] for part in PARTS}
            for label, name in enumerate(manifest.classes)
        ],
    }


def _batched(items: Iterable[T]) -> Iterator[list[T]]:
    remaining = iter(items)
    while batch := list(islice(remaining, BATCH)):
        yield batch
