"""What is trained and measured on one data set: the protocol of the literature, and the adapter that is delivered.

- *base to novel*: an adapter trained on the base classes alone, tested on base and on novel classes (never their union).
- *all classes*: an adapter trained on every class; the best seed on validation pictures is the deliverable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from statistics import mean, stdev

import torch
from torch import Tensor

from mmlop import backbone as backbones
from mmlop import evaluation as ev
from mmlop.adapter import Adapter, AdapterInfo, Origin, PromptsRecord, record
from mmlop.backbone import Backbone
from mmlop.classifier import Classifier
from mmlop.config import Params
from mmlop.data import templates
from mmlop.data.manifest import Manifest
from mmlop.data.pictures import decode, prepare_files
from mmlop.data.splits import Split
from mmlop.errors import MmlopError
from mmlop.features import frozen_text, image_features
from mmlop.losses import Consistency
from mmlop.prompts import PromptShape
from mmlop.training import Epoch, Fit, Recipe, Shots, fit, mode

Metrics = dict[str, float]  # percent
OnEpoch = Callable[[int, Epoch], None]


@dataclass(frozen=True)
class Trained:
    """One training: the adapter, what it reached, and how it got there."""

    adapter: Adapter
    history: list[Epoch]
    trained_on: tuple[str, ...]  # content hashes of the pictures


class Bench:
    """One data set and one backbone, with everything that several seeds share loaded once."""

    def __init__(self, params: Params, backbone: Backbone, folder: Path, split: Split) -> None:
        """``folder`` holds the pictures and manifest.json. Raises MmlopError if the split was drawn from other data or for
        other shots and seeds, or the prompts do not fit into the backbone."""
        self.params, self.backbone, self.folder, self.split = params, backbone, folder, split
        self.manifest = Manifest.load(folder / "manifest.json")
        if split.manifest != self.manifest.hash:
            raise MmlopError(f"The splits of {self.name} were drawn from other data: make them again (`dvc repro split`).")
        if split.shots != params.fewshot.shots or not set(params.fewshot.seeds) <= set(split.draws):
            raise MmlopError(
                f"The splits of {self.name} hold {split.shots} shots for the seeds {', '.join(map(str, split.draws))}, not "
                f"what fewshot in params.yaml asks for: make them again (`dvc repro split`)."
            )
        self.shape = prompt_shape(params, backbone)
        self.recipe = recipe(params, backbone)
        self.anchor_templates = templates.get(params.profile.templates)
        self.checkpoints: Path | None = None
        self._prepared: dict[str, tuple[Tensor, Tensor]] = {}

    @property
    def name(self) -> str:
        return self.manifest.name

    @cached_property
    def anchors(self) -> Tensor:
        """w [C, d] of all classes."""
        return frozen_text(self.backbone, self.manifest.classes, self.anchor_templates)

    def prepared(self, part: str) -> tuple[Tensor, Tensor]:
        """Pictures [N, 3, S, S] (uint8) and labels [N] of a part, decoded once."""
        if part not in self._prepared:
            found = self.manifest.of(part)
            paths = [self.folder / picture.path for picture in found]
            self._prepared[part] = (
                prepare_files(paths, self.backbone.preprocessing.size),
                torch.tensor([picture.label for picture in found], dtype=torch.long),
            )
        return self._prepared[part]

    def load(self) -> None:
        """Decode and encode now what the seeds share, before they start side by side."""
        _ = self.anchors
        for part in ("val", "test"):
            self.prepared(part)

    def zero_shot(self) -> Metrics:
        """Accuracies of the frozen CLIP with the data set's template."""
        pictures, labels = self.prepared("test")
        images = image_features(self.backbone, pictures)
        text = frozen_text(self.backbone, self.manifest.classes, [self.manifest.template])
        return self._accuracies(
            lambda rows, classes: (self.backbone.logit_scale * images[rows] @ text[classes].T).cpu(),
            labels,
            {"base": self.split.base, "novel": self.split.novel, "accuracy": range(len(self.manifest.classes))},
        )

    def base_to_novel(self, seed: int, on_epoch: OnEpoch | None = None) -> tuple[Metrics, list[Epoch]]:
        """Train on the base classes; accuracies on the test pictures of base and novel classes."""
        trained = self.train(seed, self.split.base, on_epoch)
        classifier = Classifier(trained.adapter, self.backbone)
        pictures, labels = self.prepared("test")
        metrics = self._accuracies(
            lambda rows, classes: classifier.logits(pictures[rows], [self.manifest.classes[c] for c in classes]),
            labels,
            {"base": self.split.base, "novel": self.split.novel},
        )
        return metrics, trained.history

    def all_classes(self, seed: int, on_epoch: OnEpoch | None = None) -> Trained:
        """Train on every class; `validation` is what seeds are ranked by, `accuracy` and `ece` are of test pictures."""
        trained = self.train(seed, range(len(self.manifest.classes)), on_epoch)
        classifier = Classifier(trained.adapter, self.backbone)
        metrics: Metrics = {}
        for part, name in (("val", "validation"), ("test", "accuracy")):
            pictures, labels = self.prepared(part)
            if len(labels):
                logits = classifier.logits(pictures)
                metrics[name] = _round(ev.top1(logits, labels))
                if part == "test":
                    metrics["ece"] = _round(ev.calibration_error(logits, labels))
        info = trained.adapter.info.model_copy(update={"metrics": metrics})
        return Trained(Adapter(trained.adapter.factors, info), trained.history, trained.trained_on)

    def train(self, seed: int, labels: Iterable[int], on_epoch: OnEpoch | None = None) -> Trained:
        """Train on the shots of ``seed`` that belong to ``labels`` (renumbered from 0 in that order)."""
        order = {label: index for index, label in enumerate(labels)}
        by_path = {picture.path: picture for picture in self.manifest.of("train")}
        shots = [picture for path in self.split.draws[seed].train if (picture := by_path[path]).label in order]
        classes = tuple(self.manifest.classes[label] for label in order)
        result = fit(
            self.backbone,
            self.shape,
            self.recipe,
            Shots(
                [decode(self.folder / picture.path) for picture in shots],
                torch.tensor([order[picture.label] for picture in shots]),
                classes,
                self.manifest.template,
                self.anchors[list(order)],
            ),
            seed,
            self.name,
            self.checkpoints,
            on_epoch,
        )
        return Trained(self._adapter(result, classes, seed), result.history, tuple(p.content for p in shots))

    def confusion(self, adapter: Adapter) -> list[list[int]]:
        """Counts of (label, prediction) over the test pictures of all classes."""
        pictures, labels = self.prepared("test")
        return ev.confusion(Classifier(adapter, self.backbone).logits(pictures), labels).tolist()

    def _accuracies(
        self, logits: Callable[[Tensor, list[int]], Tensor], labels: Tensor, groups: dict[str, Sequence[int]]
    ) -> Metrics:
        """Accuracy and calibration error of each group of classes, among its own candidates; the harmonic mean of base and
        novel."""
        metrics: Metrics = {}
        for name, group in groups.items():
            classes = list(group)
            rows = torch.isin(labels, torch.tensor(classes))
            if not rows.any():
                continue
            scores = logits(rows, classes)
            within = labels[rows] - classes[0]  # each group is a run of consecutive labels
            metrics[name] = ev.top1(scores, within)
            metrics["ece" if name == "accuracy" else f"ece_{name}"] = ev.calibration_error(scores, within)
        if "base" in metrics and "novel" in metrics:
            metrics["hm"] = ev.harmonic_mean(metrics["base"], metrics["novel"])
        return {name: _round(value) for name, value in metrics.items()}

    def _adapter(self, result: Fit, classes: tuple[str, ...], seed: int) -> Adapter:
        info = AdapterInfo(
            prompts=PromptsRecord(**asdict(self.shape)),
            drift_correction=self.recipe.drift_correction,
            backbone=record(self.backbone),
            classes=classes,
            template=self.manifest.template,
            anchor_name=self.params.profile.templates,
            anchor_templates=self.anchor_templates,
            origin=Origin(
                dataset=self.name,
                data_hash=self.manifest.hash,
                split_hash=self.split.hash,
                shots=self.split.shots,
                seed=seed,
                params=self.params.resolved(),
                mode=mode(self.backbone),
            ),
            metrics={},
        )
        return Adapter(result.factors, info)


