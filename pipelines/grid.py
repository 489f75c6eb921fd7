"""A grid of params.yaml, measured: a Prefect task for each point and data set, whose result is on disk once it has ended.

`mmlop benchmark GRID`, or `python -m pipelines.benchmark GRID`. What is on disk under the same key is not measured again.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.task_runners import ProcessPoolTaskRunner, ThreadPoolTaskRunner

from mmlop import cache, config, configured, costs, grid_tracking, inputs, measuring, points, tracking
from mmlop.config import Params
from mmlop.costs import Expected
from mmlop.data import datasets, public
from mmlop.errors import MmlopError
from mmlop.files import dump_json, write_json
from mmlop.measuring import Job
from mmlop.points import Plan, Point, Refused
from pipelines import server, stage, turns, workspace
from pipelines.progress import bars
from pipelines.train import not_a_users_mistake

logger = logging.getLogger(__name__)

# What draws the rendered data sets.
PAINTING = tuple(
    f"data/mini/{name}.py"
    for name in ("benchmark", "cues", "looks", "objects", "painters", "surfaces", "variants", "world")
)


class WorkerDied(MmlopError):
    """A process that measured was ended from outside. What others have measured is on disk."""


@dataclass(frozen=True)
class Planned:
    """A grid before it is run."""

    plan: Plan
    pending: tuple[tuple[Point, str], ...]  # what is not measured yet, as far as can be told before data are fetched
    workers: int

    @property
    def total(self) -> int:
        return len(self.plan.points) * len(self.plan.datasets)


def planned(name: str, params: Params, workers: int | None = None, checked: bool = True) -> Planned:
    """What there is to do. With ``checked``, backbones are loaded to see whether the points fit into them; without, only
    those that are on this machine.

    Raises MmlopError for an unknown grid, data set or key, for a cluster, and with ``checked`` for a backbone or a device
    that cannot be used.
    """
    if params.run.runner == "dask" and workers is None:
        raise MmlopError(
            "run.runner is dask, but grids are measured on this machine: set it to threads or processes, or say how many "
            "processes with --workers."
        )
    plan = fitting(points.plan(name, params), checked)
    return Planned(plan, measuring.pending(config.root(), plan), workers or params.run.concurrency)


def fitting(plan: Plan, checked: bool) -> Plan:
    """The plan with those points refused that do not fit into their backbones."""
    fitting, refused = [], list(plan.refused)
    for point in plan.points:
        if checked or inputs.is_here(point.params):
            backbone = inputs.loaded(point.params)
            try:
                configured.shape(point.params, backbone)
            except MmlopError as error:
                refused.append(Refused(point.label, point.overrides, str(error)))
                continue
        fitting.append(point)
    return replace(plan, points=tuple(fitting), refused=tuple(refused))


def run(found: Planned, params: Params, agree: Callable[[Expected], None]) -> None:
    """Fetch the data, measure what is not measured yet, and log it to MLflow. ``agree`` is told beforehand what to expect,
    and raises MmlopError where that is too much.

    Raises MmlopError with a sentence for each point and data set that failed, after all others have been measured.
    """
    root, plan = config.root(), found.plan
    with turns.alone(root / ".mmlop" / f"benchmark-{plan.name}.lock", f"run of the grid {plan.name}"):
        if found.pending:
            agree(costs.expected(root, plan, params, found.pending, found.workers))
        fetch(root, plan, params)
        if missing(root, plan):
            with server.running() as url, temporary_settings({PREFECT_API_URL: url, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
                _persist(plan.name, found.workers, params.run.retries)
        else:
            log_all(root, plan)


def missing(root: Path, plan: Plan) -> list[Job]:
    """What no grid has measured yet; what another one has is taken from there."""
    known = measuring.measured(root)
    return [job for job in measuring.jobs(root, plan) if not measuring.adopt(job, known)]


def _persist(grid: str, workers: int, retries: int) -> None:
    """The flow, and again where a worker died: all of the others end with it. Raises MmlopError as `measure_grid` does."""
    for left in reversed(range(1 + retries)):
        try:
            return _started(grid, workers)
        except WorkerDied as error:
            if not left:
                raise
            logger.warning("%s Going on with new ones.", error)


def _started(grid: str, workers: int) -> None:
    """The flow, in this process with one worker and otherwise in as many others: training is bound by Python."""
    runner: Any = ThreadPoolTaskRunner(max_workers=1)
    if workers > 1:
        runner = ProcessPoolTaskRunner(max_workers=workers, initializer=begin_worker)
    try:
        measure_grid.with_options(task_runner=runner)(grid)
    except httpx.TransportError as error:
        raise MmlopError(
            f"The Prefect server cannot be reached any more ({error}): start it and run the same command again, which "
            f"measures nothing twice."
        ) from error


def begin_worker() -> None:
    """What the parent has said of logs holds here too; and a worker ends with the parent, even where that is killed."""
    stage.hide_mistakes()
    logging.getLogger("mmlop.data.splits").setLevel(logging.ERROR)  # the parent has warned of classes with few pictures

    def follow() -> None:
        if (parent := multiprocessing.parent_process()) is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=follow, name="follow", daemon=True).start()


@task(
    task_run_name="{job.label} on {job.dataset}",
    cache_policy=NO_CACHE,
    persist_result=False,
    retry_condition_fn=not_a_users_mistake,
)
def measure(job: Job) -> str:
    """Measure a point on a data set; what came of it, in a line."""
    with turns.slot():
        result = measuring.measure(job)
    return f"{measuring.sentence(result)}, {result['seconds']:.0f} s"


@flow(name="benchmark-grid", flow_run_name="benchmark-grid-{grid}", validate_parameters=False)
def measure_grid(grid: str) -> None:
    """Measure what is missing of a grid, and log each result to MLflow as it comes in."""
    root, params = config.root(), config.load()
    plan = fitting(points.plan(grid, params), checked=True)
    jobs = missing(root, plan)
    log = log_all(root, plan)
    failed: list[str] = []
    attempt = measure.with_options(retries=params.run.retries)
    with bars() as bar:
        advance = bar(grid, len(jobs))
        futures = [attempt.submit(job) for job in jobs]
        for number, (job, future) in enumerate(zip(jobs, futures, strict=True), start=1):
            answer = _answer(future)
            if isinstance(answer, BaseException):
                failed.append(f"{job.label} on {job.dataset}: {_said(answer)}")
                logger.warning("%s", failed[-1])
            else:
                logger.info("%d of %d: %s on %s: %s", number, len(jobs), job.label, job.dataset, answer)
                log(job.file)
            advance()
    if failed:
        raise MmlopError(" ".join([f"{len(failed)} of {len(jobs)} measurements failed; the others are on disk.", *failed]))


def _answer(future: Any) -> Any:
    """What a task returned, or the exception it ended with. Raises WorkerDied for one that had no end."""
    try:
        return future.result(raise_on_failure=False)
    except BrokenExecutor as error:
        raise WorkerDied("A worker process died, most likely for want of memory (fewer --workers need less).") from error


def _said(error: BaseException) -> str:
    return str(error) if isinstance(error, MmlopError) else f"{type(error).__name__}: {error}"


def log_all(root: Path, plan: Plan) -> Log:
    """Log what an earlier run could not, or what another grid has measured; and give what to log further results with."""
    log = Log()
    for job in measuring.jobs(root, plan):
        log(job.file)
    return log


class Log:
    """Logs result files to MLflow. One that is not there is a warning, once, and its results are logged by a later run."""

    def __init__(self) -> None:
        self.client: Any = None
        self.lineage: dict[str, str] = {}
        self.down = False

    def __call__(self, file: Path) -> None:
        """Log a result that is in no run yet."""
        result = measuring.read(file)
        if self.down or result is None or result["mlflow_run"]:
            return
        try:
            if self.client is None:
                self.client, self.lineage = tracking.connect(), tracking.lineage()
            grid_tracking.log(self.client, file, self.lineage)
        except tracking.TrackingUnavailable as error:
            self.down = True
            cause = str(error).partition(": results stay")[0]
            logger.warning("%s: results are on disk, and the same command logs them once it can.", cause)


# ---- data ----


def fetch(root: Path, plan: Plan, params: Params) -> None:
    """What is not there of the data sets. Those that params.yaml lists are DVC's, which also sees what changed."""
    stages = dict.fromkeys(params.datasets, "fetch") | dict.fromkeys(params.test_sets, "fetch_test")
    if listed := [f"{stages[name]}@{name}" for name in plan.datasets if name in stages]:
        workspace.repro(*listed)
    for name in plan.datasets:
        if name not in stages and _wanted(root, name, params):
            logger.info("%s: fetching", name)
            datasets.fetch(datasets.get(name, params), root / "data" / name)
            write_json(_note(root, name), _settings(params))
    inputs.forget()


