"""Trainings by the workers of a Dask cluster in other clones (pipelines/elsewhere.py), as seen by the clone that asks.

What would make them fail, or lose what they make, is found before the first one is asked for.
"""

from __future__ import annotations

import logging
import os
import re
import subprocess
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import yaml
from prefect import task
from prefect.cache_policies import NO_CACHE

from mmlop import config
from mmlop.config import Params
from mmlop.errors import MmlopError
from pipelines import elsewhere, workspace
from pipelines.elsewhere import Order

logger = logging.getLogger(__name__)

PATIENCE = 10  # seconds until a scheduler that does not answer counts as down
# What a clone may have changed: params.yaml and dvc.lock travel with an order, the others are results.
CARRIED = ("params.yaml", "dvc.lock", "results", "reports")


@task(task_run_name="train-{order.dataset}", cache_policy=NO_CACHE, persist_result=False)
def train(order: Order) -> str:
    return elsewhere.train(order)


def runner(params: Params) -> Any:
    """Prefect's task runner for the configured cluster.

    Raises MmlopError unless every worker of it can train what this clone asks for.
    """
    try:
        from prefect_dask.task_runners import DaskTaskRunner
    except ImportError:
        raise MmlopError("run.runner is dask, which is not installed: run `pip install -e '.[dask]'`.") from None
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what matters of it is said in a sentence
    require_shared(params)
    require_commit()
    require_workers(params)
    return DaskTaskRunner(address=params.run.dask)


def orders(datasets: list[str]) -> list[Order]:
    """What workers have to know to train the data sets, whose data are pushed to the remote for them."""
    root = config.root()
    workspace.push(*(f"{stage}@{dataset}" for dataset in datasets for stage in ("fetch", "split")))
    text, commit = (root / "params.yaml").read_text(encoding="utf-8"), _git("rev-parse", "HEAD").strip()
    known = yaml.safe_load((root / "dvc.lock").read_text(encoding="utf-8"))
    mlflow, prefect = os.environ["MLFLOW_TRACKING_URI"], os.environ["PREFECT_API_URL"]
    return [Order(dataset, commit, text, _lock(known, dataset), mlflow, prefect) for dataset in datasets]


def _lock(known: dict[str, Any], dataset: str) -> str:
    mine = [f"{stage}@{dataset}" for stage in ("fetch", "split", "train")]
    return yaml.safe_dump({**known, "stages": {name: known["stages"][name] for name in mine if name in known["stages"]}})


def submit(params: Params, order: Order) -> Answer:
    """Ask for a training, in the flow whose task runner is this cluster's."""
    from dask.base import annotate

    with annotate(**({"resources": params.run.resources} if params.run.resources else {})):
        return Answer(order.dataset, train.with_options(tags=[order.dataset]).submit(order))


class Answer:
    """What becomes of an order, even where that is nothing."""

    def __init__(self, dataset: str, future: Any) -> None:
        self.dataset, self.future = dataset, future

    def result(self, raise_on_failure: bool = False) -> Any:
        """Where the data set was trained, or the exception."""
        from distributed.scheduler import KilledWorker

        try:
            return self.future.result(raise_on_failure=raise_on_failure)
        except KilledWorker as error:
            return MmlopError(
                f"{self.dataset} was given up after the death of as many Dask workers as are allowed ({error})"
            )
        except CancelledError:
            return MmlopError(
                f"the Dask scheduler went away before {self.dataset} was trained: ask again, and what has been trained "
                f"until then comes from the DVC remote."
            )
        except Exception as error:  # of Dask itself: collected, like all failures
            return error


def require_shared(params: Params) -> None:
    """What the clones have in common: the remote, the two servers, and the files of own pictures."""
    if not workspace.has_remote():
        raise MmlopError(
            f"{config.root()} has no DVC remote, through which clones share data and results: "
            f"`dvc remote add --default NAME URL`."
        )
    if not os.environ.get("MLFLOW_TRACKING_URI", "").startswith(("http://", "https://")):
        raise MmlopError(
            "run.runner is dask, whose workers register adapters in the MLflow server that they share with this clone: "
            "set MLFLOW_TRACKING_URI to its address (http://HOST:5000)."
        )
    if not os.environ.get("PREFECT_API_URL"):
        raise MmlopError(
            "run.runner is dask, whose workers report to the Prefect server that they share with this clone: start one "
            "(`prefect server start`) and set PREFECT_API_URL to its address (http://HOST:4200/api)."
        )
    for name in params.datasets:
        source = params.sources.get(name)
        if source and not Path(str(source.folder or source.table)).expanduser().is_absolute():
            raise MmlopError(
                f"sources.{name} is at {source.folder or source.table}, a path that starts at this clone: Dask workers "
                f"need an absolute one that is the same on every machine."
            )
    if why := elsewhere.trouble(os.environ["MLFLOW_TRACKING_URI"], os.environ["PREFECT_API_URL"]):
        raise MmlopError(f"{why}.")


def require_commit() -> None:
    """Workers check out the commit: what differs from it would be trained without."""
    excluded = [f":(exclude){name}" for name in CARRIED]
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", *excluded)
    changed += _git("status", "--porcelain", "--untracked-files=all", "--", "mmlop", "pipelines")
    if files := sorted({line[3:] for line in changed.splitlines()}):
        more = f" and {len(files) - 1} more" if len(files) > 1 else ""
        raise MmlopError(f"{files[0]}{more} changed since the last commit, which is what Dask workers train: commit first.")


def require_workers(params: Params) -> None:
    """Raises MmlopError if the scheduler does not answer, or a worker would fail, or none has the resources."""
    mlflow, prefect = os.environ["MLFLOW_TRACKING_URI"], os.environ["PREFECT_API_URL"]
    with _connected(str(params.run.dask)) as client:
        found = client.run(elsewhere.state, mlflow, prefect, on_error="return")
    if not found:
        raise MmlopError(f"the Dask scheduler at {params.run.dask} has no workers yet: start some (docs/scaling.md).")
    for address, answer in found.items():
        if isinstance(answer, BaseException):
            raise MmlopError(f"the Dask worker at {address} could not answer ({answer!r}): does it run in a clone's venv?")
        if answer[0]:
            raise MmlopError(f"the Dask worker at {address} cannot train: {answer[0]}.")
    wanted = params.run.resources
    if not any(all(offers.get(name, 0) >= amount for name, amount in wanted.items()) for _, offers in found.values()):
        asked = " ".join(f"{name}={amount:g}" for name, amount in wanted.items())
        raise MmlopError(f"no Dask worker offers run.resources: start some with `dask worker --resources {asked}`.")


def _connected(address: str) -> Any:
    from distributed import client

    connect: Any = client.Client
    try:
        if not re.fullmatch(r"[a-z]+://.+:[0-9]+", address):  # on which Dask would be busy for a while
            raise ValueError(address)
        return connect(address, timeout=PATIENCE, set_as_default=False)
    except (OSError, ValueError):
        raise MmlopError(
            f"no Dask scheduler answers at {address} (run.dask): start one (docs/scaling.md), or correct its address "
            f"(tcp://HOST:8786)."
        ) from None


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=config.root(), capture_output=True, text=True)
    if done.returncode:
        raise MmlopError(f"`git {' '.join(arguments)}` failed in {config.root()}: {' '.join(done.stderr.split())}")
    return done.stdout
