"""What a point of a grid is worth on a data set: measured once, and found again by a key of everything that decides it.

results/benchmark/<grid>/<point>/<dataset>.json holds one measurement: what was set, what came out for every seed, what the
frozen CLIP reaches on the same pictures, and what it took.
"""

from __future__ import annotations

import importlib
import json
import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from mmlop.config import Params
from mmlop.errors import MmlopError
from mmlop.experiment import Bench, Trained
from mmlop.files import write_json
from mmlop.inputs import FORMAT, fetched, key, loaded, split_of
from mmlop.points import Overrides, Plan, Point
from mmlop.protocols import FEW_SHOT, Training, shots_needed
from mmlop.results import HEADLINES

logger = logging.getLogger(__name__)

SAMPLED = 0.1  # seconds between looks at the process's memory
Result = dict[str, Any]  # one measurement, as JSON holds it


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
    def labels(self) -> Result:
        """What a result says of the grid that it belongs to."""
        return {"grid": self.grid, "point": self.label, "overrides": self.overrides, "key": self.key}


def file_of(root: Path, grid: str, point: Point, dataset: str) -> Path:
    return root / "results" / "benchmark" / grid / point.folder / f"{dataset}.json"


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


def pending(root: Path, plan: Plan) -> tuple[tuple[Point, str], ...]:
    """What no grid has measured yet, as far as can be told: of data that are not fetched, everything."""
    known = measured(root)
    return tuple(
        (point, dataset)
        for point in plan.points
        for dataset in plan.datasets
        if not (root / "data" / dataset / "manifest.json").exists() or key(root, point, dataset) not in known
    )


def measured(root: Path) -> dict[str, Path]:
    """The files of all grids by key; damaged ones are left out, with a warning: they will be measured again."""
    found: dict[str, Path] = {}
    for file in sorted((root / "results" / "benchmark").glob("*/*/*.json")):
        if (result := read(file)) is not None:
            found.setdefault(str(result["key"]), file)
    return found


def read(file: Path) -> Result | None:
    """A measurement, or None for what is none."""
    try:
        result: Result = json.loads(file.read_text(encoding="utf-8"))
        if result["format"] == FORMAT and isinstance(result["key"], str) and isinstance(result["seeds"], dict):
            return result
        why = f"format {result['format']}"
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        why = repr(error)
    logger.warning("%s is no measurement (%s): measured again", file, why)
    return None


def adopt(job: Job, known: dict[str, Path]) -> bool:
    """Whether the job's result is there; one that another grid or another label has is copied under this one's."""
    if (file := known.get(job.key)) is None or (result := read(file)) is None:
        return False
    if file != job.file or any(result[name] != value for name, value in job.labels.items()):
        # A run of MLflow is of the grid that measured it.
        write_json(job.file, result | job.labels | {"mlflow_run": result["mlflow_run"] if file == job.file else None})
    return True


def missing(root: Path, plan: Plan) -> list[Job]:
    """What no grid has measured yet, of fetched data; what another grid has is taken from there."""
    known = measured(root)
    return [job for job in jobs(root, plan) if not adopt(job, known)]


def measure(job: Job) -> Result:
    """Train and test every seed, and write the result. A training that was interrupted goes on from its last epoch.

    Raises MmlopError where the data are not those that the job was made for, and what trainings raise.
    """
    params = job.params
    if params.threads:
        torch.set_num_threads(params.threads)  # holds for the calling thread
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
    result = job.labels | _described(bench, found) | {"seconds": round(seconds, 2), "gigabytes": round(peak(), 2)}
    write_json(job.file, result)
    shutil.rmtree(bench.checkpoints, ignore_errors=True)
    return result


def _train(bench: Bench, trainings: tuple[Training, ...], seeds: tuple[int, ...]) -> dict[int, list[Trained]]:
    groups = [seeds] if bench.params.parallel_seeds else [(seed,) for seed in seeds]
    found = [bench.run(training, group) for training in trainings for group in groups]
    return {seed: [trained[seed] for trained in found if seed in trained] for seed in seeds}


def _described(bench: Bench, seeds: dict[int, list[Trained]]) -> Result:
    manifest, first = bench.manifest, next(iter(seeds.values()))[0]
    return {
        "format": FORMAT,
        "dataset": bench.name,
        "method": bench.params.method,
        "part": bench.part,
        "shots": bench.params.fewshot.shots,
        "settings": bench.params.resolved(),
        "trainable": first.adapter.shape.trainable,
        "source": manifest.source,
        "licence": manifest.licence,
        "split": manifest.split,
        "data_hash": manifest.hash,
        "split_hash": bench.split.hash,
        "backbone": first.adapter.info.backbone.model_dump(mode="json"),
        "mode": first.adapter.info.origin.mode,
        "base": [manifest.classes[label] for label in bench.split.base],
        "novel": [manifest.classes[label] for label in bench.split.novel],
        "zero_shot": bench.zero_shot(),
        "seeds": {
            str(seed): [
                {
                    "protocol": one.training.protocol,
                    "shots": one.training.shots,
                    "epochs": len(one.history),
                    "metrics": one.metrics,
                    "shown": one.shown,
                }
                for one in trained
            ]
            for seed, trained in seeds.items()
        },
        "mlflow_run": None,
    }


def sentence(result: Result) -> str:
    """The means over seeds in a line."""
    found: dict[str, list[float]] = {}
    for trained in result["seeds"].values():
        for one in trained:
            at = f" at {one['shots']} shots" if one["protocol"] == FEW_SHOT else ""
            for name in HEADLINES:
                if name in one["metrics"]:
                    found.setdefault(f"{name}{at}", []).append(one["metrics"][name])
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