def _wanted(root: Path, name: str, params: Params) -> bool:
    """Whether a data set outside the pipeline has to be fetched: it is not there, or may be another one by now."""
    if not (root / "data" / name / "manifest.json").exists() or name in params.sources:
        return True
    if name in public.SPECS:
        return inputs.fetched(root, name).manifest.split == "own" and name not in params.data.own_split
    note = _note(root, name)
    return not note.exists() or note.read_text(encoding="utf-8") != dump_json(_settings(params))


def _note(root: Path, name: str) -> Path:
    return root / ".mmlop" / "fetched" / f"{name}.json"


def _settings(params: Params) -> dict[str, Any]:
    """What a rendered data set is made by."""
    return {"data": params.data.model_dump(mode="json"), "code": cache.sources(*PAINTING)}


# ---- a word before it starts ----


def agreement(yes: bool) -> Callable[[Expected], None]:
    """Says what a grid is expected to take, and asks before a long one, unless ``yes``."""

    def agree(expected: Expected) -> None:
        print(f"Expected: {expected}.", file=sys.stderr)
        if yes or not expected.much:
            return
        if not sys.stdin.isatty():
            raise MmlopError(f"That is much, and nobody is here to be asked: say --yes to start it ({expected}).")
        print("Start it? [y/N] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise MmlopError("Nothing was started.")

    return agree
