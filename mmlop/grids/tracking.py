"""Measurements of grids, logged to MLflow: a run each, tagged with the measurement's key, and nothing registered."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mmlop import tracking
from mmlop.evaluation import summarise
from mmlop.grids import measuring
from mmlop.grids.measurements import Measurement
from mmlop.grids.measuring import Job
from mmlop.grids.points import Plan
from mmlop.protocols import FEW_SHOT
from mmlop.store import TrackingUnavailable, answering

logger = logging.getLogger(__name__)

KEY = "mmlop.run"  # the tag


def log_all(root: Path, plan: Plan) -> Log:
    """Log what an earlier run could not, or what another grid has measured; and give what to log further results with."""
    found = Log(plan.name)
    for job in measuring.jobs(root, plan):
        found(job)
    return found


class Log:
    """Logs results of a grid to MLflow. One that is not there is a warning, once, and its results are logged by a later
    run."""

    def __init__(self, grid: str) -> None:
        self.grid = grid
        self.client: Any = None
        self.experiment = ""
        self.lineage: dict[str, str] = {}
        self.logged: dict[str, str] = {}  # runs by the keys of results
        self.down = False

    def __call__(self, job: Job) -> None:
        """Log the job's result, if there is one and no run has it."""
        if self.down or job.key in self.logged or (one := measuring.read(job.file)) is None or one.key != job.key:
            return
        try:
            with answering():
                if self.client is None:
                    self._connect()
                if one.key not in self.logged:
                    self.logged[one.key] = _new(self.client, self.experiment, one, self.lineage)
        except TrackingUnavailable as error:
            self.down = True
            cause = str(error).partition(": results stay")[0]
            logger.warning("%s: results are on disk, and the same command logs them once it can.", cause)

    def _connect(self) -> None:
        """Runs that were left half logged are deleted."""
        client, self.lineage = tracking.connect(), tracking.lineage()
        self.experiment = tracking.experiment_of(client, _name(self.grid))
        found = list(_runs(client, self.experiment))
        for run in found:
            if run.data.tags.get("mmlop.complete") != "true":
                client.delete_run(run.info.run_id)
        self.logged, self.client = _by_key(found), client


def runs(client: Any, grid: str) -> tuple[str, dict[str, str]]:
    """The experiment of a grid and its runs by the keys of results, by one query; none where nothing has been logged.

    Raises TrackingUnavailable if MLflow cannot be used.
    """
    with answering():
        experiment = client.get_experiment_by_name(_name(grid))
        if experiment is None:
            return "", {}
        return str(experiment.experiment_id), _by_key(_runs(client, str(experiment.experiment_id)))


def _name(grid: str) -> str:
    return f"mmlop-benchmark-{grid}"


def _by_key(found: Iterable[Any]) -> dict[str, str]:
    complete = [run for run in found if run.data.tags.get("mmlop.complete") == "true"]
    return {run.data.tags[KEY]: str(run.info.run_id) for run in complete if KEY in run.data.tags}


def _runs(client: Any, experiment: str) -> Iterator[Any]:
    token = None
    while True:
        page = client.search_runs([experiment], max_results=1000, page_token=token)
        yield from page
        if not (token := page.token):
            return


def _new(client: Any, experiment: str, one: Measurement, lineage: Mapping[str, str]) -> str:
    about = {name: getattr(one, name) for name in ("grid", "point", "dataset", "method", "data_hash", "split_hash")}
    tags = {f"mmlop.{name}": str(value) for name, value in {**lineage, **about}.items()} | {KEY: one.key}
    if "git_commit" in lineage:
        tags["mlflow.source.git.commit"] = lineage["git_commit"]
    run_id = str(client.create_run(experiment, tags=tags, run_name=f"{one.point} {one.dataset}").info.run_id)
    own = one.model_dump(include={"overrides", "trainable", "split", "dataset"})
    tracking.log_params(client, run_id, one.settings | own)
    tracking.log_metrics(client, run_id, [(name, value, 0) for name, value in _metrics(one).items()])
    client.set_terminated(run_id)
    client.set_tag(run_id, "mmlop.complete", "true")
    return run_id


def _metrics(one: Measurement) -> dict[str, float | None]:
    """`seed_1/base_to_novel/hm`, its mean over seeds as `summary/base_to_novel/hm`, and the baseline as `zero_shot/hm`."""
    by_seed: dict[int, dict[str, float]] = {}
    for seed, trained in one.seeds.items():
        for each in trained:
            part = f"{each.protocol}_{each.shots}" if each.protocol == FEW_SHOT else each.protocol
            by_seed.setdefault(seed, {}).update({f"{part}/{name}": value for name, value in each.metrics.items()})
    found = {f"seed_{seed}/{name}": value for seed, values in by_seed.items() for name, value in values.items()}
    found |= {f"summary/{name}": value for name, value in summarise(by_seed.values()).items()}
    found |= {f"zero_shot/{name}": value for name, value in one.zero_shot.items()}
    return found | {"seconds": one.seconds, "gigabytes": one.gigabytes}
