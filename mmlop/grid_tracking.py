"""Measurements of grids, logged to MLflow: a run each, and nothing registered."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmlop import measuring, tracking
from mmlop.errors import MmlopError
from mmlop.evaluation import summarise
from mmlop.files import write_json
from mmlop.measuring import Result
from mmlop.points import Plan
from mmlop.protocols import FEW_SHOT
from mmlop.store import answering

logger = logging.getLogger(__name__)


def log_all(root: Path, plan: Plan) -> Log:
    """Log what an earlier run could not, or what another grid has measured; and give what to log further results with."""
    found = Log()
    for job in measuring.jobs(root, plan):
        found(job.file)
    return found


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
            log(self.client, file, self.lineage)
        except tracking.TrackingUnavailable as error:
            self.down = True
            cause = str(error).partition(": results stay")[0]
            logger.warning("%s: results are on disk, and the same command logs them once it can.", cause)


def log(client: Any, file: Path, lineage: Mapping[str, str]) -> str:
    """Log a result file as a run of the experiment `mmlop-benchmark-<grid>`, and note the run's id in the file; the same
    result twice is one run. ``lineage`` becomes tags ``mmlop.<key>``.

    Raises MmlopError if the file is no result, TrackingUnavailable if MLflow cannot be used.
    """
    if (result := measuring.read(file)) is None:
        raise MmlopError(f"{file} is no measurement: run `mmlop benchmark` again.")
    key = _key(result)
    with answering():
        experiment = tracking.experiment_of(client, f"mmlop-benchmark-{result['grid']}")
        run_id = _complete(client, experiment, key) or _new(client, experiment, key, result, lineage)
    write_json(file, result | {"mlflow_run": run_id})
    return run_id


def _key(result: Result) -> str:
    """The same result, the same key."""
    return hashlib.sha256(json.dumps(result | {"mlflow_run": None}, sort_keys=True).encode()).hexdigest()


def _complete(client: Any, experiment: str, key: str) -> str | None:
    """The run of these results, if there is one; one that was left half logged is deleted."""
    for run in client.search_runs([experiment], f"tags.`mmlop.run` = '{key}'"):
        if run.data.tags.get("mmlop.complete") == "true":
            return str(run.info.run_id)
        client.delete_run(run.info.run_id)
    return None


def _new(client: Any, experiment: str, key: str, result: Result, lineage: Mapping[str, str]) -> str:
    about = ("grid", "point", "dataset", "method", "data_hash", "split_hash")
    tags = {f"mmlop.{name}": value for name, value in lineage.items()} | {"mmlop.run": key}
    tags |= {f"mmlop.{name}": str(result[name]) for name in about}
    if "git_commit" in lineage:
        tags["mlflow.source.git.commit"] = lineage["git_commit"]
    name = f"{result['point']} {result['dataset']}"
    run_id = str(client.create_run(experiment, tags=tags, run_name=name).info.run_id)
    tracking.log_params(
        client,
        run_id,
        result["settings"]
        | {"overrides": result["overrides"], "trainable": result["trainable"], "split": result["split"]}
        | {"dataset": result["dataset"]},
    )
    tracking.log_metrics(client, run_id, [(name, value, 0) for name, value in _metrics(result).items()])
    client.set_terminated(run_id)
    client.set_tag(run_id, "mmlop.complete", "true")
    return run_id


def _metrics(result: Result) -> dict[str, float]:
    """`seed_1/base_to_novel/hm`, its mean over seeds as `summary/base_to_novel/hm`, and the baseline as `zero_shot/hm`."""
    by_seed: dict[str, dict[str, float]] = {}
    for seed, trained in result["seeds"].items():
        for one in trained:
            part = f"{one['protocol']}_{one['shots']}" if one["protocol"] == FEW_SHOT else one["protocol"]
            by_seed.setdefault(seed, {}).update({f"{part}/{name}": value for name, value in one["metrics"].items()})
    found = {f"seed_{seed}/{name}": value for seed, values in by_seed.items() for name, value in values.items()}
    found |= {f"summary/{name}": value for name, value in summarise(by_seed.values()).items()}
    found |= {f"zero_shot/{name}": value for name, value in result["zero_shot"].items()}
    return found | {"seconds": result["seconds"], "gigabytes": result["gigabytes"]}
