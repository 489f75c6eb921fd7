"""Stage `train` and the Prefect flow of a data set: every seed trained and measured, the best adapter published."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.runtime import flow_run
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.task_runners import ThreadPoolTaskRunner

from mmlop import config, experiment, results
from mmlop.data.splits import Split
from mmlop.errors import MmlopError
from mmlop.experiment import Bench
from mmlop.results import SeedResult
from pipelines import stage
from pipelines.progress import Advance, bars

logger = logging.getLogger(__name__)

IN_EXPERIMENT = "DVC_EXP_BASELINE_REV" in os.environ  # set by `dvc exp run`, whose adapters are logged but never registered


def not_a_users_mistake(task: Any, run: TaskRun, state: State[Any]) -> bool:
    """Retry crashes and lost connections, not what would fail again in the same words."""
    return not isinstance(state.result(raise_on_failure=False), MmlopError)


@task(
    task_run_name="{dataset}-seed-{seed}",
    cache_policy=NO_CACHE,
    persist_result=False,
    retry_condition_fn=not_a_users_mistake,
)
def train_seed(dataset: str, seed: int, bench: Bench, advance: Advance) -> SeedResult:
    """Both trainings of one seed: on the base classes for the report, on all classes for the deliverable."""
    if bench.params.threads:
        torch.set_num_threads(bench.params.threads)  # holds for the calling thread
    metrics, history = bench.base_to_novel(seed, advance)
    return SeedResult(metrics, history, bench.all_classes(seed, advance))


@task(cache_policy=NO_CACHE, persist_result=False)
def publish(dataset: str, run_folder: Path) -> str:
    """Log the run to MLflow and, unless this is an experiment, register its adapter and let the champion rule decide."""
    from mmlop import registry, tracking

    lineage = tracking.lineage() | {"flow_run_id": str(flow_run.get_id() or "")}
    try:
        return registry.publish(run_folder, lineage, register=not IN_EXPERIMENT).sentence
    except tracking.TrackingUnavailable as error:
        return f"{dataset}: warning: {error}"


def show(dataset: str, run: results.Run) -> None:
    """A table of the results beside the flow run. A server that went away meanwhile must not cost the training."""
    try:
        key = f"train-{dataset.replace('_', '-')}"
        create_table_artifact(results.table(run), key=key, description=f"{dataset}, percent")
    except Exception as error:
        logger.warning("%s: Prefect could not keep the table of results (%s)", dataset, error)


@flow(name="train", flow_run_name="train-{dataset}", validate_parameters=False)
def train(dataset: str) -> None:
    """Train, measure and publish one data set with the configured backbone, method and seeds."""
    root, params = config.root(), config.load()
    if params.threads:
        torch.set_num_threads(params.threads)
    split = Split.load(root / "splits" / f"{dataset}.json")
    bench = Bench(params, experiment.load_backbone(params), root / "data" / dataset, split)
    bench.checkpoints = root / ".mmlop" / "checkpoints" / dataset
    bench.load()
    with bars() as bar:
        futures = {}
        for seed in params.fewshot.seeds:
            attempt = train_seed.with_options(retries=params.run.retries, tags=[dataset, f"seed-{seed}", params.backbone])
            advance = bar(f"{dataset} seed {seed}", 2 * bench.recipe.epochs)
            futures[seed] = attempt.submit(dataset, seed, bench, advance)
        seeds = stage.gather(futures)
    run = results.write(root, bench, seeds)
    show(dataset, run)
    logger.info("%s: %s", dataset, results.sentence(run))
    logger.info(publish(dataset, root / "runs" / dataset))
    shutil.rmtree(bench.checkpoints, ignore_errors=True)  # last: until here a failure costs no training


def main(dataset: str) -> None:
    # Seeds side by side as threads: torch computes outside Python's lock, and the data set is in memory once.
    runner: Any = ThreadPoolTaskRunner(max_workers=config.load().profile.seeds_at_once)
    # A flow of seconds needs no heartbeat, and ending its thread would cost one more.
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        train.with_options(task_runner=runner)(dataset)


if __name__ == "__main__":
    stage.run("train", main)
