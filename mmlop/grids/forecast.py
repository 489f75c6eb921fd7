"""What a grid is expected to take, before it is begun: hours, told by a few steps on this device, and disk space."""

from __future__ import annotations

import logging
import math
import os
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mmlop import methods
from mmlop.backbone import Backbone
from mmlop.config import Params
from mmlop.data import datasets, public, splits
from mmlop.data.manifest import Fetched, Manifest, Picture, content_of
from mmlop.errors import MmlopError
from mmlop.experiment import Bench
from mmlop.features import image_features
from mmlop.grids import inputs, points
from mmlop.grids.points import Overrides, Plan, Point
from mmlop.protocols import ALL_CLASSES, Training

logger = logging.getLogger(__name__)

LONG, LARGE = 1.0, 10.0  # hours, and gigabytes to download, from which on a person is asked
SIZES = (10, 40)  # numbers of classes at which a training is timed; a step takes longer linearly with them
STEPS, EPOCHS = 3, 3  # of a timed training; its first epoch, in which libraries set themselves up, does not count
SHOWN = 64  # pictures of the timed evaluation


@dataclass(frozen=True)
class Pace:
    """How fast a method is on this device."""

    seconds: tuple[float, float]  # of training, for each picture looked at, at SIZES classes
    testing: float  # seconds for a test picture

    def of_picture(self, classes: int) -> float:
        """By the line through the two that were timed, but never less than either."""
        (few, many), (at_few, at_many) = SIZES, self.seconds
        return max(at_few, at_many, at_few + (at_many - at_few) / (many - few) * (classes - few))


@dataclass(frozen=True)
class Size:
    """Of a data set."""

    classes: int
    tested: int  # test pictures


@dataclass(frozen=True)
class Expected:
    hours: float
    download: float  # gigabytes
    disk: float  # gigabytes, of pictures once their archives are gone
    by_hand: dict[str, str]  # data sets whose archives a person has to put into place, and how
    untimed: dict[str, str]  # methods left out of `hours`, and why

    @property
    def much(self) -> bool:
        return self.hours > LONG or self.download > LARGE

    def __str__(self) -> str:
        said = [f"about {_hours(self.hours)} on this machine"]
        if self.download:
            said.append(f"{self.download:.1f} GB to download, {self.disk:.1f} GB of pictures on disk")
        said += [f"{name} by hand: {step}" for name, step in self.by_hand.items()]
        said += [f"{method} not counted ({why})" for method, why in self.untimed.items()]
        return "; ".join(said)


def expected(root: Path, plan: Plan, params: Params, pending: Iterable[tuple[Point, str]], at_once: int) -> Expected:
    """What measuring the ``pending`` points and data sets takes with ``at_once`` workers.

    Raises MmlopError if a backbone cannot be loaded on its device.
    """
    missing = [public.SPECS[name] for name in plan.datasets if _is_missing(root, name)]
    loaded_down = [spec for spec in missing if spec.had != "by hand"]
    sizes = {name: size_of(root, name, params) for name in plan.datasets}
    seconds, untimed = 0.0, {}
    for point, dataset in pending:
        try:
            pace = pace_of(point.params)
        except _Untimed as error:
            untimed[point.params.method] = str(error)
            continue
        seconds += seconds_of(point, sizes[dataset], pace) / _side_by_side(point.params, at_once)
    return Expected(
        seconds / 3600,
        sum(spec.gigabytes for spec in loaded_down),
        sum(spec.gigabytes * spec.kept for spec in missing),
        {spec.name: spec.step or spec.page for spec in missing if spec.had == "by hand"},
        untimed,
    )


def seconds_of(point: Point, size: Size, pace: Pace) -> float:
    """Of a point on one data set: all of its trainings, each adapter tested."""
    params = point.params
    seeds = len(params.fewshot.seeds)
    turns = 1 if params.parallel_seeds else seeds
    training = sum(
        looked_at(params, one, size.classes) * pace.of_picture(_classes(one, size.classes)) for one in point.trainings
    )
    return turns * training + (1 + seeds * len(point.trainings)) * size.tested * pace.testing


def looked_at(params: Params, training: Training, classes: int) -> int:
    """Pictures that a training of one seed is shown, over all epochs."""
    train, once = params.effective["train"], _classes(training, classes) * training.shots
    if methods.get(params.method).kind not in ("prompts", "lora"):
        return once
    if epochs := training.epochs or train["epochs"]:
        return int(once * epochs)
    return int(train["steps_per_shot"] * training.shots * train["batch_size"])


def size_of(root: Path, name: str, params: Params) -> Size:
    """From the manifest where it is fetched, otherwise from what is known of the data set."""
    try:
        manifest = inputs.fetched(root, name).manifest
        return Size(len(manifest.classes), len(manifest.of("test")))
    except MmlopError:
        classes = datasets.get(name, params).classes or 0
        tested = public.SPECS[name].counts[2] if name in public.SPECS else classes * params.data.per_class.test
        return Size(classes, tested)


