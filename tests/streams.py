"""Streams of pictures that a service is sent, and logs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mmlop import adapter as adapters
from mmlop import config
from mmlop.classifier import Classifier
from mmlop.data import datasets
from mmlop.data.pictures import prepare
from mmlop.prediction_log import PredictionLog

NAME = "mini_textures"


@dataclass(frozen=True)
class Watched:
    """A project with one data set, fetched, and an adapter."""

    root: Path
    adapter: Path

    def pictures(self, part: str = "test") -> list[Image.Image]:
        data = datasets.fetched(NAME, config.load(self.root / "params.yaml"), self.root)
        return [Image.open(data.file(picture)).convert("RGB") for picture in data.manifest.of(part)]

    def serve(self, pictures: list[Image.Image], log: Path, candidates: tuple[str, ...] | None = None) -> None:
        """Predict them and log that, as a service does."""
        predict(self.adapter, pictures, log, candidates)


def predict(adapter: Path, pictures: list[Image.Image], log: Path, candidates: tuple[str, ...] | None = None) -> None:
    classifier, identity = Classifier.load(adapter), adapters.identity(adapter)
    prepared = torch.stack([prepare(picture, classifier.backbone.preprocessing.size) for picture in pictures])
    features = classifier.features(prepared)
    found = classifier.probabilities_of(classifier.scored(features, candidates)).topk(2)
    names = candidates or classifier.classes
    with PredictionLog(log) as kept:
        for row, scores, places in zip(features.numpy(), found.values.tolist(), found.indices.tolist(), strict=True):
            kept.add("watched", identity, row, [names[place] for place in places], scores, candidates)


def noisy(picture: Image.Image, generator: np.random.Generator, strength: float = 40.0) -> Image.Image:
    values = np.asarray(picture, dtype=float)
    values = values + generator.normal(0, strength, values.shape)
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))
