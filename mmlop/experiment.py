"""One data set and one backbone: adapters trained on its shots, and what they are worth on its pictures."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from mmlop import evaluation as ev
from mmlop import mode
from mmlop.adapter import Adapter, AdapterInfo, Origin, PromptsRecord, record
from mmlop.backbone import Backbone
from mmlop.classifier import Classifier
from mmlop.config import Params
from mmlop.configured import prompt_shape, recipe
from mmlop.data import templates
from mmlop.data.manifest import Fetched, Manifest, Picture
from mmlop.data.pictures import decode, prepare_all
from mmlop.data.splits import Split, folds
from mmlop.errors import MmlopError
from mmlop.evaluation import Metrics, rounded
from mmlop.features import CHUNK, frozen_images, frozen_text
from mmlop.prompts import PromptShape
from mmlop.protocols import ALL_CLASSES, BASE_TO_NOVEL, FEW_SHOT, Training, shots_needed
from mmlop.training import Epoch, Fit, fit_together
from mmlop.views import Shots

logger = logging.getLogger(__name__)

RANKED_BY = ("validation", "accuracy_estimate")
DECODED_BYTES = 2 * 1024**3  # of training pictures kept in memory between trainings

OnEpoch = Callable[[int, dict[int, Epoch]], None]


@dataclass(frozen=True)
class Trained:
    """One training of one seed: the adapter, what it reached, and how it got there."""

    training: Training
    adapter: Adapter
    metrics: Metrics
    history: list[Epoch]
    trained_on: tuple[str, ...]  # content hashes of the pictures


@dataclass(frozen=True)
class _Decoded:
    """Pictures that are decoded when they are looked at, since those of a large data set do not fit into memory."""

    pictures: Sequence[Picture]
    decode: Callable[[Picture], Tensor]

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Tensor:
        return self.decode(self.pictures[index])


class Bench:
    """One data set and one backbone, with everything that several seeds share loaded once."""

    def __init__(self, params: Params, backbone: Backbone, data: Fetched, split: Split) -> None:
        """Raises MmlopError if the split was drawn from other data or for other shots and seeds, or the prompts do not fit
        into the backbone."""
        self.params, self.backbone, self.data, self.split = params, backbone, data, split
        if split.manifest != self.manifest.hash:
            raise MmlopError(f"The splits of {self.name} were drawn from other data: make them again (`dvc repro split`).")
        for shots in shots_needed(params):
            if not set(params.fewshot.seeds) <= set(split.draws.get(shots, ())):
                raise MmlopError(
                    f"The splits of {self.name} do not hold {shots} shots for every seed that params.yaml asks for: make "
                    f"them again (`dvc repro split`)."
                )
        self.recipe = recipe(params, backbone)
        self.anchor_templates = templates.get(params.profile.templates)
        self.checkpoints: Path | None = None
        self._decoded: dict[str, Tensor] = {}
        self._decoded_bytes = 0
        self._prepared: dict[str, tuple[Tensor, Tensor]] = {}
        prompt_shape(params, backbone)

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
            self._prepared[part] = self._prepare(self.manifest.of(part))
        return self._prepared[part]

    def load(self) -> None:
        """Decode and encode what all seeds share, once and before any of them starts."""
        _ = self.anchors, self._shots_by_path
        for part in ("val", "test") if self.has_parts else ():
            self.prepared(part)

    def zero_shot(self) -> Metrics:
        """Accuracies of the frozen CLIP with the data set's template, on the pictures that adapters are measured on."""
        shown = self.manifest.of("test") if self.has_parts else self._judged()
        pictures, labels = self._prepare(shown)
        images = frozen_images(self.backbone, pictures, [picture.content for picture in shown])
        text = frozen_text(self.backbone, self.manifest.classes, [self.manifest.template])
        halves = {"base": self.split.base, "novel": self.split.novel}
        return self._accuracies(
            lambda rows, classes: (self.backbone.logit_scale * images[rows] @ text[classes].T).cpu(),
            labels,
            (halves if self.has_parts and self.params.protocols.base_to_novel else {}) | {"accuracy": self.labels},
        )

    def run(self, training: Training, seeds: Sequence[int], on_epoch: OnEpoch | None = None) -> dict[int, Trained]:
        """Train by a protocol, all ``seeds`` together, and measure what it wants on the data set's own pictures."""
        numbers = ", ".join(map(str, seeds))
        logger.info("%s: training for %s, shots %d, seeds %s", self.name, training.protocol, training.shots, numbers)
        labels = self.split.base if training.base_only else self.labels
        trained = self.train(training, seeds, labels, on_epoch)
        if training.protocol == BASE_TO_NOVEL:
            return {seed: replace(one, metrics=self._halves(one.adapter)) for seed, one in trained.items()}
        if training.protocol == FEW_SHOT:
            return {seed: replace(one, metrics=self._on_part(one.adapter, "test")) for seed, one in trained.items()}
        if training.protocol == ALL_CLASSES:
            estimates = {} if self.has_parts else self._estimates(training, seeds)
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
        shots = {seed: self._shots(training.shots, seed, order, without) for seed in seeds}
        shape = prompt_shape(self.params, self.backbone, training.depth)
        found = fit_together(
            self.backbone,
            shape,
            replace(self.recipe, epochs=training.epochs or self.recipe.epochs),
            {
                seed: Shots(
                    _Decoded(pictures, self._decode),
                    torch.tensor([order[picture.label] for picture in pictures]),
                    classes,
                    self.manifest.template,
                    self.anchors[list(order)],
                )
                for seed, pictures in shots.items()
            },
            self.name,
            self.checkpoints,
            on_epoch,
        )
        return {
            seed: Trained(
                training,
                self._adapter(result, shape, classes, training, seed, len(seeds)),
                {},
                result.history,
                tuple(picture.content for picture in shots[seed]),
            )
            for seed, result in found.items()
        }

    def _decode(self, picture: Picture) -> Tensor:
        """The whole picture; kept for the next epoch and for other seeds and trainings as long as there is room."""
        if (known := self._decoded.get(picture.content)) is not None:
            return known
        least = math.ceil(self.backbone.preprocessing.size / math.sqrt(self.recipe.crop))  # so that no view is magnified
        found = decode(self.data, picture, least)
        if self._decoded_bytes + found.nbytes < DECODED_BYTES:
            self._decoded[picture.content] = found
            self._decoded_bytes += found.nbytes
        return found

    def _shots(self, shots: int, seed: int, labels: Container[int], without: Container[str] = ()) -> list[Picture]:
        drawn = (self._shots_by_path[path] for path in self.split.draws[shots][seed].train if path not in without)
        return [picture for picture in drawn if picture.label in labels]

    def confusion(self, adapter: Adapter) -> list[list[int]]:
        """Counts of (label, prediction) over the test pictures of all classes; none without a test part."""
        pictures, labels = self.prepared("test")
        return ev.confusion(Classifier(adapter, self.backbone).logits(pictures), labels).tolist() if len(labels) else []

    def _prepare(self, pictures: Sequence[Picture]) -> tuple[Tensor, Tensor]:
        labels = torch.tensor([picture.label for picture in pictures], dtype=torch.long)
        return prepare_all(self.data, pictures, self.backbone.preprocessing.size), labels

    def _halves(self, adapter: Adapter) -> Metrics:
        """Accuracies on test pictures of base and of novel classes, each among their own candidates."""
        classifier = Classifier(adapter, self.backbone)
        pictures, labels = self.prepared("test")
        return self._accuracies(
            lambda rows, classes: classifier.logits(
                (pictures[some] for some in rows.nonzero().flatten().split(CHUNK)),  # all would not fit into memory
                [self.manifest.classes[c] for c in classes],
            ),
            labels,
            {"base": self.split.base, "novel": self.split.novel},
        )

    def _delivered(self, trained: Trained, estimate: Metrics) -> Trained:
        """`validation` is what seeds are ranked by, `accuracy` and `ece` are of test pictures; where there are neither,
        ``estimate`` takes their place."""
        if self.has_parts:
            metrics = self._on_part(trained.adapter, "test")
            if validation := self._on_part(trained.adapter, "val"):
                metrics["validation"] = validation["accuracy"]
        else:
            metrics = estimate
        info = trained.adapter.info.model_copy(update={"metrics": metrics})
        return replace(trained, adapter=Adapter(trained.adapter.factors, info), metrics=metrics)

    def _on_part(self, adapter: Adapter, part: str) -> Metrics:
        """Accuracy and calibration error among all classes of the adapter; nothing for a part without pictures."""
        pictures, labels = self.prepared(part)
        if not len(labels):
            return {}
        logits = Classifier(adapter, self.backbone).logits(pictures)
        return {"accuracy": rounded(ev.top1(logits, labels)), "ece": rounded(ev.calibration_error(logits, labels))}

    def _estimates(self, training: Training, seeds: Sequence[int]) -> dict[int, Metrics]:
        """`accuracy_estimate` by k-fold: every shot is classified by an adapter that was trained on other folds. A class
        with a single picture keeps it for training. Nothing where no class has two."""
        hits: dict[int, list[Tensor]] = {seed: [] for seed in seeds}
        for seed in seeds:
            for fold in filter(None, folds(self._shots(training.shots, seed, self.labels))):
                without = frozenset(picture.path for picture in fold)
                other = self.train(training, [seed], self.labels, without=without)[seed]
                prepared, labels = self._prepare(fold)
                hits[seed].append(Classifier(other.adapter, self.backbone).logits(prepared).argmax(dim=1) == labels)
        return {
            seed: {"accuracy_estimate": rounded(100 * torch.cat(found).double().mean().item())} if found else {}
            for seed, found in hits.items()
        }

    def _judged(self) -> list[Picture]:
        """What the folds of all seeds hold."""
        shots = self.params.fewshot.shots
        drawn = [self._shots(shots, seed, self.labels) for seed in self.params.fewshot.seeds]
        judged = {picture for each in drawn for fold in folds(each) for picture in fold}
        return sorted(judged, key=lambda picture: picture.path)

    def _accuracies(
        self,
        logits: Callable[[Tensor, list[int]], Tensor],
        labels: Tensor,
        groups: Mapping[str, Sequence[int]],
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
        return {name: rounded(value) for name, value in metrics.items()}

    def _adapter(
        self, result: Fit, shape: PromptShape, classes: tuple[str, ...], training: Training, seed: int, together: int
    ) -> Adapter:
        params = self.params.resolved()
        params["prompts"]["depth"], params["train"]["epochs"] = shape.depth, len(result.history)
        info = AdapterInfo(
            prompts=PromptsRecord(**asdict(shape)),
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
