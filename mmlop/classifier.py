"""A classifier: an adapter in front of its backbone, from pictures to labels."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmlop import backbone as backbones
from mmlop.adapter import Adapter
from mmlop.backbone import Backbone
from mmlop.data import pictures as pics
from mmlop.errors import MmlopError
from mmlop.features import frozen_text, image_features, prompted_text, prompted_tokens
from mmlop.prompts import compose

PictureLike = str | Path | bytes | Image.Image | np.ndarray


@dataclass(frozen=True)
class Prediction:
    """Labels with their probabilities, most probable first."""

    labels: tuple[str, ...]
    scores: tuple[float, ...]  # softmax over the candidate classes

    @property
    def label(self) -> str:
        return self.labels[0]


class Classifier:
    """``Classifier.load(folder).predict(pictures)``; other class names than the adapter's may be scored too."""

    def __init__(self, adapter: Adapter, backbone: Backbone) -> None:
        adapter.check_backbone(backbone)
        self.adapter, self.backbone = adapter, backbone
        vision, text = compose(adapter.factors)
        self._vision, self._text = vision.to(backbone.device), text.to(backbone.device)
        self._class_features = lru_cache(maxsize=8)(self._compute_class_features)

    @classmethod
    def load(cls, folder: Path | str, device: str = "cpu") -> Classifier:
        """Read an adapter folder and the backbone that it names. Raises MmlopError where either does not fit."""
        adapter = Adapter.load(folder)
        wanted = adapter.info.backbone
        return cls(adapter, _backbone(wanted.name, wanted.weights, wanted.precision, device, wanted.resolution))

    @property
    def classes(self) -> tuple[str, ...]:
        return self.adapter.info.classes

    def predict(
        self, pictures: PictureLike | Sequence[PictureLike], classes: Sequence[str] | None = None
    ) -> list[Prediction]:
        """A prediction per picture (paths, bytes of a picture file, PIL images, or uint8 arrays [H, W, 3]).

        ``classes`` are the candidates; None takes those the adapter was trained on. Raises MmlopError for a picture that
        cannot be read, and for candidates that are none, named twice, or unknown to the backbone.
        """
        many = pictures if isinstance(pictures, Sequence) and not isinstance(pictures, str | bytes) else [pictures]
        names = self.classes if classes is None else (classes,) if isinstance(classes, str) else tuple(classes)
        if classes is not None and (twice := [name for name in names if names.count(name) > 1]):
            raise MmlopError(f"The class '{twice[0]}' is named twice: name each candidate once.")
        size = self.backbone.preprocessing.size
        if not many:
            return []
        prepared = torch.stack([pics.prepare(open_picture(picture), size) for picture in many])
        scores = self.logits(prepared, names).softmax(dim=1)
        order = scores.argsort(dim=1, descending=True, stable=True)
        return [
            Prediction(tuple(names[i] for i in row), tuple(one[i].item() for i in row))
            for row, one in zip(order.tolist(), scores, strict=True)
        ]

    def logits(self, prepared: Tensor | Iterable[Tensor], classes: Sequence[str] | None = None) -> Tensor:
        """tau f' w*^T [N, C] of prepared uint8 pictures, [N, 3, S, S] or batches of such, over ``classes`` (None: the
        adapter's)."""
        text = self._class_features(tuple(classes) if classes is not None else self.classes)
        features = image_features(self.backbone, prepared, self._vision)
        return (self.backbone.logit_scale * features @ text.T).cpu()

    @torch.no_grad()
    def _compute_class_features(self, classes: tuple[str, ...]) -> Tensor:
        if not classes:
            raise MmlopError("There is no class to choose from: give at least one class name.")
        info = self.adapter.info
        anchors = frozen_text(self.backbone, classes, info.anchor_templates)
        tokens = prompted_tokens(self.backbone, classes, self.adapter.shape.tokens)
        return prompted_text(self.backbone, tokens, self._text, anchors, info.drift_correction)


def open_picture(picture: PictureLike) -> Image.Image:
    """An RGB image from a path, the bytes of a picture file, a PIL image or a uint8 array [H, W, 3]."""
    if isinstance(picture, str | Path):
        return pics.read(picture)
    if isinstance(picture, Image.Image):
        return pics.rgb(picture)
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise MmlopError(f"An array of {picture.dtype} {picture.shape} is no picture: give uint8 [H, W, 3].")
        return Image.fromarray(picture)
    try:
        with Image.open(io.BytesIO(picture)) as image:
            return pics.rgb(image)
    except Exception as error:  # as in pictures.read
        raise MmlopError(f"{len(picture)} bytes were given that are no readable picture ({error}).") from error


@lru_cache(maxsize=2)
def _backbone(name: str, weights: str, precision: str, device: str, resolution: int) -> Backbone:
    """Backbones are shared by the adapters of a process."""
    return backbones.load(name, None if weights == "local" else weights, precision, device, resolution)