def pace_of(params: Params) -> Pace:
    """Timed once for each method, backbone and device."""
    key = (params.method, params.profile.model_dump_json(), params.device, params.parallel_seeds)
    if key not in _paces:
        _paces[key] = _timed(params)
    return _paces[key]


_paces: dict[tuple[object, ...], Pace] = {}


class _Untimed(MmlopError):
    """A method that could not be timed."""


def _timed(params: Params) -> Pace:
    backbone = inputs.loaded(params)
    torch.set_num_threads(inputs.threads(params))
    seeds = params.fewshot.seeds if params.parallel_seeds else params.fewshot.seeds[:1]
    with tempfile.TemporaryDirectory(prefix="mmlop-pace-") as folder:
        try:
            seconds = tuple(_training(params, backbone, seeds, Path(folder) / str(count), count) for count in SIZES)
        except MmlopError as error:
            raise _Untimed(str(error)) from error
    pictures = torch.zeros(SHOWN, 3, *(backbone.preprocessing.size,) * 2, dtype=torch.uint8)
    started = 0.0
    for _ in range(2):
        started = time.monotonic()
        image_features(backbone, pictures).cpu()
    return Pace((seconds[0], seconds[1]), (time.monotonic() - started) / SHOWN)


def _training(params: Params, backbone: Backbone, seeds: tuple[int, ...], folder: Path, classes: int) -> float:
    """Seconds for each picture that a short training on noise is shown, all ``seeds`` together."""
    batch: int = params.effective["train"]["batch_size"]
    shots = math.ceil(STEPS * batch / classes)
    short: Overrides = {"fewshot.shots": shots, "protocols.few_shot.shots": []}
    gradient = methods.get(params.method).kind in ("prompts", "lora")
    if gradient:
        short |= {"train.epochs": EPOCHS, "train.steps_per_shot": None, "train.warmup_epochs": 1, "train.compile": False}
    params = points.overridden(params.model_dump(mode="json"), seeds, short)
    data = _noise(folder, _names(backbone, classes), shots, backbone.preprocessing.size)
    bench = Bench(params, backbone, data, splits.make(data.manifest, [shots], seeds))
    ends: list[float] = []
    _ = bench.anchors
    started = time.monotonic()
    bench.train(Training(ALL_CLASSES, shots), seeds, bench.labels, lambda *_: ends.append(time.monotonic()))
    shown = classes * shots
    return (ends[-1] - ends[0]) / (shown * (EPOCHS - 1)) if gradient else (time.monotonic() - started) / shown


def _noise(folder: Path, names: tuple[str, ...], shots: int, side: int) -> Fetched:
    """A data set of training pictures that show nothing."""
    random, rows = np.random.default_rng(0), []
    folder.mkdir()
    for label in range(len(names)):
        for number in range(shots):
            file = folder / f"{label}-{number}.jpg"
            coarse = random.integers(0, 256, (12, 16, 3), dtype=np.uint8)
            Image.fromarray(coarse).resize((2 * side, 3 * side // 2)).save(file)
            rows.append(Picture(file.name, label, "train", content_of(file.read_bytes())))
    return Fetched(Manifest("noise", names, "a photo of a {}.", "none", "made up", tuple(rows)), folder)


def _names(backbone: Backbone, count: int) -> tuple[str, ...]:
    """Class names that the backbone knows the words of."""
    if backbone.known_tokens is None:
        import open_clip

        return tuple(open_clip.IMAGENET_CLASSNAMES[:count])
    from mmlop.data.mini.benchmark import TASKS

    return tuple(dict.fromkeys(name for task in TASKS.values() for name in task.classes))[:count]


def _classes(training: Training, classes: int) -> int:
    return len(splits.halves(classes)[0]) if training.base_only else classes


def _is_missing(root: Path, name: str) -> bool:
    """Whether pictures of a public data set seem to be wanting on this machine."""
    if name not in public.SPECS or (root / "data" / name / "manifest.json").exists():
        return False
    return not public.pictures(public.SPECS[name], public.home()).exists()


def _side_by_side(params: Params, workers: int) -> int:
    """How many workers do not slow one another down: as many as have a processor each, and one on a GPU."""
    cores = os.cpu_count() or 1
    return max(1, min(workers, cores // (params.threads or cores))) if params.device == "cpu" else 1


def _hours(hours: float) -> str:
    """
    >>> _hours(0.01), _hours(0.2), _hours(31.7)
    ('a minute', '12 minutes', '32 hours')
    """
    if hours < 1.5 / 60:
        return "a minute"
    if hours < 1:
        return f"{round(60 * hours)} minutes"
    return f"{hours:.0f} hours" if hours >= 10 else f"{hours:.1f} hours"
