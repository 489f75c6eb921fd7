"""A classifier: an adapter with its backbone, from pictures to labels. The same for every method."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from threading import Lock
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from mmlop import backbone as backbones
from mmlop import probe, tip
from mmlop.adapter import Adapter
from mmlop.backbone import Backbone
from mmlop.data.pictures import prepare
from mmlop.errors import MmlopError, listing
from mmlop.features import CHUNK, frozen_text
from mmlop.inputs import PictureLike, each, open_picture
from mmlop.shapes import texts_of, tuned


@dataclass(frozen=True)
class Prediction:
    """Labels with their probabilities, most probable first."""

    labels: tuple[str, ...]
    scores: tuple[float, ...]  # probabilities over the candidate classes

    @property
    def label(self) -> str:
        return self.labels[0]


class Classifier:
    """``Classifier.load(folder).predict(pictures)``; other class names than the adapter's may be scored too."""

    def __init__(self, adapter: Adapter, backbone: Backbone) -> None:
        adapter.check_backbone(backbone)
        self.adapter, self.backbone = adapter, backbone
        plain = torch.contiguous_format  # in memory of its own: where a file was read to decides the last bit of products
        self._factors = {
            name: value.to(backbone.device).clone(memory_format=plain) for name, value in adapter.factors.items()
        }
        self.tuned = tuned(adapter.shape, self._factors)
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

    @property
    def open_vocabulary(self) -> bool:
        """Whether classes can be scored that the adapter was not trained on."""
        return self.adapter.shape.kind != "probe"

    def require_known(self, names: Sequence[str]) -> None:
        """Raise MmlopError for classes that the adapter cannot score."""
        if not self.open_vocabulary and (unknown := [name for name in names if name not in self.classes]):
            raise MmlopError(
                f"The {self.adapter.info.method} adapter was not trained on '{unknown[0]}', and knows no other classes "
                f"than {listing(self.classes, unknown[0])}: choose among these, or another method."
            )

    def predict(
        self, pictures: PictureLike | Iterable[PictureLike], classes: Sequence[str] | None = None
    ) -> list[Prediction]:
        """A prediction per picture (see `mmlop.inputs` for what may stand for one), in bounded memory.

        ``classes`` are the candidates; None takes those the adapter was trained on. Raises MmlopError for a picture that
        cannot be read, and for candidates that are none, named twice, or unknown to the backbone or to a linear probe.
        """
        names = self.candidates(classes)
        prepared = (prepare(open_picture(one), self.backbone.preprocessing.size) for one in each(pictures))
        batches = iter(lambda: list(islice(prepared, CHUNK)), [])
        return ranked(self.probabilities(map(torch.stack, batches), names), names)

    def candidates(self, classes: Sequence[str] | None) -> tuple[str, ...]:
        """The class names to choose from: the adapter's for None. Raises MmlopError where `predict` does for them."""
        if classes is None:
            return self.classes
        names = (classes,) if isinstance(classes, str) else tuple(classes)
        if not names:
            raise MmlopError("There is no class to choose from: give at least one class name.")
        if len(set(names)) < len(names):
            twice, _ = Counter(names).most_common(1)[0]
            raise MmlopError(f"The class '{twice}' is named twice: name each candidate once.")
        self.require_known(names)
        return names

    def logits(self, prepared: Tensor | Iterable[Tensor], classes: Sequence[str] | None = None) -> Tensor:
        """Scores [N, C] of prepared uint8 pictures, [N, 3, S, S] or batches of such: see `scored`."""
        return self.scored(self.features(prepared), classes)

    def scored(self, features: Tensor, classes: Sequence[str] | None = None) -> Tensor:
        """Scores [N, C] of f' [N, d] over ``classes`` (None: the adapter's): tau f' w*^T, or what the method has in its
        place. A linear probe scores unknown classes as -inf.
        """
        names = tuple(classes) if classes is not None else self.classes
        if self.adapter.shape.kind == "probe":
            scores = probe.logits(self._factors, features)
            known = torch.cat([scores, torch.full_like(scores[:, :1], -torch.inf)], dim=1)
            return known[:, [-1 if column is None else column for column in self.columns(names)]].cpu()
        text = self.class_features(names)
        if self.adapter.shape.kind == "cache":
            return tip.logits(self._factors, features, text, self.backbone.logit_scale, self.columns(names)).cpu()
        return (self.backbone.logit_scale * features @ text.T).cpu()

    def probabilities(self, prepared: Tensor | Iterable[Tensor], classes: Sequence[str] | None = None) -> Tensor:
        """[N, C] of prepared pictures over ``classes``; see `probabilities_of`."""
        return self.probabilities_of(self.logits(prepared, classes))

    def probabilities_of(self, logits: Tensor) -> Tensor:
        """[N, C]: the softmax of logits divided by the adapter's temperature."""
        return (logits / self.adapter.info.temperature).softmax(dim=1)

    def class_features(self, classes: tuple[str, ...]) -> Tensor:
        """w* [C, d], unit length; of the last few sets of classes they are kept. Not for a linear probe, which has none."""
        return self._class_features(classes)

    @torch.no_grad()
    def features(self, prepared: Tensor | Iterable[Tensor]) -> Tensor:
        """f' [N, d], unit length, of prepared uint8 pictures [N, 3, S, S], or batches of such."""
        batches = prepared.split(CHUNK) if isinstance(prepared, Tensor) else prepared
        found = [self.tuned.images(self.backbone, batch) for batch in batches]
        return torch.cat(found) if found else torch.empty(0, self.backbone.embed_dim)

    def columns(self, names: tuple[str, ...]) -> list[int | None]:
        """Where the trained classes' scores go; two classes of a data set may have the same name."""
        if names == self.classes:
            return list(range(len(names)))
        places = {name: place for place, name in enumerate(self.classes)}
        return [places.get(name) for name in names]

    @torch.no_grad()
    def _compute_class_features(self, classes: tuple[str, ...]) -> Tensor:
        info, keep = self.adapter.info, classes == self.classes
        anchors = torch.empty(0)
        if info.drift_correction:
            anchors = frozen_text(self.backbone, classes, info.anchor_templates, keep)
        texts = texts_of(self.backbone, info.shape, classes, info.template, keep)
        return self.tuned.texts(self.backbone, texts, anchors, info.drift_correction)


def ranked(probabilities: Tensor, names: Sequence[str]) -> list[Prediction]:
    """The rows of [N, C] with their class names, most probable first."""
    values, order = probabilities.sort(dim=1, descending=True, stable=True)
    return [
        Prediction(tuple(names[i] for i in row), tuple(scores))
        for row, scores in zip(order.tolist(), values.tolist(), strict=True)
    ]


_used: WeakValueDictionary[tuple[str, str, str, str, int], Backbone] = WeakValueDictionary()  # by some classifier
_loading = Lock()


@lru_cache(maxsize=2)  # these stay though nobody uses them
def _backbone(name: str, weights: str, precision: str, device: str, resolution: int) -> Backbone:
    """Backbones are shared by the adapters of a process, of whatever thread."""
    key = name, weights, precision, device, resolution
    known = _used.get(key)
    if known is None:
        with _loading:
            known = _used.get(key) or backbones.load(name, None if weights == "local" else weights, *key[2:])
            _used[key] = known
    return known
