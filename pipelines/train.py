"""Stage `train` and the Prefect flow of a data set: every seed trained and measured, the best adapter published."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Any

import httpx
import torch
from prefect import Flow, flow, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.runtime import flow_run
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.task_runners import ThreadPoolTaskRunner

from mmlop import config, configured, protocols, results, system_metrics
from mmlop.config import Params
from mmlop.data import datasets
from mmlop.data.splits import Split
from mmlop.errors import MmlopError
from mmlop.experiment import Bench, Trained
from mmlop.protocols import Training
from pipelines import signals, stage, turns
from pipelines.progress import Advance, bars

logger = logging.getLogger(__name__)

IN_EXPERIMENT = "DVC_EXP_BASELINE_REV" in os.environ  # set by `dvc exp run`, whose adapters are logged but never registered


def not_a_users_mistake(task: Any, run: TaskRun, state: State[Any]) -> bool:
    """Retry crashes and lost connections, not what would fail again in the same words."""
    return not isinstance(state.result(raise_on_failure=False), MmlopError)


@task(
    task_run_name="{dataset}-seeds-{named}",
    cache_policy=NO_CACHE,
    persist_result=False,
    retry_condition_fn=not_a_users_mistake,
)
def train_group(
    dataset: str, named: str, seeds: tuple[int, ...], bench: Bench, trainings: list[Training], advance: Advance
) -> dict[int, list[Trained]]:
    """Every training of some seeds, which go through the model together."""
    if bench.params.threads:
        torch.set_num_threads(bench.params.threads)  # holds for the calling thread
    with turns.slot():
        found = [bench.run(training, seeds, advance) for training in trainings]
    return {seed: [trained[seed] for trained in found] for seed in seeds}


def load_bench(dataset: str, params: Params) -> Bench:
    """The configured backbone and a fetched and split data set."""
    root = config.root()
    if params.threads:
        torch.set_num_threads(params.threads)
    split = Split.load(root / "splits" / f"{dataset}.json")
    return Bench(params, configured.load_backbone(params), datasets.fetched(dataset, params), split)


def train_seeds(bench: Bench, trainings: list[Training]) -> dict[int, list[Trained]]:
    """A task per group of seeds, one after another. Part of a flow."""
    params = bench.params
    groups = [params.fewshot.seeds] if params.parallel_seeds else [(seed,) for seed in params.fewshot.seeds]
    epochs = sum(training.epochs or bench.recipe.epochs for training in trainings)
    with bars() as bar:
        futures = {}
        for seeds in groups:
            named = "-".join(map(str, seeds))
            tags = [bench.name, f"seeds-{named}", params.backbone]
            attempt = train_group.with_options(retries=params.run.retries, tags=tags)
            advance = bar(f"{bench.name} seeds {named}", epochs)
            futures[seeds] = attempt.submit(bench.name, named, seeds, bench, trainings, advance)
        return {seed: trained for found in stage.gather(futures).values() for seed, trained in found.items()}


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


@flow(
    name="train",
    flow_run_name="train-{dataset}",
    validate_parameters=False,
    on_completion=[signals.sign_off],
    on_failure=[signals.sign_off],
)
def train(dataset: str) -> None:
    """Train, measure and publish one data set by the configured protocols, backbone, method and seeds."""
    root, params = config.root(), config.load()
    bench = load_bench(dataset, params)
    bench.checkpoints = root / ".mmlop" / "checkpoints" / dataset
    with turns.slot():
        bench.load()
    with system_metrics.sampled(root / "runs" / dataset, params.run.system_metrics):
        seeds = train_seeds(bench, protocols.trainings(params, bench.has_parts))
        run = results.write(root, bench, seeds)
    show(dataset, run)
    logger.info("%s: %s", dataset, results.sentence(run))
    logger.info(publish(dataset, root / "runs" / dataset))


def running(started: Flow[..., None], *arguments: str) -> None:
    """Run a flow whose tasks take turns: each fills the machine by itself."""
    runner: Any = ThreadPoolTaskRunner(max_workers=1)
    # Ending the thread of heartbeats costs a second: they are left to scheduled runs, whose deaths somebody has to notice.
    quiet = {} if turns.scheduled() else {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}
    try:
        with temporary_settings(quiet):
            started.with_options(task_runner=runner)(*arguments)
    except httpx.TransportError as error:
        raise MmlopError(
            f"The Prefect server cannot be reached any more ({error}): start it and run the same command again, which "
            f"trains nothing twice."
        ) from error


def main(dataset: str) -> None:
    kept = config.root() / ".mmlop"
    with turns.alone(kept / f"train-{dataset}.lock", f"training of {dataset}"):
        running(train, dataset)
        # Last: until here a failure costs no training, that of Prefect to note that the flow has ended included.
        shutil.rmtree(kept / "checkpoints" / dataset, ignore_errors=True)


if __name__ == "__main__":
    stage.run("train", main)
