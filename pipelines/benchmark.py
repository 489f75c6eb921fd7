"""All data sets, several at once: `python -m pipelines.benchmark`. DVC decides what has to run, run.runner where.

With the name of a grid of params.yaml, `python -m pipelines.benchmark GRID` measures that one instead (pipelines/grid.py).
"""

from __future__ import annotations

import logging
import sys
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.task_runners import ProcessPoolTaskRunner, ThreadPoolTaskRunner

from mmlop import config
from mmlop.config import Params
from pipelines import cluster, server, stage, workspace

logger = logging.getLogger(__name__)


@task(task_run_name="train-{dataset}", cache_policy=NO_CACHE, persist_result=False)
def train(dataset: str) -> None:
    # This stage alone: several `dvc repro` that share an upstream stage would find it busy.
    workspace.repro("--single-item", f"train@{dataset}")


def train_here(datasets: tuple[str, ...]) -> None:
    """Train in this clone, as many at once as the task runner has room for. Part of a flow."""
    stage.gather({dataset: train.with_options(tags=[dataset]).submit(dataset) for dataset in datasets})


def train_elsewhere(params: Params) -> None:
    """Have other clones train what changed, and restore here what they made of it. Part of a flow."""
    changed = [dataset for dataset in params.datasets if workspace.changes(f"train@{dataset}")]
    if not changed:
        return
    answers = {order.dataset: cluster.submit(params, order) for order in cluster.orders(changed)}
    where = {dataset: answer.result() for dataset, answer in answers.items()}
    done = {dataset: place for dataset, place in where.items() if not isinstance(place, BaseException)}
    for dataset, place in done.items():
        logger.info("%s: trained by %s", dataset, place)
    if done and workspace.repro("--pull", "--single-item", *(f"train@{dataset}" for dataset in done)):
        logger.warning("what was trained elsewhere was trained here again: the DVC remote did not have it")
    stage.gather(answers)  # raises what failed, after the others are safe


@flow(name="benchmark", validate_parameters=False)
def benchmark(params: Params) -> None:
    """Fetch and split everything, train it within the limits, report. Failures are collected and raised together."""
    workspace.repro("fetch", "split")
    if params.run.runner == "dask":
        train_elsewhere(params)
    else:
        train_here(params.datasets)
    workspace.repro("report")  # and what it needs beside: adapters of transfer sources, tested on their targets


def runner(params: Params) -> Any:
    """The task runner of run.runner. Raises MmlopError if a cluster could not do the work."""
    if params.run.runner == "dask":
        return cluster.runner(params)
    kinds: dict[str, Any] = {"threads": ThreadPoolTaskRunner, "processes": ProcessPoolTaskRunner}
    return kinds[params.run.runner](max_workers=params.run.concurrency)


def main() -> None:
    params = config.load()
    started = benchmark.with_options(task_runner=runner(params))
    # In so many words: Prefect has read the environment by now.
    with server.running() as url, temporary_settings({PREFECT_API_URL: url}):
        started(params)


def measured(grid: str) -> None:
    """A grid; one that is expected to take long only if a person at the terminal agrees (`mmlop benchmark --yes`)."""
    from pipelines import grid as grids

    params = config.load()
    grids.run(grids.planned(grid, params), params, grids.agreement(yes=False))


if __name__ == "__main__":
    stage.run("benchmark", main if len(sys.argv) == 1 else measured)
