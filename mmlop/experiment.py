"""One data set and one backbone: adapters trained on its shots, and what they are worth on its pictures."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmlop import configured, estimate, heads, methods, mode
from mmlop import evaluation as ev
from mmlop.adapter import Adapter, AdapterInfo, Origin, record
from mmlop.backbone import Backbone
from mmlop.classifier import Classifier
from mmlop.config import Params
from mmlop.data import templates
from mmlop.data.manifest import Fetched, Manifest, Picture
from mmlop.data.pictures import prepare_all
from mmlop.data.splits import Split
from mmlop.decoding import Decoder
from mmlop.errors import MmlopError
from mmlop.evaluation import Metrics, rounded
from mmlop.features import CHUNK, frozen_images, frozen_text
from mmlop.protocols import ALL_CLASSES, BASE_TO_NOVEL, FEW_SHOT, Training, shots_needed
from mmlop.shapes import Shape
from mmlop.training import Epoch, Fit, fit_together
from mmlop.views import Shots

logger = logging.getLogger(__name__)

RANKED_BY = ("validation", "accuracy_estimate")

OnEpoch = Callable[[int, dict[int, Epoch]], None]


@dataclass(frozen=True)
class Trained:
    """One training of one seed: the adapter, what it reached, and how it got there."""

    training: Training
    adapter: Adapter
    metrics: Metrics
    history: list[Epoch]  # of methods that train in epochs
    trained_on: tuple[str, ...]  # content hashes of the shots, and of validation pictures by which it was chosen
    shown: dict[str, Any] = field(default_factory=dict)  # of each group of classes: reliability and confusion, for charts


class Bench:
    """One data set and one backbone, with everything that several seeds share loaded once."""

    def __init__(self, params: Params, backbone: Backbone, data: Fetched, split: Split, part: str = "test") -> None:
        """``part`` is what adapters are measured on; hyper-parameters are chosen on `val`, of which linear_probe and
        tip_adapter have seen a few pictures, by which they choose their strengths.

        Raises MmlopError if the split was drawn from other data or for other shots and seeds, or the prompts do not fit
        into the backbone."""
        self.params, self.backbone, self.data, self.split, self.part = params, backbone, data, split, part
        self.kind = methods.get(params.method).kind
        if split.manifest != self.manifest.hash:
            raise MmlopError(f"The splits of {self.name} were drawn from other data: make them again (`dvc repro split`).")
        for shots in shots_needed(params):
            if not set(params.fewshot.seeds) <= set(split.draws.get(shots, ())):
                raise MmlopError(
                    f"The splits of {self.name} do not hold {shots} shots for every seed that params.yaml asks for: make "
                    f"them again (`dvc repro split`)."
                )
        self.recipe = configured.recipe(params, backbone)
        self.anchor_name, self.anchor_templates = params.profile.templates, templates.get(params.profile.templates)
        if params.effective["loss"]["anchor"] == "template":
            self.anchor_name, self.anchor_templates = "template", (self.manifest.template,)
        self.checkpoints: Path | None = None
        # The least side is such that no view of a picture is magnified.
        self._decoder = Decoder(data, math.ceil(backbone.preprocessing.size / math.sqrt(self.recipe.crop)))
        self._prepared: dict[str, tuple[Tensor, Tensor]] = {}
        configured.shape(params, backbone)

    @property
    def manifest(self) -> Manifest:
        return self.data.manifest

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def has_parts(self) -> bool:
        """Whether there are pictures to test on, or all are needed for training."""
        return self.manifest.split != "k-fold"

    @cached_property
    def labels(self) -> range:
        return range(len(self.manifest.classes))

    @cached_property
    def anchors(self) -> Tensor:
        """w [C, d] of all classes."""
        return frozen_text(self.backbone, self.manifest.classes, self.anchor_templates)

    @cached_property
    def _shots_by_path(self) -> dict[str, Picture]:
        drawn = {path for seeds in self.split.draws.values() for draw in seeds.values() for path in draw.train}
        return {picture.path: picture for picture in self.manifest.pictures if picture.path in drawn}

    def prepared(self, part: str) -> tuple[Tensor, Tensor]:
        """Pictures [N, 3, S, S] (uint8) and labels [N] of a part, decoded once."""
        if part not in self._prepared:
            self._prepared[part] = self.prepare(self.manifest.of(part))
        return self._prepared[part]

    def prepare(self, pictures: Sequence[Picture]) -> tuple[Tensor, Tensor]:
        """Pictures [N, 3, S, S] (uint8) and their labels [N]."""
        labels = torch.tensor([picture.label for picture in pictures], dtype=torch.long)
        return prepare_all(self.data, pictures, self.backbone.preprocessing.size), labels

    def shots(self, count: int, seed: int, labels: Container[int], without: Container[str] = ()) -> list[Picture]:
        """The training pictures of a seed, ``count`` of each class at most, that belong to ``labels``."""
        drawn = (self._shots_by_path[path] for path in self.split.draws[count][seed].train if path not in without)
        return [picture for picture in drawn if picture.label in labels]

    def load(self) -> None:
        """Decode and encode what all seeds share, once and before any of them starts."""
        _ = self.anchors, self._shots_by_path
        for part in {"val", self.part} if self.has_parts else ():
            self.prepared(part)

    def zero_shot(self) -> Metrics:
        """Accuracies of the frozen CLIP with the data set's template, on the pictures that adapters are measured on."""
        shown = self.manifest.of(self.part) if self.has_parts else estimate.judged(self)
        pictures, labels = self.prepare(shown)
        images = frozen_images(self.backbone, pictures, [picture.content for picture in shown])
        text = frozen_text(self.backbone, self.manifest.classes, [self.manifest.template])
        halves = {"base": self.split.base, "novel": self.split.novel}
        return ev.by_group(
            lambda rows, classes: (self.backbone.logit_scale * images[rows] @ text[classes].T).cpu(),
            labels,
            (halves if self.has_parts and self.params.protocols.base_to_novel else {}) | {"accuracy": self.labels},
        )[0]

    def run(self, training: Training, seeds: Sequence[int], on_epoch: OnEpoch | None = None) -> dict[int, Trained]:
        """Train by a protocol, all ``seeds`` together, and measure what it wants on the data set's own pictures."""
        numbers = ", ".join(map(str, seeds))
        logger.info("%s: training for %s, shots %d, seeds %s", self.name, training.protocol, training.shots, numbers)
        labels = self.split.base if training.base_only else self.labels
        trained = self.train(training, seeds, labels, on_epoch)
        if training.protocol == BASE_TO_NOVEL:
            return {seed: self._on_halves(one) for seed, one in trained.items()}
        if training.protocol == FEW_SHOT:
            return {seed: replace(one, metrics=self._on_part(one.adapter, self.part)) for seed, one in trained.items()}
        if training.protocol == ALL_CLASSES:
            estimates = {} if self.has_parts else estimate.by_folds(self, training, seeds)
            return {seed: self._delivered(one, estimates.get(seed, {})) for seed, one in trained.items()}
        return trained  # measured on other data sets

    def train(
        self,
        training: Training,
        seeds: Sequence[int],
        labels: Iterable[int],
        on_epoch: OnEpoch | None = None,
        without: frozenset[str] = frozenset(),
    ) -> dict[int, Trained]:
        """Train on the shots of each seed that belong to ``labels`` (renumbered from 0 in that order), but for the paths
        ``without``."""
        order = {label: index for index, label in enumerate(labels)}
        classes = tuple(self.manifest.classes[label] for label in order)
        pictures = {seed: self.shots(training.shots, seed, order, without) for seed in seeds}
        shots = {
            seed: Shots(
                self._decoder.of(chosen),
                torch.tensor([order[picture.label] for picture in chosen]),
                classes,
                self.manifest.template,
                self.anchors[list(order)],
            )
            for seed, chosen in pictures.items()
        }
        shape = configured.shape(self.params, self.backbone, training.depth)
        if shape is None:
            made = {seed: self._head(one, pictures[seed], training.shots, seed, order) for seed, one in shots.items()}
        else:
            recipe = replace(self.recipe, epochs=training.epochs, steps_per_shot=None) if training.epochs else self.recipe
            recipe = recipe.lasting(min(map(len, pictures.values())), training.shots)
            fits = fit_together(self.backbone, shape, recipe, shots, self.name, self.checkpoints, on_epoch)
            made = {seed: (shape, one, []) for seed, one in fits.items()}
        return {
            seed: Trained(
                training,
                self._adapter(found, shape, classes, training, seed, len(seeds)),
                {},
                found.history,
                tuple(picture.content for picture in (*pictures[seed], *chosen_by)),
            )
            for seed, (shape, found, chosen_by) in made.items()
        }

    def _head(
        self, shots: Shots, pictures: Sequence[Picture], count: int, seed: int, order: Mapping[int, int]
    ) -> tuple[Shape, Fit, list[Picture]]:
        """Of a method that trains no encoder, with the seed's few validation pictures by which strengths were chosen."""
        drawn = set(self.split.draws[count][seed].val) if self.kind in heads.CHOOSING else ()
        few = [picture for picture in self.manifest.of("val") if picture.path in drawn and picture.label in order]
        prepared, validation = (
            (
                prepare_all(self.data, some, self.backbone.preprocessing.size),
                torch.tensor([order[picture.label] for picture in some], dtype=torch.long),
                [picture.content for picture in some],
            )
            for some in (pictures, few)
        )
        shape, factors = heads.fit(self.backbone, self.kind, self.recipe, shots, prepared, validation, seed)
        return shape, Fit(factors, []), few

    def confusion(self, adapter: Adapter) -> list[list[int]]:
        """Counts of (label, prediction) over the test pictures of all classes; none without a test part."""
        pictures, labels = self.prepared("test")
        return ev.confusion(Classifier(adapter, self.backbone).logits(pictures), labels).tolist() if len(labels) else []

    def _on_halves(self, trained: Trained) -> Trained:
        """Accuracies on pictures of base and of novel classes, each among their own candidates; of base classes alone where
        the method knows no others."""
        classifier = Classifier(trained.adapter, self.backbone)
        pictures, labels = self.prepared(self.part)
        halves = {"base": self.split.base} | ({"novel": self.split.novel} if classifier.open_vocabulary else {})
        metrics, shown = ev.by_group(
            lambda rows, classes: classifier.logits(
                (pictures[some] for some in rows.nonzero().flatten().split(CHUNK)),  # all would not fit into memory
                [self.manifest.classes[c] for c in classes],
            ),
            labels,
            halves,
        )
        return replace(trained, metrics=metrics, shown=shown)

    def _delivered(self, trained: Trained, estimated: Metrics) -> Trained:
        """With the temperature that validation pictures ask for. `validation` is what seeds are ranked by, `accuracy` and
        `ece` (of calibrated probabilities) are of test pictures; without these, ``estimated`` takes their place."""
        metrics, info = estimated, trained.adapter.info
        pictures = {name: estimate.tested(self, trained.training, info.origin.seed) for name in estimated}
        if self.has_parts:
            logits, labels = self._scored(trained.adapter, "val")
            info = info.model_copy(update={"temperature": ev.temperature(logits, labels)})
            metrics = self._on_part(Adapter(trained.adapter.factors, info), "test")
            pictures = dict.fromkeys(metrics, len(self.manifest.of("test")))
            if len(labels):
                metrics["validation"], pictures["validation"] = rounded(ev.top1(logits, labels)), len(labels)
        adapter = Adapter(trained.adapter.factors, info.model_copy(update={"metrics": metrics, "pictures": pictures}))
        return replace(trained, adapter=adapter, metrics=metrics)

    def _on_part(self, adapter: Adapter, part: str) -> Metrics:
        """Accuracy and calibration error among all classes of the adapter; nothing for a part without pictures."""
        logits, labels = self._scored(adapter, part)
        if not len(labels):
            return {}
        ece = ev.calibration_error(logits / adapter.info.temperature, labels)
        return {"accuracy": rounded(ev.top1(logits, labels)), "ece": rounded(ece)}

    def _scored(self, adapter: Adapter, part: str) -> tuple[Tensor, Tensor]:
        """Logits [N, C] and labels [N] of a part."""
        pictures, labels = self.prepared(part)
        return Classifier(adapter, self.backbone).logits(pictures), labels

    def _adapter(
        self, result: Fit, shape: Shape, classes: tuple[str, ...], training: Training, seed: int, together: int
    ) -> Adapter:
        params = self.params.resolved()
        params["train"] = params["train"] | {"epochs": len(result.history) or None}
        info = AdapterInfo(
            method=self.params.method,
            shape=shape,
            drift_correction=self.recipe.drift_correction,
            backbone=record(self.backbone),
            classes=classes,
            template=self.manifest.template,
            anchor_name=self.anchor_name,
            anchor_templates=self.anchor_templates,
            origin=Origin(
                dataset=self.name,
                source=self.manifest.source,
                licence=self.manifest.licence,
                data_hash=self.manifest.hash,
                split_hash=self.split.hash,
                shots=training.shots,
                seed=seed,
                params=params,
                mode=mode.of(self.backbone, together),
            ),
            metrics={},
        )
        return Adapter(result.factors, info)


def best(trained: Mapping[int, Trained]) -> int:
    """The seed whose adapter is best on validation pictures, or by its estimate without such (the first of equals, or where
    there is neither)."""
    return max(
        trained, key=lambda seed: next((trained[seed].metrics[m] for m in RANKED_BY if m in trained[seed].metrics), 0.0)
    )