def load_backbone(params: Params) -> Backbone:
    """The configured backbone, frozen, on the configured device."""
    profile = params.profile
    return backbones.load(profile.architecture, profile.weights, profile.precision, params.device, profile.resolution)


def prompt_shape(params: Params, backbone: Backbone) -> PromptShape:
    """Raises MmlopError if the prompts are deeper than the shallower encoder."""
    deepest = min(backbone.vision_layers, backbone.text_layers)
    if params.depth > deepest:
        raise MmlopError(
            f"prompts.depth is {params.depth}, but {backbone.name} has {backbone.vision_layers} image and "
            f"{backbone.text_layers} text blocks: choose 1 to {deepest}."
        )
    return PromptShape(
        params.depth, params.tokens, params.rank, backbone.vision_width, backbone.text_width, params.prompts.shared
    )


def recipe(params: Params, backbone: Backbone) -> Recipe:
    """The configured recipe, with the consistency weights scaled to the backbone."""
    train, loss = params.train, params.loss
    return Recipe(
        epochs=params.epochs,
        batch_size=train.batch_size,
        learning_rate=params.learning_rate,
        warmup_epochs=train.warmup_epochs,
        warmup_rate=train.warmup_rate,
        momentum=train.momentum,
        weight_decay=train.weight_decay,
        crop=params.crop,
        flip=params.flip,
        consistency=Consistency(loss.text, loss.image, loss.logits).scaled_to(backbone.embed_dim, backbone.logit_scale),
        drift_correction=loss.drift_correction,
    )


def best(trained: dict[int, Trained]) -> int:
    """The seed whose adapter is best on validation pictures (the first of equals; the first where there are none)."""
    return max(trained, key=lambda seed: trained[seed].adapter.info.metrics.get("validation", 0.0))


def summarise(per_seed: Iterable[Metrics]) -> Metrics:
    """Mean of every metric over seeds, with its standard deviation beside it as ``<metric>_std`` (0 for one seed)."""
    runs = list(per_seed)
    summary: Metrics = {}
    for name in runs[0]:
        values = [run[name] for run in runs]
        summary[name] = _round(mean(values))
        summary[f"{name}_std"] = _round(stdev(values) if len(values) > 1 else 0.0)
    return summary


def _round(percent: float) -> float:
    """Four decimals: more is noise, and the bytes of a result file should not depend on it."""
    return round(percent, 4)
