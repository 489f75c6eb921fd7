"""The Prefect flow of a grid: a task for each point and data set that is missing. Once it has ended, its result is on disk.

A process of its own, `python -m pipelines.grid_flow GRID WORKERS`, started by pipelines/grid.py, which it does not outlive.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor
from typing import Any

import httpx
from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.task_runners import ProcessPoolTaskRunner, ThreadPoolTaskRunner

from mmlop import config
from mmlop.errors import MmlopError
from mmlop.grids import inputs, measuring, points
from mmlop.grids.measuring import Job
from mmlop.grids.tracking import log_all
from pipelines import stage, turns
from pipelines.progress import bars
from pipelines.train import not_a_users_mistake

logger = logging.getLogger(__name__)


class WorkerDied(MmlopError):
    """A process that measured was ended from outside. What others have measured is on disk."""


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
        with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):  # its thread takes a second to end
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

    if (parent := multiprocessing.parent_process()) is not None:
        follow(parent.join)


def follow(ended: Callable[[], object]) -> None:
    """End this process at once when ``ended``, which waits for the one that started it, comes back."""

    def wait() -> None:
        ended()
        os._exit(1)

    threading.Thread(target=wait, name="follow", daemon=True).start()


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
    return f"{measuring.sentence(result)}, {result.seconds:.0f} s"


@flow(name="benchmark-grid", flow_run_name="benchmark-grid-{grid}", validate_parameters=False)
def measure_grid(grid: str) -> None:
    """Measure what is missing of a grid, and log each result to MLflow as it comes in."""
    root, params = config.root(), config.load()
    plan = inputs.fitting(points.plan(grid, params))
    jobs = measuring.missing(root, plan)
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
                log(job)
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


def main(grid: str, workers: str) -> int:
    """What failed goes to standard output, for pipelines/grid.py to say at the end."""
    logging.basicConfig(level="WARNING", format="%(message)s", handlers=[stage.Stderr()], force=True)
    logger.setLevel("INFO")
    stage.hide_mistakes()
    follow(lambda: os.read(sys.stdin.fileno(), 1))
    try:
        _persist(grid, int(workers), config.load().run.retries)
    except MmlopError as error:
        print(error)
        return 1
    return 0


if __name__ == "__main__":
    from pipelines import grid_flow  # tasks of `__main__` would travel to workers by value

    raise SystemExit(grid_flow.main(*sys.argv[1:]))
