"""What a point of a grid is worth on a data set: measured once, and found again by a key of everything that decides it.

results/benchmark/<grid>/<point>/<dataset>.json holds it (mmlop/grids/measurements.py).
"""

from __future__ import annotations

import importlib
import json
import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from mmlop import results
from mmlop.config import Params
from mmlop.errors import MmlopError
from mmlop.experiment import Bench, Trained
from mmlop.grids import measurements
from mmlop.grids.inputs import FORMAT, code, fetched, key, loaded, split_of, threads
from mmlop.grids.measurements import Measurement
from mmlop.grids.points import Overrides, Plan, Point
from mmlop.protocols import FEW_SHOT, Training, shots_needed
from mmlop.results import HEADLINES

logger = logging.getLogger(__name__)

SAMPLED = 0.1  # seconds between looks at the process's memory


@dataclass(frozen=True)
class Job:
    """A point to be measured on a fetched data set. It travels to the process that does it."""

    root: Path  # of the project
    grid: str
    label: str
    overrides: Overrides
    params: Params
    trainings: tuple[Training, ...]
    dataset: str
    file: Path  # for the result
    key: str
    part: str = "test"

    @property
    def labels(self) -> dict[str, Any]:
        """What a result says of the grid that it belongs to."""
        return {"grid": self.grid, "point": self.label, "overrides": self.overrides, "key": self.key}


def file_of(root: Path, grid: str, point: Point, dataset: str) -> Path:
    return root / measurements.FOLDER / grid / point.folder / f"{dataset}.json"


def jobs(root: Path, plan: Plan) -> Iterator[Job]:
    """Every point on every data set, all of which must have been fetched (else MmlopError)."""
    for point in plan.points:
        for dataset in plan.datasets:
            yield Job(
                root,
                plan.name,
                point.label,
                point.overrides,
                point.params,
                tuple(point.trainings),
                dataset,
                file_of(root, plan.name, point, dataset),
                key(root, point, dataset),
                point.part,
            )


def pending(root: Path, plan: Plan, known: Mapping[str, Path] | None = None) -> tuple[tuple[Point, str], ...]:
    """What no grid has measured yet (``known``: see `measured`), as far as can be told: of data that are not fetched,
    everything."""
    known = measured(root) if known is None else known
    return tuple(
        (point, dataset)
        for point in plan.points
        for dataset in plan.datasets
        if not (root / "data" / dataset / "manifest.json").exists() or key(root, point, dataset) not in known
    )


def measured(root: Path) -> dict[str, Path]:
    """The files of all grids by key; damaged ones are left out, with a warning: they will be measured again."""
    found: dict[str, Path] = {}
    for file in sorted((root / measurements.FOLDER).glob("*/*/*.json")):
        if (one := read(file)) is not None:
            found.setdefault(one.key, file)
    return found


def read(file: Path) -> Measurement | None:
    """A measurement; None where there is none, or, with a warning, where it is damaged."""
    try:
        return measurements.parse(file)
    except FileNotFoundError:
        return None
    except MmlopError as error:
        logger.warning("%s Until then it counts as not measured.", error)
        return None


def adopt(job: Job, known: Mapping[str, Path]) -> bool:
    """Whether the job's result is there; one that another grid or another label has is copied under this one's."""
    if (file := known.get(job.key)) is None or (one := read(file)) is None:
        return False
    labelled = one.model_copy(update=job.labels)
    if file != job.file or labelled != one:
        measurements.write(job.file, labelled)
    return True


def missing(root: Path, plan: Plan) -> list[Job]:
    """What no grid has measured yet, of fetched data; what another grid has is taken from there."""
    known = measured(root)
    return [job for job in jobs(root, plan) if not adopt(job, known)]


def measure(job: Job) -> Measurement:
    """Train and test every seed, and write the result. A training that was interrupted goes on from its last epoch.

    Raises MmlopError where the data are not those that the job was made for, and what trainings raise.
    """
    params = job.params
    torch.set_num_threads(threads(params))  # holds for the calling thread
    shots, seeds = tuple(shots_needed(params)), params.fewshot.seeds
    data, split = fetched(job.root, job.dataset), split_of(job.root, job.dataset, shots, seeds)
    bench = Bench(params, loaded(params), data, split, job.part)
    if not bench.has_parts:
        raise MmlopError(
            f"{job.dataset} has too few pictures for a test part, without which a grid has nothing to measure."
        )
    bench.checkpoints = job.root / ".mmlop" / "checkpoints" / f"benchmark-{job.key[:16]}"
    bench.load()
    with memory(params.device) as peak:
        started = time.monotonic()
        found = _train(bench, job.trainings, seeds)
        seconds = time.monotonic() - started
    result = _described(job, bench, found, round(seconds, 2), round(peak(), 2))
    measurements.write(job.file, result)
    shutil.rmtree(bench.checkpoints, ignore_errors=True)
    return result


def _train(bench: Bench, trainings: tuple[Training, ...], seeds: tuple[int, ...]) -> dict[int, list[Trained]]:
    groups = [seeds] if bench.params.parallel_seeds else [(seed,) for seed in seeds]
    found = [bench.run(training, group) for training in trainings for group in groups]
    return {seed: [trained[seed] for trained in found if seed in trained] for seed in seeds}


def _described(job: Job, bench: Bench, seeds: dict[int, list[Trained]], seconds: float, gigabytes: float) -> Measurement:
    manifest, first = bench.manifest, next(iter(seeds.values()))[0]
    own = {
        "format": FORMAT,
        "code": code(),
        "part": bench.part,
        "shots": bench.params.fewshot.shots,
        "settings": json.loads(json.dumps(bench.params.resolved())),
        "trainings": [asdict(training) for training in job.trainings],
        "source": manifest.source,
        "licence": manifest.licence,
        "split": manifest.split,
        "base": [manifest.classes[label] for label in bench.split.base],
        "novel": [manifest.classes[label] for label in bench.split.novel],
        "seconds": seconds,
        "gigabytes": gigabytes,
    }
    return Measurement.model_validate(results.described(bench, seeds, first.adapter) | job.labels | own)


def sentence(one: Measurement) -> str:
    """The means over seeds in a line."""
    found: dict[str, list[float]] = {}
    for trained in one.seeds.values():
        for each in trained:
            at = f" at {each.shots} shots" if each.protocol == FEW_SHOT else ""
            for name in HEADLINES:
                if name in each.metrics:
                    found.setdefault(f"{name}{at}", []).append(each.metrics[name])
    return ", ".join(f"{name} {mean(values):.1f}" for name, values in found.items())


# ---- what it took ----


@contextmanager
def memory(device: str) -> Iterator[Callable[[], float]]:
    """Yields what gives, after the block, the gigabytes that it took at most: of a GPU's memory those of tensors, otherwise
    of main memory all that the process had, libraries, backbone and decoded pictures included, looked at ten times a
    second."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
        yield lambda: torch.cuda.max_memory_allocated(device) / 1e9
        return
    process, over = importlib.import_module("psutil").Process(), threading.Event()
    seen = [process.memory_info().rss]

    def look() -> None:
        while not over.wait(SAMPLED):
            seen.append(max(seen.pop(), process.memory_info().rss))

    thread = threading.Thread(target=look, name="memory", daemon=True)
    thread.start()
    try:
        yield lambda: seen[0] / 1e9
    finally:
        over.set()
        thread.join()
